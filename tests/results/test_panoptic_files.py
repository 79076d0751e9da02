"""Panoptic maps come back from their files as they were written; pictures show every segment."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from conditional_detr.coco_masks import segment_ids
from conditional_detr.evaluate.coco_metrics import panoptic_metrics
from conditional_detr.images.read import read_image
from conditional_detr.predict.draw_maps import draw_panoptic
from conditional_detr.processors.annotations import panoptic_labels
from conditional_detr.results.panoptic_files import keep_classes, panoptic_png_bytes, panoptic_row, write_panoptic_png

IDS = torch.tensor([[0, 1, 255, 256], [65535, 65536, 256**3 - 1, 1]])
MAP = torch.tensor([[1, 1, 2, 2, 2, -1], [1, 1, 4, 4, 2, -1]], dtype=torch.int32)
SEGMENTS = [
    {"id": 1, "label_id": 0, "was_fused": False, "score": 0.9},
    {"id": 2, "label_id": 2, "was_fused": True, "score": 0.8},
    {"id": 3, "label_id": 0, "was_fused": False, "score": 0.7},  # has no pixel
    {"id": 2, "label_id": 2, "was_fused": True, "score": 0.6},
    {"id": 4, "label_id": 0, "was_fused": False, "score": 0.5},
]


def test_ids_come_back_from_the_file(tmp_path):
    write_panoptic_png(tmp_path / "new" / "a.png", IDS)
    assert torch.equal(segment_ids(read_image(tmp_path / "new" / "a.png")), IDS)
    assert (tmp_path / "new" / "a.png").read_bytes() == panoptic_png_bytes(IDS.numpy())
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.png"]
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.getpixel((1, 1)) == (0, 0, 1) and image.getpixel((3, 0)) == (0, 1, 0)  # 65536, 256


def test_where_nothing_was_found_all_is_void():
    nothing = torch.full((3, 4), -1.0)  # what post-processing gives then
    image = Image.open(io.BytesIO(panoptic_png_bytes(nothing)))
    assert image.size == (4, 3) and not np.asarray(image).any()
    assert panoptic_row(5, "a.png", nothing, [], []) == {"image_id": 5, "file_name": "a.png", "segments_info": []}


def test_an_id_too_large_for_three_bytes_is_refused():
    with pytest.raises(ValueError, match="segment id 16777216 does not fit"):
        panoptic_png_bytes(IDS + 1)


def test_a_row_lists_what_has_pixels_once():
    row = panoptic_row(5, "a.png", MAP, SEGMENTS, [10, 20, 30])
    assert row == {
        "image_id": 5,
        "file_name": "a.png",
        "segments_info": [
            {"id": 1, "category_id": 10, "area": 4, "iscrowd": 0, "score": 0.9},
            {"id": 2, "category_id": 30, "area": 4, "iscrowd": 0, "score": 0.8},
            {"id": 4, "category_id": 10, "area": 2, "iscrowd": 0, "score": 0.5},
        ],
    }
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (SEGMENTS[:4], "a.png: 2 pixels have the id 4, but no segment"),
        ([*SEGMENTS, {"id": 4, "label_id": 2}], "a.png: segment 4 is of category 10 and of 30"),
        ([*SEGMENTS[:4], {"id": 4, "label_id": 7}], "a.png: segment 4 is of class 7, which has no category id"),
    ],
)
def test_rows_that_contradict_their_map_are_refused(segments, message):
    with pytest.raises(ValueError, match=message):
        panoptic_row(5, "a.png", MAP, segments, [10, 20, 30])


def test_classes_that_the_data_lacks_become_void():
    ids, segments = keep_classes(MAP, SEGMENTS, {2: 30})
    assert ids.tolist() == [[0, 0, 2, 2, 2, 0], [0, 0, 0, 0, 2, 0]]
    assert [segment["id"] for segment in segments] == [2, 2]
    assert [s["area"] for s in panoptic_row(5, "a.png", ids, segments, {2: 30})["segments_info"]] == [4]


def test_what_is_written_can_be_scored_and_trained_on(scenes, tmp_path):
    truth = json.loads((scenes / "annotations/panoptic_val.json").read_text())
    class_of = {category["id"]: i for i, category in enumerate(truth["categories"])}
    rows = []
    for true in truth["annotations"]:
        ids = segment_ids(read_image(scenes / "panoptic/val" / true["file_name"]))
        numbers, small = ids.unique(return_inverse=True)
        label_of = {segment["id"]: class_of[segment["category_id"]] for segment in true["segments_info"]}
        segments = [{"id": i, "label_id": label_of[n], "score": 0.5} for i, n in enumerate(numbers.tolist(), start=1)]
        rows.append(panoptic_row(true["image_id"], true["file_name"], small + 1, segments, list(class_of)))
        write_panoptic_png(tmp_path / true["file_name"], small + 1)
        again = panoptic_labels(rows[-1], *ids.shape, tmp_path)
        by_area = panoptic_labels(true, *ids.shape, scenes / "panoptic/val")
        assert sorted(again["area"].tolist()) == sorted(by_area["area"].tolist())
    assert set(panoptic_metrics(truth, scenes / "panoptic/val", rows, tmp_path).summary.values()) == {1.0}


def test_pictures_colour_classes_alike_and_their_segments_apart():
    image = torch.full((3, 256, 384), 128, dtype=torch.uint8)
    ids = torch.zeros((256, 384), dtype=torch.int64)
    ids[:, :100], ids[:, 100:200], ids[:, 200:300] = 1, 2, 3
    segments = [{"id": 1, "label_id": 0}, {"id": 2, "label_id": 0}, {"id": 3, "label_id": 1}]
    picture = np.asarray(draw_panoptic(image, ids, segments, {0: "cat", 1: "sky"})).astype(int)
    assert picture.shape == (256, 384, 3)
    first, second, other, void = (picture[20, x].tolist() for x in (50, 150, 250, 350))
    assert void == [128, 128, 128] and len({tuple(c) for c in (first, second, other, void)}) == 4
    alone = draw_panoptic(image, ids, [segments[2]], {1: "sky"})
    assert list(alone.getpixel((250, 20))) == other, "a class has its colour in every picture"
    assert list(alone.getpixel((50, 20))) == void
    assert (picture[20, 199:201] == 255).all(), "a border"
    assert not (picture[120:136, 30:70] == first).all(), "a name in the middle of the segment"


def test_small_pictures_are_enlarged_and_nothing_is_drawn_on_void():
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    plain = draw_panoptic(image, torch.full((40, 60), -1.0), [], {})
    assert plain.size == (420, 280)
    ids = torch.ones((40, 60), dtype=torch.int32)
    assert draw_panoptic(image, ids, [{"id": 1, "label_id": 30}], {30: "sky"}).size == (420, 280)
