"""The image processors, against transformers' of the same names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torchvision.transforms import InterpolationMode
from transformers.models.conditional_detr.image_processing_pil_conditional_detr import ConditionalDetrImageProcessorPil

import conditional_detr.processors.image_processor as image_processor
from conditional_detr.processors.auto_processor import AutoImageProcessor
from conditional_detr.processors.image_processor import ConditionalDetrImageProcessor, DetrImageProcessor

pytestmark = pytest.mark.numeric

SMALL = {"shortest_edge": 64, "longest_edge": 96}
GREY_LEVEL = 1 / 255 / 0.224  # one of 256, after normalising
FAMILIES = [
    (ConditionalDetrImageProcessor, transformers.ConditionalDetrImageProcessor),
    (DetrImageProcessor, transformers.DetrImageProcessor),
]


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3) without the noise that would hide a misplaced pixel."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def assert_same_pixels(batch, expected, atol: float = 1e-6) -> None:
    assert batch["pixel_values"].dtype == torch.float32
    assert batch["pixel_values"].shape == expected["pixel_values"].shape
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"].float(), atol=atol, rtol=0)
    assert ("pixel_mask" in batch) == ("pixel_mask" in expected)
    if "pixel_mask" in batch:
        assert batch["pixel_mask"].dtype == expected["pixel_mask"].dtype == torch.int64
        assert torch.equal(batch["pixel_mask"], expected["pixel_mask"])


def assert_same_labels(labels, expected) -> None:
    for ours, theirs in zip(labels, expected, strict=True):
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            wanted = torch.as_tensor(value)
            assert ours[name].dtype == (torch.bool if name == "masks" else wanted.dtype), name
            torch.testing.assert_close(ours[name].float(), wanted.float(), atol=1e-4, rtol=1e-5)


def annotation(height: int, width: int, crowd: bool = False) -> dict:
    objects = [
        {
            "category_id": category,
            "bbox": [x, y, width // 3, height // 4],
            "area": width * height / 12,
            "iscrowd": int(crowd and category == 2),
            "segmentation": [[x, y, x + width // 3, y, x + width // 3, y + height // 4, x, y + height // 4]],
        }
        for category, x, y in [(1, 3, 5), (2, width // 2, 0), (7, width - 10, height - 10)]
    ]
    return {"image_id": height * 1000 + width, "annotations": objects}


SIZE_FORMS = [SMALL, {"height": 50, "width": 70}, {"max_height": 60, "max_width": 55}, (33, 44)]


@pytest.mark.parametrize("size", SIZE_FORMS)
@pytest.mark.parametrize("shape", [(40, 60), (64, 64), (90, 33), (30, 120), (101, 75)])
def test_pixels_are_those_of_transformers(shape: tuple[int, int], size) -> None:
    image = smooth(*shape)
    for source in (image, image.transpose(2, 0, 1).copy(), torch.from_numpy(image), Image.fromarray(image)):
        batch = ConditionalDetrImageProcessor(size=size)(source, return_tensors="pt")
        assert_same_pixels(batch, transformers.ConditionalDetrImageProcessor(size=size)(source, return_tensors="pt"))
    by_pil = ConditionalDetrImageProcessorPil(size=size)(Image.fromarray(image), return_tensors="pt")
    assert_same_pixels(batch, by_pil, GREY_LEVEL * 1.01)


@pytest.mark.parametrize(("ours", "theirs"), FAMILIES)
def test_a_photo_at_the_default_size_is_what_it_is_in_transformers(ours, theirs) -> None:
    image = Image.fromarray(smooth(480, 640))
    assert_same_pixels(ours()(image), theirs()(image, return_tensors="pt"))


@pytest.mark.parametrize("layout", [(0, 1, 2), (2, 0, 1)])
def test_floats_of_both_ranges_are_what_they_are_in_transformers(layout: tuple[int, ...]) -> None:
    image = smooth(50, 70).astype(np.float32).transpose(layout)
    theirs = transformers.ConditionalDetrImageProcessor(size=SMALL)
    ours = ConditionalDetrImageProcessor(size=SMALL)
    assert_same_pixels(ours(image), theirs(image, return_tensors="pt"), 1e-5)
    relative = image / 255
    expected = theirs(relative, do_rescale=False, return_tensors="pt")
    assert_same_pixels(ours(relative, do_rescale=False), expected, 1e-5)
    torch.testing.assert_close(ours(image).pixel_values, expected.pixel_values, atol=1e-4, rtol=0)


def test_pixels_rescaled_twice_are_pointed_out() -> None:
    with pytest.warns(UserWarning, match="do_rescale=False"):
        ConditionalDetrImageProcessor(size=SMALL)(torch.rand(3, 50, 70))


@pytest.mark.parametrize(
    "options",
    [
        {"do_resize": False},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_pad": False},
        {"do_rescale": False, "do_normalize": False},
        {"pad_size": {"height": 100, "width": 120}},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3], "rescale_factor": 1 / 128},
        {"resample": 3},
        {"size": {"height": 20, "width": 30}},
        {"do_convert_annotations": False},
    ],
)
@pytest.mark.parametrize("at", ["constructor", "call"])
def test_every_option_does_what_it_does_in_transformers(options: dict, at: str) -> None:
    images = [smooth(50, 70, seed) for seed in range(2)]
    annotations: list | None = [annotation(50, 70), annotation(50, 70)]
    first, later = (options, {}) if at == "constructor" else ({}, options)
    ours = ConditionalDetrImageProcessor(**{"size": SMALL, **first})(images, annotations, True, **later)
    theirs: Any = transformers.ConditionalDetrImageProcessor(**{"size": SMALL, **first})
    if "pad_size" in options or options == {"do_resize": False}:
        annotations = None  # trap 7, and without a resize transformers' labels have no size
    expected = theirs(images, annotations, return_segmentation_masks=True, return_tensors="pt", **later)
    assert_same_pixels(ours, expected, 1e-4)
    if annotations is not None:
        assert_same_labels(ours["labels"], expected["labels"])


def test_a_batch_of_mixed_sizes_is_padded_as_in_transformers() -> None:
    images = [smooth(40, 60), smooth(90, 33), smooth(64, 64)]
    theirs = transformers.ConditionalDetrImageProcessor(size=SMALL)
    assert_same_pixels(ConditionalDetrImageProcessor(size=SMALL)(images), theirs(images, return_tensors="pt"))


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), FAMILIES)
def test_labels_of_images_of_one_size_are_those_of_transformers(ours, theirs, with_masks: bool) -> None:
    images = [smooth(50, 70, seed) for seed in range(3)]
    annotations = [annotation(50, 70), annotation(50, 70), {"image_id": 5, "annotations": []}]
    if with_masks:  # transformers fails on an image without objects when asked for masks
        images, annotations = images[:2], annotations[:2]
    batch = ours(size=SMALL)(images, annotations, return_segmentation_masks=with_masks)
    expected = theirs(size=SMALL)(images, annotations, return_segmentation_masks=with_masks, return_tensors="pt")
    assert_same_labels(batch.labels, expected.labels)
    (alone,) = ours(size=SMALL)(images[0], annotations[0], with_masks).labels
    assert_same_labels([alone], expected.labels[:1])


def test_panoptic_labels_are_those_of_transformers(tmp_path: Path) -> None:
    ids = np.full((50, 70), 7)
    ids[10:30, 20:45] = 70_000
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(tmp_path / "a.png")
    segments = [
        {"id": 7, "category_id": 90, "area": 3000, "iscrowd": 0},
        {"id": 70_000, "category_id": 5, "area": 500, "iscrowd": 0},
    ]
    target = {"image_id": 3, "file_name": "a.png", "segments_info": segments}
    options: dict[str, Any] = {"format": "coco_panoptic", "size": SMALL}
    batch = ConditionalDetrImageProcessor(**options)(smooth(50, 70), target, masks_path=tmp_path)
    theirs: Any = transformers.ConditionalDetrImageProcessor(**options)
    expected = theirs(smooth(50, 70), target, masks_path=tmp_path, return_tensors="pt")
    assert batch.labels[0].masks.shape == (2, *batch.pixel_values.shape[2:])
    assert_same_labels(batch.labels, expected.labels)


def test_trap_7_boxes_stay_relative_to_their_image_in_a_mixed_batch() -> None:
    images, annotations = [smooth(40, 80), smooth(80, 40)], [annotation(40, 80), annotation(80, 40)]
    processor = ConditionalDetrImageProcessor(size=SMALL)
    together = processor(images, annotations, return_segmentation_masks=True)
    assert together.pixel_values.shape == (2, 3, 96, 96)
    for index, (image, target) in enumerate(zip(images, annotations, strict=True)):
        (alone,) = processor(image, target, return_segmentation_masks=True).labels
        label = together.labels[index]
        for name in ("boxes", "area", "size", "orig_size", "class_labels"):
            assert torch.equal(label[name], alone[name]), name
        assert label.masks.shape == (3, 96, 96)
        height, width = alone.masks.shape[1:]
        assert torch.equal(label.masks[:, :height, :width], alone.masks)
        assert label.masks.sum() == alone.masks.sum()
        box = target["annotations"][0]["bbox"]
        center_x, center_y = (box[0] + box[2] / 2) / image.shape[1], (box[1] + box[3] / 2) / image.shape[0]
        torch.testing.assert_close(label.boxes[0, :2], torch.tensor([center_x, center_y]))
    canvas = processor(images[0], annotations[0], pad_size={"height": 200, "width": 300})
    assert torch.equal(canvas.labels[0].boxes, together.labels[0].boxes)


def test_trap_6_an_image_with_a_crowd_has_the_masks_of_its_boxes() -> None:
    batch = ConditionalDetrImageProcessor(size=SMALL)(smooth(50, 70), annotation(50, 70, crowd=True), True)
    (label,) = batch.labels
    assert label.class_labels.tolist() == [1, 7]
    assert len(label.boxes) == len(label.masks) == len(label.area) == len(label.iscrowd) == 2
    (without,) = ConditionalDetrImageProcessor(size=SMALL)(smooth(50, 70), annotation(50, 70), True).labels
    assert torch.equal(label.masks, without.masks[[0, 2]])


def test_files_and_images_of_every_mode_make_one_batch(tmp_path: Path) -> None:
    photo = Image.fromarray(smooth(50, 70))
    photo.save(tmp_path / "photo.png")
    modes = [photo.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F")]
    sixteen_bit = Image.fromarray(np.array(photo.convert("L")).astype(np.uint16) * 257)
    sources = [tmp_path / "photo.png", str(tmp_path / "photo.png"), sixteen_bit, *modes]
    batch = ConditionalDetrImageProcessor(size=SMALL)(sources)
    assert batch.pixel_values.shape == (len(sources), 3, 64, 89)
    assert torch.equal(batch.pixel_values[0], batch.pixel_values[1])
    grey = batch.pixel_values[3 + 1]
    for index in (2, 3 + 7, 3 + 8):
        assert torch.equal(batch.pixel_values[index], grey)


def test_grey_rgba_and_batched_arrays_are_images() -> None:
    processor = ConditionalDetrImageProcessor(size=SMALL)
    image = smooth(50, 70)
    expected = processor(image).pixel_values
    rgba = np.concatenate([image, image[..., :1]], axis=-1)
    assert torch.equal(processor(rgba).pixel_values, expected)
    assert torch.equal(processor(np.stack([image, image])).pixel_values, expected.expand(2, -1, -1, -1))
    assert processor(image[..., 0]).pixel_values.shape == expected.shape
    assert torch.equal(
        processor(image[:3], input_data_format="channels_last").pixel_values[0],
        processor(image[:3].transpose(2, 0, 1).copy(), input_data_format="channels_first").pixel_values[0],
    )


def test_images_of_different_sizes_need_padding_to_make_a_batch() -> None:
    with pytest.raises(ValueError, match="do_pad=True"):
        ConditionalDetrImageProcessor(size=SMALL, do_pad=False)([smooth(40, 60), smooth(60, 40)])


def test_the_result_moves_and_casts_as_one(tmp_path: Path) -> None:
    batch = ConditionalDetrImageProcessor(size=SMALL)(smooth(50, 70), annotation(50, 70))
    assert batch.to("cpu", torch.float16) is batch
    assert batch.pixel_values.dtype == batch["labels"][0]["boxes"].dtype == torch.float16
    assert batch.pixel_mask.dtype == batch.labels[0].class_labels.dtype == torch.int64
    assert batch.to(torch.float32).pixel_values.dtype == torch.float32
    assert batch.labels[0].to("meta").boxes.device.type == "meta"
    assert set(dict(**batch)) == {"pixel_values", "pixel_mask", "labels"}
    assert not hasattr(batch, "input_ids")
    torch.save(dict(batch), tmp_path / "batch.pt")


def test_arrays_are_returned_when_asked_for() -> None:
    batch = ConditionalDetrImageProcessor(size=SMALL)(smooth(50, 70), annotation(50, 70), return_tensors="np")
    assert isinstance(batch.pixel_values, np.ndarray)
    assert isinstance(batch.labels[0].boxes, np.ndarray)


def test_the_processor_itself_is_not_changed_by_a_call() -> None:
    processor = ConditionalDetrImageProcessor(size=SMALL)
    before = processor.to_dict()
    processor(smooth(50, 70), size=32, max_size=40, do_normalize=False, format="coco_detection")
    assert processor.to_dict() == before
    assert processor(smooth(50, 70), size=32, max_size=40).pixel_values.shape[2:] == (29, 40)


@pytest.mark.parametrize(("ours", "theirs"), FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": 480},
        {"size": 480, "max_size": 640},
        {"size": {"height": 5, "width": 6}, "pad_size": {"height": 9, "width": 9}},
        {"do_normalize": False},
        {"do_pad": False, "format": "coco_panoptic", "resample": 3, "image_mean": [0.1, 0.2, 0.3]},
        {"pad_and_return_pixel_mask": False},
    ],
)
def test_what_is_saved_here_transformers_opens_and_the_other_way_round(
    ours, theirs, options: dict, tmp_path: Path
) -> None:
    ours(**options).save_pretrained(tmp_path / "ours")
    opened = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert type(opened) is theirs
    assert opened.to_dict() == theirs(**options).to_dict()
    theirs(**options).save_pretrained(tmp_path / "theirs")
    assert ours.from_pretrained(tmp_path / "theirs").to_dict() == ours(**options).to_dict()
    assert ours.from_pretrained(str(tmp_path / "ours")).to_dict() == ours(**options).to_dict()
    assert json.loads(ours(**options).to_json_string()) == json.loads(theirs(**options).to_json_string())


def test_files_of_older_transformers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    first = {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "DetrFeatureExtractor",
        "max_size": 1000,
    }
    path.write_text(json.dumps({**first, "format": "coco_detection", "image_mean": [0.485, 0.456, 0.406], "size": 600}))
    assert DetrImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 600, "longest_edge": 1000}
    later = {"image_processor_type": "DetrImageProcessorFast", "crop_size": None, "device": None, "pad_size": None}
    path.write_text(
        json.dumps({**later, "data_format": "channels_first", "do_pad": True, "size": SMALL, "resample": 2})
    )
    processor = DetrImageProcessor.from_pretrained(path)
    assert processor.size == SMALL and processor.pad_size is None
    processor(smooth(50, 70))


def test_a_step_that_transformers_saved_as_null_is_left_out(tmp_path: Path) -> None:
    theirs = transformers.DetrImageProcessor(size=SMALL)
    theirs.do_normalize = None
    theirs.save_pretrained(tmp_path)
    image = smooth(50, 70)
    ours = DetrImageProcessor.from_pretrained(tmp_path)
    assert_same_pixels(ours(image), theirs(image, return_tensors="pt"))
    assert ours.do_normalize is False


def test_a_processor_in_a_subfolder_is_that_one(tmp_path: Path) -> None:
    DetrImageProcessor(size=32).save_pretrained(tmp_path)
    DetrImageProcessor(size=SMALL).save_pretrained(save_directory=tmp_path / "inner")
    for reader in (DetrImageProcessor, AutoImageProcessor):
        assert reader.from_pretrained(pretrained_model_name_or_path=tmp_path, subfolder="inner").size == SMALL
    with pytest.raises(OSError, match="other"):
        DetrImageProcessor.from_pretrained(tmp_path, subfolder="other")


def test_unknown_fields_are_kept_and_written_back(tmp_path: Path) -> None:
    values = {
        "image_processor_type": "ConditionalDetrImageProcessor",
        "size": SMALL,
        "made_by": "me",
        "nested": {"a": [1]},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    processor = ConditionalDetrImageProcessor.from_pretrained(tmp_path, do_normalize=False)
    assert not processor.do_normalize
    processor.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
    assert written["made_by"] == "me" and written["nested"] == {"a": [1]} and written["size"] == SMALL
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["preprocessor_config.json"]


def test_a_pth_file_has_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({}, path)
    assert DetrImageProcessor.from_pretrained(path, size=600).size == {"shortest_edge": 600, "longest_edge": 1333}
    with pytest.raises(FileNotFoundError, match=r"other\.pth: no such file"):
        DetrImageProcessor.from_pretrained(tmp_path / "other.pth")


def test_a_repository_in_the_local_cache_is_read_without_a_network(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--detector"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    DetrImageProcessor(size=SMALL).save_pretrained(snapshot)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    assert DetrImageProcessor.from_pretrained("someone/detector", **options).size == SMALL
    with pytest.raises(OSError, match="someone/other") as error:
        DetrImageProcessor.from_pretrained("someone/other", **options)
    assert "\n" not in str(error.value)


def test_folders_that_hold_no_processor_are_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"holds no preprocessor_config\.json"):
        DetrImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        DetrImageProcessor.from_pretrained(tmp_path / "nowhere")
    for content, message in [("{", "is not JSON"), ("[]", "JSON object"), ('{"size": "big"}', "size must be")]:
        (tmp_path / "preprocessor_config.json").write_text(content)
        with pytest.raises(ValueError, match=message) as error:
            DetrImageProcessor.from_pretrained(tmp_path)
        assert "preprocessor_config.json" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(OSError, match="is a file"):
        DetrImageProcessor().save_pretrained(tmp_path / "preprocessor_config.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "voc"}, "coco_detection, coco_panoptic"),
        ({"size": {"width": 3}}, "size must have"),
        ({"pad_size": {"shortest_edge": 3}}, "pad_size must have"),
        ({"resample": 17}, "resample must be"),
        ({"image_mean": [0.5]}, "image_mean must be"),
        ({"pad_size": 10}, "larger than the canvas of 10 x 10"),
        ({"data_format": "channels_last"}, "data_format"),
        ({"return_tensors": "tf"}, "return_tensors"),
        ({"annotations": []}, "0 annotations for 1 images"),
        ({"annotations": [{"image_id": 1}]}, "missing: 'annotations'"),
        ({"annotations": annotation(50, 70), "format": "coco_panoptic"}, "missing: 'file_name', 'segments_info'"),
    ],
)
def test_an_argument_that_means_nothing_is_named_in_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ConditionalDetrImageProcessor(size=SMALL)(smooth(50, 70), **options)
    assert "\n" not in str(error.value)


def test_a_misspelt_argument_of_a_call_is_named() -> None:
    with pytest.raises(TypeError, match="'do_resise'"):
        ConditionalDetrImageProcessor()(smooth(50, 70), do_resise=False)
    with pytest.raises(TypeError, match="annotations must be one dict, or one an image, got int"):
        ConditionalDetrImageProcessor()(smooth(50, 70), annotations=5)
    with pytest.raises(ValueError, match="no images"):
        ConditionalDetrImageProcessor()([])


def test_filters_may_be_named_in_either_way() -> None:
    names = [Image.Resampling.BICUBIC, 3, InterpolationMode.BICUBIC]
    assert {ConditionalDetrImageProcessor(resample=name).resample for name in names} == {3}
    assert ConditionalDetrImageProcessor(resample=InterpolationMode.NEAREST_EXACT).resample == 0


def test_older_names_are_the_same_classes() -> None:
    for family in ("ConditionalDetr", "Detr"):
        processor = getattr(image_processor, f"{family}ImageProcessor")
        assert getattr(image_processor, f"{family}ImageProcessorFast") is processor
        assert getattr(image_processor, f"{family}FeatureExtractor") is processor
