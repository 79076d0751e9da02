"""Damaged annotation files are read, or refused in one line that names file, list, position and field."""

import json
import re

import numpy as np
import pytest
from coco_files import box, write_set
from json_mutants import mutants
from PIL import Image

from conditional_detr.data.formats.image_files import exist
from conditional_detr.data.splits import read_split_files
from conditional_detr.evaluate.coco_metrics import coco_metrics
from conditional_detr.evaluate.evaluation import score
from conditional_detr.evaluate.predictions import DatasetPredictions
from conditional_detr.results.panoptic_files import write_panoptic_png

POLYGON = [[2, 2, 12, 2, 12, 9, 2, 9]]
# Faults of one entry name it; others are of the file as a whole.
ENTRY = re.compile(r"(images|annotations|categories)\[\d+\]")
WHOLE = re.compile(
    r"needs the lists|lists no|not one of|is not JSON|are not in|none of its|have no PNG|have the ids|other way round|"
    r"seem to be|pixels of segment|no pixel of segment|no such file|no annotations|; image .* has"
)


@pytest.fixture
def files(tmp_path):
    """(annotation file, image folder) of a set of two pictures with boxes and masks, and of a panoptic one."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (7, 8)]
    annotations = [
        {**box([2, 2, 10, 7], image=image, segmentation=POLYGON, area=70), "id": number}
        for number, image in enumerate((7, 7, 8), start=1)
    ]
    annotations[2]["segmentation"] = {"size": [30, 40], "counts": [100, 50, 1050]}
    folder = write_set(tmp_path, annotations, images)
    segments = [{"id": 5, "category_id": 3, "area": 50, "bbox": [0, 0, 5, 10], "iscrowd": 0}]
    for image in (7, 8):
        ids = np.zeros((30, 40), int)
        ids[:10, :5] = 5
        write_panoptic_png(folder / "panoptic" / "train" / f"{image}.png", ids)
    categories = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}]
    rows = [{"image_id": i, "file_name": f"{i}.png", "segments_info": segments} for i in (7, 8)]
    content = {"images": images, "annotations": rows, "categories": categories}
    (folder / "annotations/panoptic_train.json").write_text(json.dumps(content))
    return folder / "annotations", folder / "images/train"


def check(file, images, task, skip):
    """Read, and score where it can be read: a message, or None."""
    try:
        data = read_split_files(file, images, task, skip)
        if len(data.boxes):
            score(DatasetPredictions(), data)
            data.summary(5)
            data.fingerprint()
    except (ValueError, OSError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("task", ["detection", "instance", "panoptic"])
def test_a_damaged_file_is_read_or_refused_in_one_line_that_says_where(files, task):
    annotations, images = files
    file = annotations / ("panoptic_train.json" if task == "panoptic" else "train.json")
    content = json.loads(file.read_text())
    assert check(file, images, task, skip=False) is None
    refused = 0
    for number, mutant in enumerate(mutants(content, seed=9, count=250)):
        file.write_text(json.dumps(mutant))
        message = check(file, images, task, skip=number % 4 == 0)
        if message is not None:
            refused += 1
            assert file.name in message or ".png" in message, message
            assert "\n" not in message and message.isprintable(), message
            assert ENTRY.search(message) or WHOLE.search(message), message
    assert 50 < refused < 250


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("images", {"width": float("inf")}, "width is inf; expected a whole number of pixels"),
        ("images", {"width": 1e30}, "width is 1e[+]30; expected"),
        ("images", {"height": 10**400}, "height is 1000.*…; expected"),
        ("images", {"file_name": 3}, "file_name is 3; expected the name of a file"),
        ("images", {"id": True}, "id is True; expected a whole number or a string"),
        ("images", {"id": 1.5}, "id is 1.5; expected a whole number or a string"),
        ("annotations", {"bbox": [10**400, 0, 1, 1]}, "expected four finite numbers"),
        ("annotations", {"bbox": "0 0 1 1"}, "bbox is '0 0 1 1'; expected four finite numbers"),
        ("annotations", {"area": "12"}, "area is '12'; expected a finite number"),
        ("annotations", {"iscrowd": "0"}, "iscrowd is '0'; expected 0 or 1"),
        ("annotations", {"image_id": "7"}, "image_id is '7', which is not in 'images', where it is the number 7 and here"),
        ("categories", {"id": "3"}, "id is '3'; expected a whole number"),
        ("categories", {"name": None}, "name is None; expected a string"),
    ],
)  # fmt: skip
def test_entry_field_and_value_are_named(files, name, changes, message):
    annotations, images = files
    content = json.loads((annotations / "train.json").read_text())
    content[name][0].update(changes)
    (annotations / "train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"train\.json: {name}\[0\] \(id .*\): .*{message}"):
        read_split_files(annotations / "train.json", images, "detection", False)


def test_string_boxes_in_segments_are_named(files):
    annotations, images = files
    content = json.loads((annotations / "panoptic_train.json").read_text())
    content["annotations"][1]["segments_info"][0]["bbox"] = ["0", "0", "5", "5"]
    (annotations / "panoptic_train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"annotations\[1\]\.segments_info\[0\] \(id 5\): bbox is .* four finite"):
        read_split_files(annotations / "panoptic_train.json", images, "panoptic", False)


def test_numbers_of_thousands_of_digits_and_deep_nesting_are_no_tracebacks(files):
    annotations, images = files
    for text in ("1" * 5000, "[" * 100_000):
        (annotations / "train.json").write_text(text)
        with pytest.raises(ValueError, match=r"train\.json is not JSON"):
            read_split_files(annotations / "train.json", images, "detection", False)


@pytest.mark.parametrize("project", ["cats-and-dogs", "cat"])
def test_roboflows_parent_category_is_left_out_and_said(tmp_path, project):
    categories = [
        {"id": 0, "name": project, "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": project},
        {"id": 9, "name": "dog", "supercategory": project},
    ]
    folder = write_set(tmp_path, [box([1, 1, 9, 9])], categories=categories)
    files = folder / "annotations/train.json", folder / "images/train"
    data = read_split_files(*files, "detection", False)
    assert data.category_names == ["cat", "dog"] and data.category_ids == [3, 9]
    assert f"category 0 '{project}'" in "\n".join(data.summary())
    assert score(DatasetPredictions(), data).per_class.keys() == {"cat", "dog"}


def test_category_0_with_annotations_stays(tmp_path):
    categories = [{"id": 0, "name": "a", "supercategory": "none"}, {"id": 3, "name": "b", "supercategory": "a"}]
    folder = write_set(tmp_path, [box([1, 1, 9, 9], category=0)], categories=categories)
    data = read_split_files(folder / "annotations/train.json", folder / "images/train", "detection", False)
    assert data.category_names == ["a", "b"]


def test_a_name_that_the_file_system_opens_is_not_missing(tmp_path, monkeypatch):
    # Folders that ignore case open files by names that they do not list.
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr("os.listdir", lambda folder: ["A.PNG"])
    assert exist(tmp_path, ["a.png", "b.png", "x" * 300]) == [True, False, False]


def test_perfect_predictions_score_one_whatever_the_annotations_ids(tmp_path):
    annotations = [{**box([4 * i, 2, 3, 9]), "id": number} for i, number in enumerate((1, 1, None, "a", 0, -4, 2**70))]
    del annotations[2]["id"]
    images = [{"id": 7, "file_name": "a.png", "width": 40, "height": 30}]
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cat"}]}
    results = [{"image_id": 7, "category_id": 3, "bbox": a["bbox"], "score": 0.9} for a in annotations]
    assert coco_metrics(truth, results).summary["AP"] == pytest.approx(1)
