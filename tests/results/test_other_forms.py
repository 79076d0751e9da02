"""Detections in other programs' forms, read back by these programs or as data sets are read."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as pycocotools_mask
from pycocotools.coco import COCO

from conditional_detr.data.splits import read_all
from conditional_detr.outlines import simple_outlines
from conditional_detr.results.named import Detection
from conditional_detr.results.other_forms import CSV_FIELDS, to_coco, to_csv, to_labelme, to_supervision, to_yolo

WIDTH, HEIGHT = 80, 60
NAMES = ["cat", 'a "dog", brown']


def run_lengths(mask):
    found = pycocotools_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}


def disc(x, y, radius):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


PLAIN = [
    Detection(NAMES[1], 0.9, (1.25, 2.5, 40.75, 50.0), 1),
    Detection(NAMES[0], 0.6, (10.0, 20.0, 30.0, 33.0), 0),
]
MASKED = [
    Detection(NAMES[0], 0.8, (16.0, 11.0, 55.0, 50.0), 0, run_lengths(disc(35, 30, 20) & ~disc(35, 30, 5))),
    Detection(NAMES[1], 0.7, (0.0, 0.0, 80.0, 60.0), 1, run_lengths(disc(5, 5, 4) | disc(70, 50, 6))),
]


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images/1.png")
    return tmp_path / "images/1.png"


def read(folder, task="detection"):
    (data,) = read_all(folder, task)
    return data


def decoded(data):
    return data.masks.decode(0, range(len(data.boxes)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # supervision's, that OpenCV is not there
def test_supervision_has_boxes_scores_classes_and_masks():
    for detections in (PLAIN, MASKED, []):
        found = to_supervision(detections)
        assert len(found) == len(detections)
        assert found.xyxy.tolist() == [list(d.box) for d in detections]
        assert found.confidence.tolist() == pytest.approx([d.score for d in detections])
        assert found.class_id.tolist() == [d.class_id for d in detections]
        assert found["class_name"].tolist() == [d.label for d in detections]
    found = to_supervision(MASKED)
    assert found.mask.sum((1, 2)).tolist() == [d.mask.sum() for d in MASKED]
    assert found[found.class_id == 1].mask.shape == (1, HEIGHT, WIDTH)


def test_pycocotools_loads_coco_results(tmp_path):
    truth = {
        "images": [{"id": 7, "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 3, "name": NAMES[0]}, {"id": 5, "name": NAMES[1]}],
        "annotations": [],
        "info": {},
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    coco = COCO(str(tmp_path / "truth.json"))
    (tmp_path / "boxes.json").write_text(json.dumps(to_coco(PLAIN, 7, [3, 5])))
    boxes = coco.loadRes(str(tmp_path / "boxes.json")).loadAnns([1, 2])
    assert [b["bbox"] for b in boxes] == [[1.25, 2.5, 39.5, 47.5], [10.0, 20.0, 20.0, 13.0]]
    assert [b["category_id"] for b in boxes] == [5, 3] and [b["score"] for b in boxes] == [0.9, 0.6]
    (tmp_path / "masks.json").write_text(json.dumps(to_coco(MASKED, 7, {0: 3, 1: 5})))
    masks = coco.loadRes(str(tmp_path / "masks.json"))
    for number, detection in enumerate(MASKED, start=1):
        assert (masks.annToMask(masks.anns[number]) == detection.mask).all()


def test_yolo_labels_are_read_as_the_same_boxes_and_masks(picture):
    root = picture.parent.parent
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    (root / "labels/1.txt").write_text(to_yolo(PLAIN, WIDTH, HEIGHT))
    data = read(root)
    assert data.boxes == pytest.approx(np.array([d.box for d in PLAIN]), abs=1e-5)
    assert data.classes.tolist() == [1, 0] and data.category_names == NAMES
    (root / "labels/1.txt").write_text(to_yolo(MASKED, WIDTH, HEIGHT))
    assert (decoded(read(root, "instance")).numpy() == np.stack([d.mask for d in MASKED])).all()


def test_labelme_files_are_read_as_the_same_boxes_and_nearly_the_same_masks(picture):
    folder = picture.parent.parent / "labelme"
    folder.mkdir()

    def write(detections):
        (folder / "1.json").write_text(json.dumps(to_labelme(detections, "../images/1.png", WIDTH, HEIGHT)))

    write(PLAIN)
    data = read(folder)
    assert data.image_path(0).resolve() == picture.resolve()
    assert data.boxes == pytest.approx(np.array([d.box for d in PLAIN]))
    assert [data.category_names[i] for i in data.classes] == [d.label for d in PLAIN]
    write(MASKED)
    found = decoded(read(folder, "instance"))
    assert len(found) == 2, "the parts of one object are one object"
    filled = [disc(35, 30, 20), MASKED[1].mask]
    for mask, expected in zip(found, filled, strict=True):
        expected = torch.from_numpy(expected)
        assert (mask & expected).sum() / (mask | expected).sum() > 0.9


def test_simple_outlines_have_few_corners_and_stay_within_a_pixel():
    mask = disc(35, 30, 20)
    (points,) = simple_outlines(mask)
    assert 6 <= len(points) < 30
    corners = np.array(points)
    assert (np.abs(np.linalg.norm(corners - [35.5, 30.5], axis=1) - 20) < 1.6).all()
    assert simple_outlines(disc(3, 3, 1)) == [[(3, 3), (4, 3), (4, 4), (3, 4)]]  # a pixel


def test_csv_is_read_with_its_quotes():
    text = ",".join(CSV_FIELDS) + "\n" + to_csv(PLAIN, "a, b.png", WIDTH, HEIGHT)
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["label"] for row in rows] == [d.label for d in PLAIN] and rows[0]["file"] == "a, b.png"
    assert [float(rows[0][name]) for name in ("x0", "y0", "x1", "y1")] == list(PLAIN[0].box)
