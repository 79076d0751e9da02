"""A data set written in another format, and read again, is the same; others read what is written; nothing else is touched."""

import json

import numpy as np
import pytest
from format_files import picture, voc_set, voc_xml, yolo_set
from golden_cases import shared

from conditional_detr.cli import main
from conditional_detr.data.convert import convert
from conditional_detr.data.splits import read_all, read_split
from conditional_detr.evaluate.coco_metrics import coco_metrics
from conditional_detr.evaluate.evaluation import score
from conditional_detr.evaluate.predictions import DatasetPredictions
from conditional_detr.outlines import outline


def by_name(data):
    """Boxes, classes and masks by the picture's bare name: what every format says."""
    found = {}
    for i in range(len(data)):
        rows = range(data.first[i], data.first[i + 1])
        masks = [] if data.masks is None else [m["counts"] for m in data.masks.run_lengths(i, rows)]
        names = [data.category_names[number] for number in data.classes[rows]]
        found[data.image_path(i).name] = (names, data.boxes[rows].tolist(), data.crowds[rows].tolist(), masks)
    return found


@pytest.mark.parametrize("way", [("yolo",), ("voc",), ("coco",), ("yolo", "voc", "coco"), ("voc", "coco", "yolo")])
def test_boxes_are_the_same_there_and_back(tmp_path, scenes, way):
    folder = scenes
    for number, to in enumerate(way):
        folder = convert(folder, tmp_path / f"{number}_{to}", to, "detection").folder
    for split in ("train", "val"):
        before, after = read_split(scenes, split), read_split(folder, split)
        assert list(by_name(after).values()) == list(by_name(before).values()), "a name in two splits may get another"
        np.testing.assert_array_equal(after.sizes, before.sizes)


@pytest.mark.parametrize("name", ["cards", "bccd"])
@pytest.mark.parametrize("to", ["yolo", "voc", "coco"])
def test_real_boxes_are_the_same_in_every_format(tmp_path, name, to):
    source = shared(f"data/{name}")
    done = convert(source, tmp_path / to, to)
    for split in done.images:
        before = read_split(source, split, shares="")
        after = read_split(done.folder, split, shares="")
        assert by_name(after) == by_name(before)


@pytest.mark.parametrize("to", ["yolo", "coco"])
def test_masks_are_the_same_there_and_back(tmp_path, scenes, to):
    folder = convert(scenes, tmp_path / to, to).folder
    before, after = (read_split(root, "train", "instance") for root in (scenes, folder))
    ours, theirs = by_name(before), by_name(after)
    assert {name: (names, masks) for name, (names, _, _, masks) in theirs.items()} == {
        name: (names, masks) for name, (names, _, _, masks) in ours.items()
    }
    assert not any("cross themselves" in line for line in after.warnings)


def test_real_masks_are_the_same_in_yolos_polygons(tmp_path):
    source = shared("data/nuclei")
    folder = convert(source, tmp_path / "yolo", "yolo").folder
    before, after = (read_split(root, "val", "instance") for root in (source, folder))
    assert {n: v[3] for n, v in by_name(after).items()} == {n: v[3] for n, v in by_name(before).items()}


@pytest.mark.parametrize("seed", range(20))
def test_an_outline_filled_is_the_mask_holes_parts_and_corners(seed):
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(seed)
    mask = rng.random((9, 13)) < rng.uniform(0.1, 0.95)
    mask[rng.integers(9), rng.integers(13)] = True
    found = coco_mask.merge(coco_mask.frPyObjects([outline(mask)], 9, 13))
    np.testing.assert_array_equal(coco_mask.decode(found).astype(bool), mask)


@pytest.mark.parametrize("to", ["yolo", "voc", "coco"])
def test_perfect_predictions_have_ap_1_in_every_format(tmp_path, scenes, to):
    folder = convert(scenes, tmp_path / to, to, "detection").folder
    data = read_split(folder, "val")
    truth = data.to_coco()
    results = [{**a, "score": 1.0} for a in truth["annotations"]]
    assert coco_metrics(truth, results).summary["AP"] == pytest.approx(1)
    if to != "voc":
        masks = read_split(convert(scenes, tmp_path / f"{to}_masks", to).folder, "val", "instance")
        results = [{**a, "score": 1.0} for a in masks.to_coco()["annotations"]]
        metrics = score(DatasetPredictions(results), masks)
        assert metrics.summary["mask_AP"] == pytest.approx(1) and metrics.summary["AP"] == pytest.approx(1)


