"""torch.hub: the original's entry points, from a clone."""

import copy
import importlib.util
import inspect
import io
import itertools
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from golden_cases import golden, golden_weights
from PIL import Image
from small_models import FAMILIES, randomise, small_config, small_model
from torch import nn

from conditional_detr import DetrConfig, DetrForSegmentation
from conditional_detr.checkpoints.names import to_original
from conditional_detr.models.family import family_of
from conditional_detr.original.models import OriginalDetector, OriginalSegmenter

REPOSITORY = Path(__file__).parents[1]
PUBLISHED = {"conditional_detr": "ConditionalDETR_r50_epoch50.pth", "detr": "detr-r50-e632da11.pth"}


def load(name, **options):
    return torch.hub.load(str(REPOSITORY), name, source="local", **options)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """torch.hub's cache of downloads, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def imagenet_file(tmp_path_factory):
    """Weights in the place of torchvision's, which the original starts from too."""
    file = tmp_path_factory.mktemp("imagenet") / "resnet50-0676ba61.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet50().state_dict(), file)
    return file


@pytest.fixture
def with_imagenet(hub_cache, imagenet_file):
    (hub_cache / imagenet_file.name).symlink_to(imagenet_file)
    return hub_cache


@pytest.fixture(params=[("conditional_detr", False), ("detr", False), ("detr", True)], ids=str)
def small(request):
    """A small model as the original has it, and the one inside it."""
    family, masks = request.param
    if masks:
        own = randomise(family_of(family).segmenter(small_config(family, output_stride=32)))
        return OriginalSegmenter(own).eval(), own
    own = randomise(small_model(family))
    return OriginalDetector(own).eval(), own


def test_the_originals_entry_points_are_there():
    specification = importlib.util.spec_from_file_location("hubconf_here", REPOSITORY / "hubconf.py")
    hubconf = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(hubconf)
    for name in itertools.product(FAMILIES, ("_resnet50", "_resnet101"), ("", "_dc5")):
        arguments = inspect.signature(getattr(hubconf, "".join(name))).parameters
        assert list(arguments) == ["pretrained", "num_classes", "return_postprocessor"]
    for name in ("detr_resnet50_panoptic", "detr_resnet50_dc5_panoptic", "detr_resnet101_panoptic"):
        arguments = inspect.signature(getattr(hubconf, name)).parameters
        assert list(arguments) == ["pretrained", "num_classes", "threshold", "return_postprocessor"]


@torch.no_grad()
@pytest.mark.numeric
@pytest.mark.parametrize("family", FAMILIES)
def test_published_weights_give_the_originals_outputs(family, hub_cache):
    """The golden weights stand in for the published ones, in the cache that torch.hub downloads to."""
    cases, facts = golden(f"{family}_r18")
    torch.save({"model": golden_weights(facts["parameters"])}, hub_cache / PUBLISHED[family])
    model, postprocessor = load(f"{family}_resnet50", pretrained=True, return_postprocessor=True)
    model.double()
    images = [cases["image0"], cases["image1"]]
    assert images[0].shape != images[1].shape
    outputs = model(images)
    assert list(outputs) == ["pred_logits", "pred_boxes"]
    for k in range(2):
        torch.testing.assert_close(outputs["pred_logits"][k], cases[f"logits{k}"][-1], rtol=0, atol=1e-6)
        torch.testing.assert_close(outputs["pred_boxes"][k], cases[f"boxes{k}"][-1], rtol=0, atol=1e-6)
    torch.testing.assert_close(model(images[0][None])["pred_logits"][0], outputs["pred_logits"][0], rtol=0, atol=1e-6)

    sizes = torch.tensor([[480, 640], [300, 200]])
    results = postprocessor(outputs, sizes)
    assert [list(result) for result in results] == [["scores", "labels", "boxes"]] * 2
    queries, classes = cases["logits0"].shape[-2:]
    expected = min(100, queries * classes) if family == "conditional_detr" else queries
    assert all(len(result["scores"]) == expected for result in results)
    best = results[1]["scores"].argmax()
    assert (results[1]["boxes"][best].abs() <= torch.tensor([400, 600, 400, 600])).all()
    with pytest.raises(ValueError, match="one .height, width. for each of the 2 images"):
        postprocessor(outputs, sizes[:1])

    model.detector.config.auxiliary_loss = True
    auxiliary = model(images)["aux_outputs"]
    torch.testing.assert_close(auxiliary[0]["pred_logits"][0], cases["logits0"][0], rtol=0, atol=1e-6)
    assert len(auxiliary) == 2 and list(auxiliary[0]) == ["pred_logits", "pred_boxes"]


