"""What is written: folders that transformers opens or that say they do not, model cards, uploads."""

import copy
import json
import re
import subprocess
import sys
from contextlib import contextmanager

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from same_detections import assert_same_detections, rows
from small_models import FAMILIES, randomise, small_config, small_model

import conditional_detr
from conditional_detr import AutoImageProcessor, AutoModelForObjectDetection
from conditional_detr.models.family import family_of
from conditional_detr.processors.auto_processor import IMAGE_PROCESSORS


def assert_same_logits(a, b, tolerance=1e-12):
    """Of both models in float64. Of transformers' to 1e-7: positions are computed in float32, there and here."""
    pixels = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    a, b = (copy.deepcopy(model).double().eval()(pixels).logits for model in (a, b))
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@torch.no_grad()
@pytest.mark.numeric
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stride", [4, 8, 16])
def test_transformers_opens_a_backbone_that_ends_early(family, stride, tmp_path, caplog):
    """`backbone_config.out_indices` tells transformers 5 where; batch norm in evaluation is a frozen norm."""
    ours = randomise(small_model(family, output_stride=stride, backbone_norm="batch"))
    ours.save_pretrained(tmp_path / "ours")
    assert not caplog.text
    theirs, info = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert_same_logits(theirs, ours, 1e-7)
    theirs.save_pretrained(tmp_path / "theirs")
    back = AutoModelForObjectDetection.from_pretrained(tmp_path / "theirs")
    assert back.config.output_stride == stride
    assert_same_logits(back, ours)


@torch.no_grad()
@pytest.mark.numeric
@pytest.mark.parametrize("backbone", ["convnext_atto", "resnet26d"])
def test_transformers_opens_other_backbones(backbone, tmp_path, caplog):
    """ConvNeXt has four stages, so that transformers has to be told which is the last."""
    ours = randomise(small_model(backbone=backbone, output_stride=32, backbone_norm="batch"))
    ours.save_pretrained(tmp_path)
    assert_same_logits(transformers.AutoModelForObjectDetection.from_pretrained(tmp_path), ours, 1e-7)
    assert_same_logits(AutoModelForObjectDetection.from_pretrained(tmp_path), ours)
    assert not caplog.text


