"""`conditional_detr.transformers`: image processors that are transformers' own, beside transformers' classes of their names."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers")

import conditional_detr.processors.image_processor as lean  # noqa: E402
import conditional_detr.transformers as ours  # noqa: E402

pytestmark = pytest.mark.numeric

CATS = Path(__file__).parents[3] / "shared" / "data" / "coco_cats"
SMALL = {"shortest_edge": 64, "longest_edge": 96}
NAMES = ["ConditionalDetrImageProcessor", "DetrImageProcessor"]
families = pytest.mark.parametrize("name", NAMES)


def picture_and_annotation() -> tuple[Image.Image, dict]:
    """COCO's picture of two cats, or one that is drawn here, and what is on it."""
    if CATS.is_dir():
        truth = json.loads((CATS / "instances.json").read_text())
        objects = [item for item in truth["annotations"] if not item.get("iscrowd")]
        return Image.open(CATS / "000000039769.png").convert("RGB"), {"image_id": 39769, "annotations": objects}
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    square = [100.5, 50, 300, 50, 300, 200.25, 100.5, 200.25]
    item = {
        "category_id": 17,
        "bbox": [100.5, 50, 199.5, 150.25],
        "area": 29974.9,
        "iscrowd": 0,
        "segmentation": [square],
    }
    return Image.fromarray(noise).resize((640, 480), 2), {"image_id": 1, "annotations": [item]}


def assert_same(batch: Any, expected: Any) -> None:
    assert set(batch) == set(expected)
    for name, value in expected.items():
        if name == "labels":
            for item, other in zip(batch[name], value, strict=True):
                assert_same(item, other)
        else:
            assert batch[name].dtype == (torch.bool if name == "masks" else value.dtype), name
            torch.testing.assert_close(batch[name].float(), value.float(), atol=1e-4, rtol=1e-5)


@families
def test_a_processor_is_transformers_own_kind(name: str) -> None:
    processor = getattr(ours, name)(size=SMALL)
    assert isinstance(processor, transformers.BaseImageProcessor | getattr(transformers, name))
    batch = processor(np.zeros((40, 50, 3), np.uint8), return_tensors="pt")
    assert isinstance(batch, transformers.image_processing_utils.BatchFeature)
    assert batch.to("cpu", torch.float16).pixel_values.dtype == torch.float16
    for older in ("Fast", "Pil"):
        assert getattr(ours, name + older) is getattr(ours, name)
    for copied in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert copied.to_dict() == processor.to_dict()


@families
@pytest.mark.parametrize("options", [{}, {"do_convert_annotations": False}, {"do_normalize": None}, {"resample": 3}])
def test_a_picture_and_its_labels_are_what_they_are_in_transformers(name: str, options: dict) -> None:
    picture, annotation = picture_and_annotation()
    batches = [
        getattr(package, name)(size=SMALL)(
            picture, annotation, return_segmentation_masks=True, return_tensors="pt", **options
        )
        for package in (ours, transformers)
    ]
    assert_same(*batches)
    theirs = getattr(transformers, name)(size=SMALL)(picture, annotation, True, return_tensors="np")
    (label,) = getattr(ours, name)(size=SMALL)(picture, annotation, True, return_tensors="np").labels
    np.testing.assert_allclose(label["boxes"], theirs["labels"][0]["boxes"], atol=1e-5)


@families
def test_trap_7_boxes_stay_relative_to_their_image_in_a_batch_and_in_pad(name: str) -> None:
    picture, annotation = picture_and_annotation()
    processor = getattr(ours, name)(size=SMALL)
    (alone,) = processor(picture, annotation).labels
    beside = processor([picture, picture.transpose(Image.Transpose.TRANSPOSE)], [annotation, annotation]).labels[0]
    padded, mask, label = processor.pad(torch.ones(3, 64, 85), (90, 100), dict(alone))
    for given in (beside, label):
        assert torch.equal(given["boxes"], alone["boxes"]) and given["size"].tolist() == [64, 85]
    assert padded.shape == (3, 90, 100) and mask.sum() == 64 * 85