def test_supervision_and_pycocotools_read_what_is_written(tmp_path, scenes):
    import contextlib
    import io

    from pycocotools.coco import COCO
    from supervision import DetectionDataset

    ours = by_name(read_split(scenes, "train"))
    yolo = convert(scenes, tmp_path / "yolo", "yolo", "detection").folder
    voc = convert(scenes, tmp_path / "voc", "voc").folder
    coco = convert(yolo, tmp_path / "coco", "coco").folder
    theirs = [
        DetectionDataset.from_yolo(str(yolo / "images/train"), str(yolo / "labels/train"), str(yolo / "data.yaml")),
        DetectionDataset.from_coco(str(coco / "images/train"), str(coco / "annotations/train.json")),
    ]
    for data in theirs:
        assert len(data.image_paths) == len(ours)
        for path, found in data.annotations.items():
            names, boxes, _, _ = ours[path.rsplit("/", 1)[-1]]
            assert [data.classes[k] for k in found.class_id] == names
            np.testing.assert_allclose(found.xyxy.reshape(-1, 4), np.reshape(boxes, (-1, 4)), atol=1e-3)
    data = DetectionDataset.from_pascal_voc(str(voc / "JPEGImages"), str(voc / "Annotations"))
    for name, (names, boxes, _, _) in ours.items():  # train is written first, and keeps its names
        found = data.annotations[str(voc / "JPEGImages" / name)]
        assert [data.classes[k] for k in found.class_id] == names
        np.testing.assert_allclose(found.xyxy.reshape(-1, 4), np.reshape(boxes, (-1, 4)), atol=1e-3)
    with contextlib.redirect_stdout(io.StringIO()):
        official = COCO(str(coco / "annotations/train.json"))
    assert len(official.anns) == sum(len(boxes) for _, boxes, _, _ in ours.values())


def test_what_a_format_cannot_say_is_counted(tmp_path, scenes, capsys):
    assert main(["data", "convert", "--data", str(scenes), "--to", "voc", "--output", str(tmp_path / "voc")]) == 0
    said = capsys.readouterr().out
    assert "masks" in said and "ids of categories" in said
    root = voc_set(tmp_path / "difficult")
    done = convert(root, tmp_path / "yolo", "yolo")
    assert done.lost["crowd regions: left out"] == 1
    assert read_split(done.folder, "train", shares="").classes.tolist() == [0]


def test_difficult_objects_are_crowds_and_difficult_again(tmp_path):
    root = voc_set(tmp_path / "one")
    coco = convert(root, tmp_path / "coco", "coco").folder
    rows = json.loads((coco / "annotations/train.json").read_text())["annotations"]
    assert [row["iscrowd"] for row in rows] == [0, 1]
    voc = convert(coco, tmp_path / "voc", "voc").folder
    assert by_name(read_all(voc)[0]) == by_name(read_all(root)[0])


def test_coco_keeps_what_its_file_has(tmp_path, scenes):
    folder = convert(scenes, tmp_path / "coco", "coco").folder
    before, after = (json.loads((root / "annotations/train.json").read_text()) for root in (scenes, folder))
    assert after["annotations"] == before["annotations"] and after["categories"] == before["categories"]


def test_splits_are_made_on_the_way_as_training_makes_them(tmp_path):
    root = tmp_path / "flat"
    for k in range(20):
        picture(root / f"{k}.png", colour=(k, 0, 0))
        voc_xml(root / f"{k}.xml", [("cat", (3, 4, 30, 20), False)])
    done = convert(root, tmp_path / "yolo", "yolo", shares="0.8,0.1,0.1")
    assert done.images == {"train": 16, "val": 2, "test": 2}
    for split in done.images:
        assert set(by_name(read_split(done.folder, split))) == set(by_name(read_split(root, split)))
    assert convert(root, tmp_path / "whole", "yolo").images == {"train": 20}


def test_pictures_of_one_name_are_kept_apart(tmp_path):
    root = tmp_path / "set"
    labels = {"a": "0 .5 .5 .5 .5\n"}
    yolo_set(root, labels, train="[one/images, two/images]", val=None)
    for k, part in enumerate(("one", "two")):
        picture(root / part / "images/a.png", colour=(k, 9, 9))
        (root / part / "labels").mkdir()
        (root / part / "labels/a.txt").write_text(f"{k} .5 .5 .5 .5\n")
    data = read_split(convert(root, tmp_path / "voc", "voc").folder, "train", shares="")
    assert len(data) == 2 and sorted(data.classes.tolist()) == [0, 1]


def test_nothing_is_written_into_the_source_nor_over_anything(tmp_path, scenes, capsys):
    before = sorted((path, path.stat().st_mtime_ns) for path in scenes.rglob("*"))
    with pytest.raises(ValueError, match="is inside the data set"):
        convert(scenes, scenes / "yolo", "yolo")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(FileExistsError, match="is there and not empty"):
        convert(scenes, tmp_path / "full", "yolo")
    broken = yolo_set(tmp_path / "broken", {"a": "0 .5 .5 .5 .5\n", "b": "9 .5 .5 .5 .5\n"})
    arguments = ["data", "convert", "--data", str(broken), "--to", "coco", "--output", str(tmp_path / "new")]
    assert main(arguments) == 1 and "b.txt:1: class 9" in capsys.readouterr().err
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*"))
    convert(scenes, tmp_path / "done", "yolo")
    assert before == sorted((path, path.stat().st_mtime_ns) for path in scenes.rglob("*"))


def test_scenes_are_generated_by_either_command(tmp_path):
    options = ["--train", "2", "--val", "1", "--size", "48"]
    assert main(["data", "generate", "--output", str(tmp_path / "a"), *options]) == 0
    assert main(["data", "--output", str(tmp_path / "b"), *options]) == 0
    assert (tmp_path / "a/annotations/train.json").read_bytes() == (tmp_path / "b/annotations/train.json").read_bytes()
