"""COCO annotations become labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.ops import masks_to_boxes

from conditional_detr.coco_masks import (
    boxes_around_masks,
    mask_from_segmentation,
    masks_from_segmentations,
    segment_ids,
)
from conditional_detr.processors.annotations import (
    detection_labels,
    pad_labels,
    panoptic_labels,
    relative_labels,
    resize_labels,
)

TRIANGLE = [[2.0, 2.0, 20.0, 2.0, 2.0, 16.0]]
OBJECTS = [
    {"category_id": 3, "bbox": [2, 2, 18, 14], "area": 126.0, "iscrowd": 0, "segmentation": TRIANGLE},
    {
        "category_id": 4,
        "bbox": [0, 0, 30, 20],
        "area": 600.0,
        "iscrowd": 1,
        "segmentation": {"size": [20, 30], "counts": [0, 600]},
    },
    {
        "category_id": 5,
        "bbox": [25, 15, 50, 50],
        "area": 25.0,
        "iscrowd": 0,
        "segmentation": [[25, 15, 30, 15, 30, 20, 25, 20]],
    },
    {"category_id": 6, "bbox": [40, 3, 5, 5], "area": 25.0, "iscrowd": 0, "segmentation": [[40, 3, 45, 3, 45, 8]]},
]


def annotation(objects=OBJECTS) -> dict:
    return {"image_id": 42, "annotations": objects}


def test_labels_hold_the_objects_inside_the_image_without_the_crowds() -> None:
    labels = detection_labels(annotation(), 20, 30, return_masks=True)
    assert labels["class_labels"].tolist() == [3, 5]
    assert labels["boxes"].tolist() == [[2, 2, 20, 16], [25, 15, 30, 20]]
    assert labels["area"].tolist() == [126, 25]
    assert labels["iscrowd"].tolist() == [0, 0]
    assert labels["image_id"].tolist() == [42]
    assert labels["orig_size"].tolist() == labels["size"].tolist() == [20, 30]
    assert labels["masks"].shape == (2, 20, 30)
    assert labels["masks"].dtype == torch.bool
    assert torch.equal(labels["masks"][1], mask_from_segmentation(OBJECTS[2]["segmentation"], 20, 30))


def test_an_image_without_objects_has_empty_labels_all_the_way() -> None:
    for objects in ([], [OBJECTS[1]]):
        labels = detection_labels(annotation(objects), 20, 30, return_masks=True)
        labels = relative_labels(pad_labels(resize_labels(labels, 40, 60), 50, 70))
        assert labels["boxes"].shape == (0, 4)
        assert labels["class_labels"].shape == labels["area"].shape == (0,)
        assert labels["masks"].shape == (0, 50, 70)


def test_an_object_without_an_area_has_that_of_its_box() -> None:
    labels = detection_labels(annotation([{"category_id": 1, "bbox": [1, 2, 3, 4]}]), 20, 30)
    assert labels["area"].tolist() == [12]


def test_boxes_and_masks_follow_the_image_when_it_is_resized_and_padded() -> None:
    labels = detection_labels(annotation(), 20, 30, return_masks=True)
    resized = resize_labels(labels, 40, 90)
    assert resized["boxes"].tolist() == [[6, 4, 60, 32], [75, 30, 90, 40]]
    assert resized["area"].tolist() == [756, 150]
    assert resized["size"].tolist() == [40, 90]
    assert resized["orig_size"].tolist() == [20, 30]
    assert torch.equal(resized["masks"], labels["masks"].repeat_interleave(2, 1).repeat_interleave(3, 2))
    padded = relative_labels(pad_labels(resized, 64, 96))
    assert padded["masks"].shape == (2, 64, 96)
    assert torch.equal(padded["masks"][:, :40, :90], resized["masks"])
    assert not padded["masks"][:, 40:].any() and not padded["masks"][:, :, 90:].any()
    assert padded["size"].tolist() == [40, 90]
    torch.testing.assert_close(padded["boxes"][1], torch.tensor([27.5 / 30, 17.5 / 20, 5 / 30, 5 / 20]))


def test_polygons_become_the_masks_of_pycocotools() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in random.integers(1, 60, 2))
        polygons = [
            (random.random(2 * random.integers(3, 8)) * 70 - 5).round(int(random.integers(0, 3))).tolist()
            for _ in range(random.integers(1, 4))
        ]
        expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
        np.testing.assert_array_equal(mask_from_segmentation(polygons, height, width).numpy(), expected)


def test_run_lengths_of_every_form_become_the_masks_of_pycocotools() -> None:
    pixels = np.asfortranarray(np.random.default_rng(0).random((17, 23)) > 0.5)
    compressed = coco_mask.encode(pixels.astype(np.uint8))
    edges = np.flatnonzero(np.diff(pixels.ravel(order="F"), prepend=False))
    counts = np.diff(edges, prepend=0, append=pixels.size).tolist()
    size = list(pixels.shape)
    for run_lengths in (
        compressed,
        {"size": size, "counts": compressed["counts"].decode()},
        {"size": size, "counts": counts},
    ):
        np.testing.assert_array_equal(mask_from_segmentation(run_lengths, 17, 23).numpy(), pixels)


def test_no_segmentation_is_an_empty_mask() -> None:
    assert not mask_from_segmentation([], 4, 5).any()
    assert masks_from_segmentations([], 4, 5).shape == (0, 4, 5)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [1, 2, 3, 4, 5, 6],
        "abc",
        None,
        {"counts": [5]},
        {"size": [4, 4], "counts": [20]},
        {"size": [4, 5], "counts": [99]},
        {"size": [4, 5], "counts": None},
    ],
)
def test_a_segmentation_that_means_nothing_is_a_value_error(segmentation) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        mask_from_segmentation(segmentation, 4, 5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"annotations": []}, "'image_id'"),
        ({"image_id": 1}, "'annotations'"),
        ({"image_id": 1, "annotations": {}}, "list of dicts"),
        ([], "dict"),
        (annotation([{"bbox": [1, 2, 3, 4]}]), "'category_id'"),
        (annotation([{"category_id": 1}]), "'bbox'"),
        (annotation([{"category_id": 1, "bbox": [1, 2, 3], "segmentation": []}]), "4 numbers"),
        (annotation([{"category_id": 1, "bbox": [1, 2, 3, 4]}]), "'segmentation'"),
        ({"image_id": "a.jpg", "annotations": []}, "image_id"),
    ],
)
def test_what_an_annotation_lacks_is_named_in_one_line(given, missing: str) -> None:
    with pytest.raises(ValueError, match=missing) as error:
        detection_labels(given, 20, 30, return_masks=True)
    assert "\n" not in str(error.value)


def panoptic(folder: Path, **changes) -> dict:
    """A file of 20 x 30 with two things and a crowd, and its annotation."""
    ids = np.full((20, 30), 7, dtype=np.int64)
    ids[4:10, 5:17] = 70_000
    ids[:, 25:] = 1_000_000
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(colors).save(folder / "segments.png")
    segments = [
        {"id": 70_000, "category_id": 5, "area": 72, "iscrowd": 0},
        {"id": 1_000_000, "category_id": 6, "area": 100, "iscrowd": 1},
        {"id": 7, "category_id": 90, "area": 428, "iscrowd": 0},
        {"id": 12345, "category_id": 91, "area": 3, "iscrowd": 0},
    ]
    return {"image_id": 9, "file_name": "segments.png", "segments_info": segments, **changes}


def test_segments_of_a_panoptic_file_become_labels(tmp_path: Path) -> None:
    labels = panoptic_labels(panoptic(tmp_path), 20, 30, tmp_path)
    assert labels["class_labels"].tolist() == [5, 90]
    assert labels["boxes"].tolist() == [[5, 4, 16, 9], [0, 0, 24, 19]]
    assert labels["area"].tolist() == labels["masks"].flatten(1).sum(1).tolist() == [72, 428]
    assert labels["image_id"].tolist() == [9]
    assert "masks" not in panoptic_labels(panoptic(tmp_path), 20, 30, str(tmp_path), return_masks=False)


def test_a_panoptic_file_of_another_size_than_its_image_is_resized_with_its_boxes_and_areas(tmp_path: Path) -> None:
    annotation = panoptic(tmp_path)
    labels, larger = (panoptic_labels(annotation, *size, tmp_path) for size in ((20, 30), (60, 90)))
    by_pillow = [Image.fromarray(mask.numpy()).resize((90, 60), Image.Resampling.NEAREST) for mask in labels["masks"]]
    assert torch.equal(larger["masks"], torch.tensor(np.array([np.array(mask) for mask in by_pillow])))
    assert torch.equal(larger["boxes"], boxes_around_masks(larger["masks"]))
    assert larger["area"].tolist() == larger["masks"].flatten(1).sum(1).tolist() == [72 * 9, 428 * 9]
    assert panoptic_labels(annotation, 7, 10, tmp_path)["masks"].shape == (2, 7, 10)  # as rounded as sizes are


def test_what_a_panoptic_annotation_lacks_is_named(tmp_path: Path) -> None:
    good = panoptic(tmp_path)
    for name in ("image_id", "file_name", "segments_info"):
        with pytest.raises(ValueError, match=f"missing: '{name}'"):
            panoptic_labels({key: value for key, value in good.items() if key != name}, 20, 30, tmp_path)
    with pytest.raises(ValueError, match="masks_path"):
        panoptic_labels(good, 20, 30, None)
    with pytest.raises(ValueError, match=r"segments\.png: 20 x 30 pixels, but its image has 30 x 20"):
        panoptic_labels(good, 30, 20, tmp_path)
    with pytest.raises(OSError, match=r"other\.png"):
        panoptic_labels({**good, "file_name": "other.png"}, 20, 30, tmp_path)


def test_boxes_around_masks_are_those_of_torchvision() -> None:
    masks = torch.rand(20, 13, 17, generator=torch.Generator().manual_seed(0)) > 0.97
    masks = masks[masks.flatten(1).any(1)]
    assert torch.equal(boxes_around_masks(masks), masks_to_boxes(masks))


def test_colours_are_segment_ids_in_base_256() -> None:
    assert segment_ids(torch.tensor([[[1]], [[2]], [[3]]], dtype=torch.uint8)).item() == 1 + 2 * 256 + 3 * 65536