@pytest.mark.parametrize("name", ["conditional_detr_resnet50", "detr_resnet50_dc5"])
def test_new_models_have_the_classes_asked_for_on_an_imagenet_backbone(name, with_imagenet, imagenet_file):
    model = load(name, num_classes=5)
    family = name.split("_resnet")[0]
    config = model.detector.config
    assert config.num_labels == 5 and config.dilation == name.endswith("dc5") and config.attention_dropout == 0.1
    assert model.training and type(model.detector).__name__.lower().startswith(family.replace("_", ""))
    with torch.no_grad():
        logits = model.eval()(torch.randn(1, 3, 64, 64))["pred_logits"]
    assert logits.shape == ((1, 300, 5) if family == "conditional_detr" else (1, 100, 6))
    weights = torch.load(imagenet_file, weights_only=True)
    body = model.backbone[0].body
    for part in ("conv1.weight", "layer1.0.conv1.weight", "layer4.2.bn3.weight"):
        torch.testing.assert_close(body.state_dict()[part], weights[part])
    assert not body["layer1"][0].conv1.weight.requires_grad and body["layer2"][0].conv1.weight.requires_grad
    with pytest.raises(ValueError, match="a list of"):
        model(torch.randn(3, 64, 64))


def test_a_checkpoint_in_the_originals_names_loads_into_the_module(hub_cache):
    _, facts = golden("detr_r18")
    weights = golden_weights(facts["parameters"])
    torch.save({"model": weights}, hub_cache / PUBLISHED["detr"])
    model = load("detr_resnet50", pretrained=True)
    model.load_state_dict({name: tensor + 1 for name, tensor in weights.items()})
    torch.testing.assert_close(model.class_embed.bias.data, weights["class_embed.bias"] + 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_state_dicts_have_the_originals_names(family, hub_cache):
    _, facts = golden(f"{family}_r18")
    weights = golden_weights(facts["parameters"])
    torch.save({"model": weights}, hub_cache / PUBLISHED[family])
    model = load(f"{family}_resnet50", pretrained=True)
    saved = model.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in saved.items()} == {
        name: tuple(tensor.shape) for name, tensor in weights.items()
    }
    for name, tensor in weights.items():
        assert torch.equal(saved[name], tensor), name

    class Mine(nn.Module):  # as users have it in a model of theirs
        def __init__(self):
            super().__init__()
            self.model = copy.deepcopy(model)

    mine = Mine()
    assert set(mine.state_dict()) == {f"model.{name}" for name in weights}
    mine.load_state_dict({f"model.{name}": tensor + 1 for name, tensor in weights.items()})
    torch.testing.assert_close(mine.model.query_embed.weight.data, weights["query_embed.weight"] + 1)


@torch.no_grad()
def test_weights_return_as_they_were_saved(small):
    model, own = small
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert {name.split(".")[0] for name in saved} == (
        {"detr", "mask_head", "bbox_attention"}
        if isinstance(model, OriginalSegmenter)
        else {"transformer", "backbone", "input_proj", "query_embed", "class_embed", "bbox_embed"}
    )
    expected = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    for parameter in model.parameters():
        parameter.zero_()
    assert not any(bool(tensor.any()) for name, tensor in own.named_parameters())  # all of it is in the tree
    model.load_state_dict(saved)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in own.state_dict().items())
    older = {f"detector.{name}": tensor for name, tensor in expected.items()}  # as torch.hub's models saved before
    if isinstance(model, OriginalDetector):
        model.load_state_dict(older)
    with pytest.raises(RuntimeError, match="class_embed.weight"):
        model.load_state_dict({name: tensor for name, tensor in saved.items() if "class_embed" not in name})