@torch.no_grad()
def test_a_backbone_that_transformers_ends_early_is_read(tmp_path):
    """Without this package's own `output_stride` in the configuration."""
    small_model(output_stride=16, backbone_norm="frozen").save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["output_stride"], values["backbone_norm"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = AutoModelForObjectDetection.from_pretrained(tmp_path).config
    assert (config.backbone, config.output_stride, config.dilation) == ("resnet18", 16, False)


@torch.no_grad()
@pytest.mark.numeric
@pytest.mark.parametrize(
    ("values", "limit"),
    [
        (dict(backbone_norm="group"), "backbone_norm 'group'"),
        (dict(class_cost=1.5), r"class_cost 1\.5 \(it takes whole numbers\)"),
        (dict(backbone="efficientnet_b0", backbone_norm="batch"), "norms hold its activations"),
    ],
)
def test_what_transformers_cannot_express_is_said_and_opens_here(values, limit, tmp_path, caplog):
    model = randomise(small_model(**values))
    model.save_pretrained(tmp_path)
    (record,) = caplog.records
    assert re.search(f"opens in this package only; transformers cannot express .*{limit}", record.getMessage())
    assert "\n" not in record.getMessage() and "from transformers import" not in (tmp_path / "README.md").read_text()
    assert_same_logits(AutoModelForObjectDetection.from_pretrained(tmp_path), model)


def test_whole_coefficients_are_written_as_transformers_wants_them(tmp_path):
    """transformers 5 takes 2 and refuses 2.0."""
    small_model(class_cost=2.0, cls_loss_coefficient=3.0, output_stride=32).save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (config.class_cost, config.cls_loss_coefficient) == (2, 3)


def test_half_precision_is_kept_where_asked(tmp_path):
    small_model().bfloat16().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForObjectDetection.from_pretrained(tmp_path).dtype == torch.float32
    for dtype in ("auto", "bfloat16", torch.bfloat16):
        assert AutoModelForObjectDetection.from_pretrained(tmp_path, dtype=dtype).dtype == torch.bfloat16
    assert AutoModelForObjectDetection.from_pretrained(tmp_path, torch_dtype=torch.float16).dtype == torch.float16
    with pytest.raises(ValueError, match="dtype must be a floating-point type or 'auto', got 'float17'"):
        AutoModelForObjectDetection.from_pretrained(tmp_path, dtype="float17")


def test_a_device_may_be_named(tmp_path):
    small_model().save_pretrained(tmp_path)
    for device in ("cpu", torch.device("cpu"), {"": "cpu"}):
        assert AutoModelForObjectDetection.from_pretrained(tmp_path, device_map=device).device.type == "cpu"
    best = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    assert AutoModelForObjectDetection.from_pretrained(tmp_path, device_map="auto").device.type == best.type
    with pytest.raises(ValueError, match="device_map must name one device"):
        AutoModelForObjectDetection.from_pretrained(tmp_path, device_map={"model": 0, "": "cpu"})


def test_a_mistyped_argument_is_named(tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="unknown argument 'num_querys': not a field of ConditionalDetrConfig"):
        AutoModelForObjectDetection.from_pretrained(tmp_path, num_querys=5)
    with pytest.raises(TypeError, match="unknown argument 'metricks'"):
        small_model().save_pretrained(tmp_path, metricks={})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_family_is_chosen_by_the_model_type(family, golden_pth, tmp_path):
    small_model(family).save_pretrained(tmp_path / "model")
    IMAGE_PROCESSORS[family](size={"shortest_edge": 64}).save_pretrained(tmp_path / "model")
    IMAGE_PROCESSORS[family]().save_pretrained(tmp_path / "processor")
    for name in (tmp_path / "model", golden_pth(family)):
        assert type(AutoModelForObjectDetection.from_pretrained(name)) is family_of(family).detector
        assert type(AutoImageProcessor.from_pretrained(name)) is IMAGE_PROCESSORS[family]
    assert AutoImageProcessor.from_pretrained(tmp_path / "model", do_pad=False).size == {"shortest_edge": 64}
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "processor")) is IMAGE_PROCESSORS[family]
    config = small_config(family)
    assert type(AutoModelForObjectDetection.from_config(config)) is family_of(family).detector


def test_a_model_of_another_kind_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "yolos"}')
    for auto in (AutoModelForObjectDetection, AutoImageProcessor):
        with pytest.raises(ValueError, match="is of model_type 'yolos'; this package knows conditional_detr, detr"):
            auto.from_pretrained(tmp_path)


def test_a_configuration_is_read_and_written_alone(golden_pth, tmp_path):
    config = small_config(a_field_of_tomorrow=3)
    config.save_pretrained(tmp_path)
    back = conditional_detr.ConditionalDetrConfig.from_pretrained(tmp_path, num_queries=7)
    assert (back.num_queries, back.d_model, back.extra) == (7, 32, {"a_field_of_tomorrow": 3})
    assert json.loads(config.to_json_string()) == json.loads((tmp_path / "config.json").read_text())
    assert conditional_detr.DetrConfig.from_pretrained(golden_pth("detr")).num_queries == 20
    with pytest.raises(ValueError, match="is of model_type 'conditional_detr', DetrConfig reads 'detr'"):
        conditional_detr.DetrConfig.from_pretrained(tmp_path)


# ------------------------------------------------------------------------------------------------------ the card