@families
def test_single_steps_are_those_of_transformers(name: str) -> None:
    picture, annotation = picture_and_annotation()
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    size = transformers.image_utils.SizeDict(**SMALL)
    steps: list[Callable[[Any], Any]] = [
        lambda processor: processor.resize(image, size),
        lambda processor: processor.rescale(image, 1 / 255),
        lambda processor: processor.normalize(image / 255, [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]),
        lambda processor: processor.pad(image, (500, 700))[0],
        lambda processor: processor.prepare_annotation(image, annotation)["boxes"],
    ]
    for step in steps:
        torch.testing.assert_close(step(getattr(ours, name)()), step(getattr(transformers, name)()))


@families
def test_detections_are_those_of_transformers(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = SimpleNamespace(
        logits=torch.randn(2, 30, 6, generator=generator), pred_boxes=torch.rand(2, 30, 4, generator=generator)
    )
    sizes = [(480, 640), (33, 71)]
    found, expected = (
        getattr(package, name)().post_process_object_detection(outputs, 0.3, sizes) for package in (ours, transformers)
    )
    for one, other in zip(found, expected, strict=True):
        assert len(other["scores"]) > 5
        assert set(one) == set(other)
        for key, value in other.items():
            torch.testing.assert_close(one[key], value)


def test_masks_of_detr_are_those_of_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = SimpleNamespace(
        logits=torch.randn(1, 8, 5, generator=generator) * 4, pred_masks=torch.randn(1, 8, 12, 16, generator=generator)
    )
    one, other = ours.DetrImageProcessor(), transformers.DetrImageProcessor()
    options = {"threshold": 0.2, "overlap_mask_area_threshold": 0.1}
    for kind in ("instance", "panoptic"):
        (found,), (expected,) = (
            getattr(processor, f"post_process_{kind}_segmentation")(copy.deepcopy(outputs), **options)
            for processor in (one, other)
        )
        assert len(expected["segments_info"]) > 1
        assert torch.equal(found["segmentation"], expected["segmentation"])
        assert [segment["label_id"] for segment in found["segments_info"]] == [
            segment["label_id"] for segment in expected["segments_info"]
        ]
    (found,) = one.post_process_semantic_segmentation(outputs, [(24, 32)], return_segmentation_scores=True)
    (expected,) = other.post_process_semantic_segmentation(outputs, [(24, 32)], return_segmentation_scores=True)
    assert isinstance(found, transformers.image_processing_utils.BatchFeature)
    torch.testing.assert_close(found.segmentation_scores, expected.segmentation_scores)


@families
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"height": 50, "width": 60}, "pad_size": {"height": 90, "width": 90}, "resample": 3},
        {"do_normalize": False, "format": "coco_panoptic", "image_mean": [0.1, 0.2, 0.3], "do_pad": False},
    ],
)
def test_what_one_saves_the_others_open(name: str, options: dict, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    writers = [getattr(package, name)(**options) for package in (ours, transformers, lean)]
    for writer in writers:
        writer.save_pretrained(save_directory=tmp_path)
        readers = [getattr(package, name) for package in (ours, transformers, lean)]
        for reader in (*readers, ours.AutoImageProcessor, transformers.AutoImageProcessor):
            read = reader.from_pretrained(pretrained_model_name_or_path=tmp_path)
            assert type(read).__name__ == name
            batch, expected = (one(image, do_resize=False, return_tensors="pt") for one in (read, writer))
            assert_same(batch, expected)
            assert dict(read.size) == dict(writer.size) and read.resample == writer.resample
    assert ours.AutoImageProcessor.from_pretrained(tmp_path).to_dict() == writers[1].to_dict()


@families
def test_files_are_found_by_transformers_own_arguments(name: str, tmp_path: Path) -> None:
    kind = getattr(ours, name)
    kind(size=32).save_pretrained(tmp_path)
    kind(size=SMALL).save_pretrained(tmp_path / "inner")
    for reader in (kind, ours.AutoImageProcessor):
        assert reader.from_pretrained(tmp_path, subfolder="inner").size == SMALL
        read, unused = reader.from_pretrained(tmp_path, do_pad=False, colour=1, return_unused_kwargs=True)
        assert isinstance(read, kind) and read.do_pad is False and unused["colour"] == 1
    for choice in ({"backend": "pil"}, {"use_fast": True}, {"trust_remote_code": False}):
        assert type(ours.AutoImageProcessor.from_pretrained(tmp_path, **choice)) is kind
    kind(size=SMALL).to_json_file(tmp_path / "other.json")
    assert kind.from_json_file(tmp_path / "other.json").size == SMALL
    assert kind.from_pretrained(tmp_path / "other.json").size == SMALL
    with pytest.raises(OSError, match="no_such"):
        kind.from_pretrained(tmp_path / "no_such")


def test_processors_of_other_models_are_transformers(tmp_path: Path) -> None:
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    assert type(ours.AutoImageProcessor.from_pretrained(tmp_path)) is transformers.ViTImageProcessor


@families
def test_older_names_win_over_what_a_file_has(name: str, tmp_path: Path) -> None:
    kind = getattr(ours, name)
    kind().save_pretrained(tmp_path)
    for read in (
        kind.from_pretrained(tmp_path, size=42, max_size=84, pad_and_return_pixel_mask=False),
        kind(size=42, max_size=84, pad_and_return_pixel_mask=False),
    ):
        assert read.size == {"shortest_edge": 42, "longest_edge": 84} and read.do_pad is False
        assert "max_size" not in read.to_dict()
    batch = kind()(np.zeros((40, 50, 3), np.uint8), max_size=60, pad_and_return_pixel_mask=False)
    assert batch["pixel_values"].shape == (1, 3, 48, 60) and "pixel_mask" not in batch


def test_images_become_rgb_unless_arguments_say_otherwise() -> None:
    processor = ours.ConditionalDetrImageProcessor(size=SMALL, do_pad=False)
    grey, alpha = np.zeros((40, 50), np.uint8), np.zeros((40, 50, 4), np.uint8)
    for image in (grey, alpha, Image.fromarray(grey), Image.fromarray(alpha), Image.new("P", (50, 40))):
        assert processor(image).pixel_values.shape[:2] == (1, 3)
    for image in (grey, Image.fromarray(grey)):
        assert processor(image, image_mean=[0.5], image_std=[0.5]).pixel_values.shape[:2] == (1, 1)
    for image in (alpha, Image.fromarray(alpha)):
        for more in (
            {"image_mean": [0.0] * 4, "image_std": [1.0] * 4},
            {"do_convert_rgb": False, "do_normalize": False},
        ):
            assert processor(image, **more).pixel_values.shape[:2] == (1, 4)
    with pytest.raises(ValueError, match="image_mean has 3 values for images of 1 channels"):
        processor(grey, do_convert_rgb=False)
    with pytest.raises(ValueError, match=r"\[1, 4\] channels make no batch"):
        processor([grey, alpha], do_convert_rgb=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_std": [0.0, 1.0, 1.0]}, "image_std"),
        ({"rescale_factor": 0.0}, "rescale_factor"),
        ({"size": {"longest_edge": 60}}, "size"),
        ({"pad_size": {"height": 5, "width": 5}}, "larger than the canvas"),
        ({"colour": 1}, "colour"),
    ],
)
def test_what_means_nothing_is_named(options: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        ours.DetrImageProcessor(size=SMALL)(np.zeros((40, 50, 3), np.uint8), **options)


def test_a_pipeline_of_transformers_takes_it() -> None:
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    config = transformers.DetrConfig(
        backbone_config={**backbone, "out_features": ["stage4"]},
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
    )
    torch.manual_seed(0)
    model = transformers.DetrForObjectDetection(config).eval()
    picture, _ = picture_and_annotation()
    found, expected = (
        transformers.pipeline("object-detection", model=model, image_processor=package.DetrImageProcessor(size=SMALL))(
            picture, threshold=0.0
        )
        for package in (ours, transformers)
    )
    assert len(expected) == 5
    for one, other in zip(found, expected, strict=True):
        assert one["box"] == other["box"] and one["label"] == other["label"]