def test_parts_have_the_originals_names(small):
    """What fine-tuning scripts freeze and group by."""
    model, own = small
    detector = model.detr if isinstance(model, OriginalSegmenter) else model
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(list(own.parameters()))
    assert {name.removeprefix("detr.").split(".")[0] for name in names} >= {"backbone", "transformer", "class_embed"}
    assert detector.num_queries == 10 and detector.transformer.d_model == 32 and detector.transformer.nhead == 4
    assert detector.backbone.num_channels == detector.backbone[0].num_channels == detector.input_proj.in_channels
    assert len(detector.transformer.decoder.layers) == 2 and len(detector.bbox_embed.layers) == 3
    assert model.train().training and own.training and not model.eval().training and not own.training


def test_parts_that_are_replaced_are_used_and_trained(small):
    model, own = small
    detector = model.detr if isinstance(model, OriginalSegmenter) else model
    images, before = torch.randn(2, 3, 64, 64), {}
    detector.class_embed = nn.Linear(detector.class_embed.in_features, 11)
    detector.query_embed = nn.Embedding(6, detector.transformer.d_model)
    detector.bbox_embed.layers[-1] = nn.Linear(32, 4)
    detector.aux_loss = True
    outputs = model.train()(images)
    assert outputs["pred_logits"].shape == (2, 6, 11) and outputs["pred_boxes"].shape == (2, 6, 4)
    assert len(outputs["aux_outputs"]) == 1 and detector.aux_loss
    assert own.config.num_queries == 6 and own.config.classes.outputs(own.config.num_labels) == 11
    new = [detector.class_embed, detector.query_embed, detector.bbox_embed.layers[-1]]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = [part.weight.detach().clone() for part in new]
    (outputs["pred_logits"].sum() + outputs["pred_boxes"].square().sum()).backward()
    optimizer.step()
    assert all(not torch.equal(part.weight, old) for part, old in zip(new, before, strict=True))
    saved = model.state_dict()
    (name,) = (name for name in saved if name.endswith("class_embed.weight"))
    assert torch.equal(saved[name], detector.class_embed.weight)
    detector.class_embed = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
    assert model(images)["pred_logits"].shape == (2, 6, 5)


@torch.no_grad()
def test_copies_stand_alone(small):
    model, _ = small
    images = torch.randn(1, 3, 64, 64)
    expected = model(images)["pred_boxes"]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images)["pred_boxes"], expected)
        for parameter in other.parameters():
            parameter.zero_()
        assert not torch.equal(other(images)["pred_boxes"], expected)
    assert torch.equal(model(images)["pred_boxes"], expected)
    assert torch.equal(
        model.double()(images.double())["pred_boxes"].float().round(decimals=3), expected.round(decimals=3)
    )


