"""Ids are the user's: whole numbers of any size, or strings, from the file to the predictions."""

import json

import numpy as np
import pytest
import torch
from coco_files import box, write_set

from conditional_detr.data.formats.coco import read_coco
from conditional_detr.evaluate.coco_metrics import panoptic_metrics
from conditional_detr.evaluate.evaluation import score
from conditional_detr.evaluate.predictions import DatasetPredictions, map_file_name, write_predictions
from conditional_detr.results.panoptic_files import panoptic_png_bytes, panoptic_row, write_panoptic_png

KINDS = [0, -3, 2**70, 10**400, "a", "../../escape", "1", 5.0]


def two_images(folder, number, other=1, category=3):
    images = [{"id": i, "file_name": "a.png", "width": 40, "height": 30} for i in (number, other)]
    annotations = [box([2, 2, 9, 9], image=i, category=category) for i in (number, other)]
    categories = [{"id": category, "name": "cat"}, {"id": 77, "name": "dog"}]
    write_set(folder, annotations, images, categories)
    return read_coco(folder / "annotations/train.json", folder / "images/train")


def perfect(data):
    return DatasetPredictions(
        [
            {"image_id": i, "category_id": data.category_ids[int(c)], "bbox": [2.0, 2.0, 9.0, 9.0], "score": 0.9}
            for i, c in zip(data.image_ids, data.classes, strict=True)
        ]
    )


@pytest.mark.parametrize("number", KINDS, ids=[str(kind)[:12] for kind in KINDS])
def test_any_image_id_is_scored_and_written_as_it_is(tmp_path, number):
    data = two_images(tmp_path, number)
    assert data.image_ids == [number, 1]
    assert score(perfect(data), data).headline == pytest.approx(1)
    write_predictions(tmp_path / "out.json", perfect(data), data)
    assert [row["image_id"] for row in json.loads((tmp_path / "out.json").read_text())] == [number, 1]


@pytest.mark.parametrize("category", [0, -3, 2**70, 5.0])
def test_any_category_number_is_scored(tmp_path, category):
    data = two_images(tmp_path, 7, category=category)
    assert score(perfect(data), data).per_class["cat"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("number", [True, None, 1.5, float("nan"), [1], {}])
def test_what_is_no_id_is_refused_with_its_place(tmp_path, number):
    with pytest.raises(ValueError, match=r"train\.json: images\[0\] .*: id is .*; expected a whole number or a string"):
        two_images(tmp_path, number)


def test_a_number_and_its_text_are_two_ids_and_1_0_is_1(tmp_path):
    assert two_images(tmp_path / "a", "1", other=1).image_ids == ["1", 1]
    with pytest.raises(ValueError, match=r"images\[1\] \(id 1\): two images have the id 1"):
        two_images(tmp_path / "b", 1.0, other=1)


def test_panoptic_maps_of_any_id_are_scored_and_stay_in_their_folder(tmp_path):
    numbers = [4, "../../escape", "/tmp/escape", 10**400, -2]
    names = [map_file_name(number, index) for index, number in enumerate(numbers)]
    assert names == ["4.png", "image_2.png", "image_3.png", "image_4.png", "-2.png"]
    ids = np.zeros((6, 8), int)
    ids[:3] = 1
    maps, truth = [], []
    for index, (number, name) in enumerate(zip(numbers, names, strict=True)):
        write_panoptic_png(tmp_path / "true" / f"{index}.png", ids)
        write_panoptic_png(tmp_path / "found" / name, ids)
        row = panoptic_row(number, name, torch.from_numpy(ids), [{"id": 1, "label_id": 0}], [3])
        maps.append((row, panoptic_png_bytes(ids)))
        truth.append({**row, "file_name": f"{index}.png"})
    content = {"annotations": truth, "categories": [{"id": 3, "name": "cat", "isthing": 1}]}
    rows = [row for row, _ in maps]
    assert panoptic_metrics(content, tmp_path / "true", rows, tmp_path / "found").summary["PQ"] == pytest.approx(1)