def test_the_card_says_what_is_known(tmp_path):
    model = small_model(id2label={0: "red cell", 1: "white cell", 2: "platelet"})
    model.save_pretrained(tmp_path, dataset="BCCD, 364 images", metrics={"AP": 0.41237, "AP50": 0.7})
    text = (tmp_path / "README.md").read_text()
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.pipeline_tag == "object-detection" and data.library_name == "conditional-detr" and data.license is None
    assert [(r.metric_type, r.metric_value, r.dataset_name) for r in data.eval_results] == [
        ("AP", 0.41237, "BCCD, 364 images"),
        ("AP50", 0.7, "BCCD, 364 images"),
    ]
    assert "red cell, white cell, platelet" in text and "| AP | 0.4124 |" in text and "BCCD, 364 images" in text
    small_model().save_pretrained(tmp_path)  # saving again keeps the card up to date …
    assert "Not stated." in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("My own words")  # … but not over a person's words
    small_model().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "My own words"
    with pytest.raises(TypeError, match="metric 'AP' of the model card must be a number, got str"):
        small_model().save_pretrained(tmp_path, metrics={"AP": "good"})


@pytest.mark.numeric
@pytest.mark.parametrize("package", ["conditional_detr", "transformers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_cards_snippet_runs_in_the_folder(family, package, tmp_path):
    """As it stands here, and with transformers' name in its import line."""
    model = randomise(small_model(family, output_stride=32, id2label={0: "cat", 1: "dog", 2: "remote"}), seed=1)
    with torch.no_grad():
        model.class_labels_classifier.weight.normal_()
        model.class_labels_classifier.bias.zero_()
    model.eval().save_pretrained(tmp_path)
    processor = IMAGE_PROCESSORS[family](size={"shortest_edge": 96, "longest_edge": 160})
    processor.save_pretrained(tmp_path)
    picture = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "image.jpg", quality=95)

    (snippet,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    (tmp_path / "snippet.py").write_text(snippet.replace("from conditional_detr", f"from {package}"))
    done = subprocess.run([sys.executable, "snippet.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    image = Image.open(tmp_path / "image.jpg")
    with torch.no_grad():
        outputs = model(**processor(images=image, return_tensors="pt"))
    (result,) = processor.post_process_object_detection(outputs, target_sizes=[(120, 160)])
    lines = done.stdout.splitlines()
    assert len(lines) == len(result["scores"]) > 0
    found = [
        re.fullmatch(r"Detected (\w+) with confidence (\d\.\d+) at location \[(.+), (.+), (.+), (.+)\]", line).groups()
        for line in lines
    ]
    printed = [
        {"label": label, "score": float(score), "box": [float(side) for side in box]} for label, score, *box in found
    ]
    expected = [
        {"label": model.config.id2label[label], "score": score, "box": box} for label, score, box in rows(result)
    ]
    assert_same_detections(
        printed, expected, score=5e-3, box=0.5
    )  # transformers resizes to within a grey level of ours


@pytest.mark.network
@torch.no_grad()
def test_the_figures_on_the_published_card():
    """What the card of microsoft/conditional-detr-resnet-50 promises for COCO image 39769 at threshold 0.7."""
    from urllib.request import urlopen

    name = "microsoft/conditional-detr-resnet-50"
    with urlopen("http://images.cocodataset.org/val2017/000000039769.jpg") as response:
        image = Image.open(response).convert("RGB")
    processor, model = AutoImageProcessor.from_pretrained(name), AutoModelForObjectDetection.from_pretrained(name)
    outputs = model(**processor(images=image, return_tensors="pt"))
    (result,) = processor.post_process_object_detection(outputs, target_sizes=[image.size[::-1]], threshold=0.7)
    promised = [
        ("remote", 0.833, [38.31, 72.1, 177.63, 118.45]),
        ("cat", 0.831, [9.2, 51.38, 321.13, 469.0]),
        ("cat", 0.804, [340.3, 16.85, 642.93, 370.95]),
    ]
    assert len(result["scores"]) == len(promised)
    for label, score, box, (name, expected, corners) in zip(*(result[k].tolist() for k in ("labels", "scores", "boxes")), promised, strict=True):  # fmt: skip
        assert model.config.id2label[label] == name
        assert score == pytest.approx(expected, abs=0.01) and box == pytest.approx(corners, abs=1.5)


# ---------------------------------------------------------------------------------------------------- the hub


@contextmanager
def offline(monkeypatch):
    """huggingface_hub's documented offline mode, which it reads when imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    yield


def test_an_upload_without_network_is_one_clear_error(monkeypatch, tmp_path):
    model, processor = small_model(), conditional_detr.ConditionalDetrImageProcessor()
    with offline(monkeypatch):
        for upload in (
            lambda: model.push_to_hub("nobody/nothing", token="none"),
            lambda: processor.push_to_hub("nobody/nothing", token="none"),
            lambda: model.save_pretrained(tmp_path / "m", push_to_hub=True, repo_id="nobody/nothing"),
            lambda: processor.save_pretrained(tmp_path / "p", push_to_hub=True, repo_id="nobody/nothing"),
        ):
            with pytest.raises(OSError, match="cannot upload to nobody/nothing: ") as raised:
                upload()
            assert "\n" not in str(raised.value)
    # what was to be uploaded is on disk
    assert (tmp_path / "m/model.safetensors").is_file() and (tmp_path / "p/preprocessor_config.json").is_file()


def test_a_name_that_cannot_be_one_is_refused_before_any_work():
    with pytest.raises(OSError, match="cannot upload to not a name: .*not a name"):
        small_model().push_to_hub("not a name")


def test_a_repository_in_the_local_cache_opens_without_a_network(tmp_path):
    """Of a named revision, its shards too."""
    commit = "0" * 40
    repository = tmp_path / "models--someone--something"
    snapshot = repository / "snapshots" / commit
    model = randomise(small_model("detr")).eval()
    model.save_pretrained(snapshot)
    weights = load_file(snapshot / "model.safetensors")
    (snapshot / "model.safetensors").rename(snapshot / "part.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "part.safetensors")}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    conditional_detr.DetrImageProcessor().save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    cache = dict(cache_dir=tmp_path, local_files_only=True)
    for revision in ("v2", commit):
        found = AutoModelForObjectDetection.from_pretrained("someone/something", revision=revision, **cache)
        assert all(
            torch.equal(t, found.state_dict()[n]) for n, t in model.state_dict().items() if n in found.state_dict()
        )
        processor = AutoImageProcessor.from_pretrained("someone/something", revision=revision, **cache)
        assert type(processor) is conditional_detr.DetrImageProcessor
    with pytest.raises(OSError, match="someone/something is neither a folder here nor in the local cache"):
        AutoModelForObjectDetection.from_pretrained("someone/something", revision="v3", **cache)


def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub():
    for auto in (AutoModelForObjectDetection, AutoImageProcessor):
        with pytest.raises(OSError, match=r"weights\.pth does not exist"):
            auto.from_pretrained("weights.pth")


def test_the_card_of_a_segmentation_model_runs_in_the_folder(tmp_path):
    torch.manual_seed(0)
    model = randomise(family_of("detr").segmenter(small_config("detr", output_stride=32, encoder_attention_heads=8)))
    with torch.no_grad():
        model.detector.class_labels_classifier.bias[0] = 9.0  # all queries are of the first class
    model.save_pretrained(tmp_path)
    IMAGE_PROCESSORS["detr"](size={"shortest_edge": 96, "longest_edge": 160}).save_pretrained(tmp_path)
    Image.effect_noise((160, 120), 60).convert("RGB").save(tmp_path / "image.jpg")
    card = (tmp_path / "README.md").read_text()
    assert "pipeline_tag: image-segmentation" in card and "# DETR with resnet18 and masks" in card
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    (tmp_path / "snippet.py").write_text(snippet)
    done = subprocess.run([sys.executable, "snippet.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Segment 1: LABEL_0, 0\.\d{3}", done.stdout)