@torch.no_grad()
def test_a_nested_tensor_is_taken_with_its_mask(small):
    """The original's, and torchvision-like holders of the same two: True is padding."""
    model, _ = small
    images = [torch.randn(3, 64, 48), torch.randn(3, 40, 64)]
    expected = model(images)
    canvas, padded = torch.zeros(2, 3, 64, 64), torch.ones(2, 64, 64, dtype=torch.bool)
    for i, image in enumerate(images):
        canvas[i, :, : image.shape[1], : image.shape[2]] = image
        padded[i, : image.shape[1], : image.shape[2]] = False
    for mask in (padded, padded.to(torch.uint8)):
        found = model(SimpleNamespace(tensors=canvas, mask=mask))
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    whole = model(SimpleNamespace(tensors=canvas, mask=None))
    assert torch.equal(whole["pred_boxes"], model(canvas)["pred_boxes"])


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")  # of tracing
def test_what_cannot_be_says_what_can(small, caplog):
    model, _ = small
    detector = model.detr if isinstance(model, OriginalSegmenter) else model
    with pytest.raises(RuntimeError, match=r"torch.jit.trace\(model.eval\(\), images, strict=False\)"):
        torch.jit.script(model)
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        model._replicate_for_data_parallel()
    images = torch.randn(1, 3, 64, 64)
    if isinstance(model, OriginalDetector):  # what the error advises
        traced = torch.jit.trace(model, images, strict=False)
        other = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(traced(other)["pred_boxes"], model(other)["pred_boxes"])
    with caplog.at_level(logging.WARNING):
        detector.num_queries = detector.num_queries
        assert not caplog.records
        detector.num_queries = 35
    assert "query_embed = nn.Embedding(35, 32)" in caplog.text and detector.num_queries == 10


def test_published_weights_have_the_published_classes(hub_cache):
    with pytest.raises(ValueError, match=r"91 classes, not 5.*num_labels=5"):
        load("detr_resnet50", pretrained=True, num_classes=5)


def test_without_a_network_the_address_is_named(hub_cache, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a port where nothing listens
    with pytest.raises(OSError, match=r"cannot download https://.*ConditionalDETR_r50_epoch50\.pth.*put the file into") as error:  # fmt: skip
        load("conditional_detr_resnet50", pretrained=True)
    assert "\n" not in str(error.value) and not list(hub_cache.iterdir())
    with pytest.raises(OSError, match=r"resnet50-0676ba61\.pth.*put the file into .*DetrForObjectDetection\.from_pretrained") as error:  # fmt: skip
        load("detr_resnet50")
    assert "\n" not in str(error.value)


def test_it_works_without_installing_the_package(tmp_path, with_imagenet):
    """In a process that has the dependencies on its path and not this package."""
    script = (
        "import sys\n"
        "sys.path = [p for p in sys.path if 'conditional_detr' not in p and not p.endswith('/src')]\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "import importlib.util, torch\n"
        "assert importlib.util.find_spec('conditional_detr') is None\n"
        f"torch.hub.load({str(REPOSITORY)!r}, 'detr_resnet50', source='local')\n"
        "import conditional_detr\n"
        "print(conditional_detr.__file__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(REPOSITORY / "src" / "conditional_detr" / "__init__.py"), done.stderr


@torch.no_grad()
@pytest.mark.numeric
def test_the_panoptic_entry_draws_a_map_of_each_image(hub_cache):
    torch.manual_seed(0)
    model = randomise(DetrForSegmentation(DetrConfig(num_labels=250)))
    torch.save(
        {"model": to_original(model.state_dict(), model.weight_names)}, hub_cache / "detr-r50-panoptic-00ce5173.pth"
    )
    loaded, postprocessor = load("detr_resnet50_panoptic", pretrained=True, threshold=0.0, return_postprocessor=True)
    loaded.double()
    images = [torch.randn(3, *size, dtype=torch.float64) for size in ((64, 96), (90, 70))]
    outputs = loaded(images)
    assert list(outputs) == ["pred_logits", "pred_boxes", "pred_masks", "mask_sizes"]
    alone = loaded(images[0][None])["pred_masks"][0]
    torch.testing.assert_close(outputs["pred_masks"][0, :, :16, :24], alone, rtol=0, atol=1e-8)
    results = postprocessor(outputs, [(64, 96), (90, 70)], [(128, 192), (90, 70)])
    for result, size in zip(results, [(192, 128), (70, 90)], strict=True):
        with Image.open(io.BytesIO(result["png_string"])) as picture:
            assert picture.size == size
        assert sum(segment["area"] for segment in result["segments_info"]) == size[0] * size[1]
        assert all(s["isthing"] == (s["category_id"] <= 90) for s in result["segments_info"])
    assert loaded.detector.config.id2label[200] == "rug-merged"
