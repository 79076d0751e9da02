"""torch.hub: the original's entry points, from a clone."""

import importlib.util
import inspect
import io
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_cases import golden, golden_weights
from PIL import Image
from small_models import FAMILIES, randomise

from conditional_detr import DetrConfig, DetrForSegmentation
from conditional_detr.checkpoints.names import to_original

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
def test_new_weights_have_the_classes_asked_for(name):
    model = load(name, num_classes=5)
    family = name.split("_resnet")[0]
    config = model.detector.config
    assert config.num_labels == 5 and config.dilation == name.endswith("dc5") and config.attention_dropout == 0.1
    assert model.training and type(model.detector).__name__.lower().startswith(family.replace("_", ""))
    with torch.no_grad():
        logits = model.eval()(torch.randn(1, 3, 64, 64))["pred_logits"]
    assert logits.shape == ((1, 300, 5) if family == "conditional_detr" else (1, 100, 6))
    with pytest.raises(ValueError, match="a list of"):
        model(torch.randn(3, 64, 64))


def test_a_checkpoint_in_the_originals_names_loads_into_the_module(hub_cache):
    _, facts = golden("detr_r18")
    weights = golden_weights(facts["parameters"])
    torch.save({"model": weights}, hub_cache / PUBLISHED["detr"])
    model = load("detr_resnet50", pretrained=True)
    model.load_state_dict({name: tensor + 1 for name, tensor in weights.items()})
    torch.testing.assert_close(model.detector.class_labels_classifier.bias.data, weights["class_embed.bias"] + 1)


def test_published_weights_have_the_published_classes(hub_cache):
    with pytest.raises(ValueError, match=r"91 classes, not 5.*num_labels=5"):
        load("detr_resnet50", pretrained=True, num_classes=5)


def test_without_a_network_the_address_is_named(hub_cache, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a port where nothing listens
    with pytest.raises(OSError, match=r"cannot download https://.*ConditionalDETR_r50_epoch50\.pth.*put the file into") as error:  # fmt: skip
        load("conditional_detr_resnet50", pretrained=True)
    assert "\n" not in str(error.value) and not list(hub_cache.iterdir())


def test_it_works_without_installing_the_package(tmp_path):
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
