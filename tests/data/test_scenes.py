"""The generated data set: what a user may rely on when there is no other data."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from conditional_detr.data.scene_drawing import SHAPES, STUFF
from conditional_detr.data.scenes import generate_scenes

ALL_SHAPES = tuple(SHAPES)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crowded scenes of every shape, wider than high."""
    folder = tmp_path_factory.mktemp("scenes")
    return generate_scenes(folder, {"val": 40}, size=(72, 100), max_objects=8, shapes=ALL_SHAPES)


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "annotations" / f"{name}.json").read_text())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def segment_ids(folder: Path, file_name: str) -> np.ndarray:
    """Segment ids (H, W) of a panoptic PNG."""
    channels = np.asarray(Image.open(folder / "panoptic" / "val" / file_name), np.int64)
    return channels @ np.array([1, 256, 65536])


def pycocotools_coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def perfect_predictions(coco: COCO) -> list[dict[str, Any]]:
    return [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "segmentation": coco.annToRLE(annotation),
            "score": 0.9,
        }
        for annotation in coco.dataset["annotations"]
    ]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = generate_scenes(tmp_path / "first", {"train": 4, "val": 3}, size=64, seed=5)
    second = generate_scenes(tmp_path / "second", {"train": 4, "val": 3}, size=64, seed=5)
    assert files(first) == files(second)
    assert len(files(first)) == 1 + 2 * 2 + 2 * (4 + 3)


def test_another_seed_or_split_gives_other_scenes(tmp_path: Path) -> None:
    one = files(generate_scenes(tmp_path / "one", {"train": 2, "val": 2}, size=64, seed=1))
    two = files(generate_scenes(tmp_path / "two", {"train": 2, "val": 2}, size=64, seed=2))
    name = "images/{}/000001.png"
    assert one[name.format("train")] != two[name.format("train")]
    assert one[name.format("train")] != one[name.format("val")]


def test_the_first_scenes_are_the_same_however_many_are_asked_for(tmp_path: Path) -> None:
    few = generate_scenes(tmp_path / "few", {"val": 3}, size=64)
    many = generate_scenes(tmp_path / "many", {"train": 2, "val": 9}, size=64)
    for kind in ("images/val", "panoptic/val"):
        few_files, many_files = files(few / kind), files(many / kind)
        assert len(few_files) == 3
        assert few_files.items() <= many_files.items()
    for name in ("val", "panoptic_val"):
        few_annotations = read(few, name)["annotations"]
        assert read(many, name)["annotations"][: len(few_annotations)] == few_annotations


def test_images_have_the_size_that_is_asked_for(scenes: Path) -> None:
    annotations = read(scenes, "val")
    assert len(annotations["images"]) == 40
    for entry in annotations["images"]:
        image = Image.open(scenes / "images" / "val" / entry["file_name"])
        assert (image.mode, image.size) == ("RGB", (entry["width"], entry["height"])) == ("RGB", (100, 72))


def test_boxes_are_tight_around_the_visible_masks(scenes: Path) -> None:
    coco = pycocotools_coco(scenes / "annotations" / "val.json")
    for annotation in coco.dataset["annotations"]:
        mask = coco.annToMask(annotation)
        assert coco_mask.toBbox(coco.annToRLE(annotation)).tolist() == annotation["bbox"]
        assert mask.sum() == annotation["area"] > 0


def test_masks_are_the_panoptic_maps_pixels(scenes: Path) -> None:
    coco = pycocotools_coco(scenes / "annotations" / "val.json")
    things = {category["id"] for category in coco.dataset["categories"]}
    for panoptic in read(scenes, "panoptic_val")["annotations"]:
        ids = segment_ids(scenes, panoptic["file_name"])
        objects = coco.loadAnns(coco.getAnnIds(imgIds=panoptic["image_id"]))
        segments = [segment for segment in panoptic["segments_info"] if segment["category_id"] in things]
        assert len(objects) == len(segments) >= 1
        for annotation, segment in zip(objects, segments, strict=True):
            assert annotation["category_id"] == segment["category_id"]
            assert np.array_equal(coco.annToMask(annotation), ids == segment["id"])


def test_every_pixel_belongs_to_a_listed_segment(scenes: Path) -> None:
    annotations = read(scenes, "panoptic_val")
    categories = {category["id"] for category in annotations["categories"]}
    seen = set()
    for panoptic, entry in zip(annotations["annotations"], annotations["images"], strict=True):
        assert (panoptic["image_id"], panoptic["file_name"]) == (entry["id"], entry["file_name"])
        ids, areas = np.unique(segment_ids(scenes, panoptic["file_name"]), return_counts=True)
        listed = {segment["id"]: segment["area"] for segment in panoptic["segments_info"]}
        assert dict(zip(ids.tolist(), areas.tolist(), strict=True)) == listed
        assert 0 not in listed, "0 is COCO's id for no segment"
        seen |= {segment["category_id"] for segment in panoptic["segments_info"]}
    assert seen == categories, "each thing and each stuff is met"


def test_category_ids_have_gaps_and_agree_between_the_files(scenes: Path) -> None:
    things = read(scenes, "val")["categories"]
    panoptic = read(scenes, "panoptic_val")["categories"]
    assert {category["name"] for category in things} == set(SHAPES)
    assert {category["name"] for category in panoptic if not category["isthing"]} == set(STUFF)
    assert [{**category, "isthing": 1} for category in things] == [c for c in panoptic if c["isthing"]]
    ids = [category["id"] for category in panoptic]
    assert len(set(ids)) == len(ids)
    assert max(ids[: len(things)]) > len(things)


def test_a_rings_hole_shows_what_is_behind_it(tmp_path: Path) -> None:
    coco = pycocotools_coco(
        generate_scenes(tmp_path, {"val": 5}, max_objects=1, shapes=("ring",)) / "annotations/val.json"
    )
    for annotation in coco.dataset["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert coco.annToMask(annotation)[int(y + height / 2), int(x + width / 2)] == 0


def test_objects_are_at_least_eight_pixels_before_occlusion(tmp_path: Path) -> None:
    folder = generate_scenes(tmp_path, {"val": 60}, size=32, max_objects=1, shapes=("square",))
    areas = [annotation["area"] for annotation in read(folder, "val")["annotations"]]
    assert len(areas) == 60, "the first object always finds a place"
    assert min(areas) >= 0.7 * 8 * 8 * 0.9  # a little of it may lie outside of the image
    assert max(areas) <= (0.55 * 32 + 1) ** 2


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_perfect_predictions_score_one(scenes: Path, iou_type: str) -> None:
    coco = pycocotools_coco(scenes / "annotations" / "val.json")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(perfect_predictions(coco)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_perfect_predictions_score_one_in_hotcoco(scenes: Path, iou_type: str) -> None:
    path = scenes / "annotations" / "val.json"
    predictions = perfect_predictions(pycocotools_coco(path))
    coco = hotcoco.COCO(str(path))
    evaluation = hotcoco.COCOeval(coco, coco.loadRes(predictions), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_hotcoco_reads_the_masks_that_pycocotools_reads(scenes: Path) -> None:
    path = scenes / "annotations" / "val.json"
    coco, other = pycocotools_coco(path), hotcoco.COCO(str(path))
    assert other.load_warnings == []
    for annotation in coco.dataset["annotations"][:20]:
        assert np.array_equal(coco.annToMask(annotation), other.annToMask(annotation))


def test_the_panoptic_files_score_one_against_themselves(scenes: Path) -> None:
    path, pngs = str(scenes / "annotations" / "panoptic_val.json"), str(scenes / "panoptic" / "val")
    evaluation = hotcoco.panoptic.PanopticEval(path, path, gt_folder=pngs, pred_folder=pngs)
    evaluation.evaluate()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_a_second_call_changes_nothing(tmp_path: Path) -> None:
    generate_scenes(tmp_path, {"val": 2}, size=32)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert generate_scenes(str(tmp_path), {"val": 2}, size=(32, 32)) == tmp_path
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_interrupted_drawing_is_completed(tmp_path: Path) -> None:
    generate_scenes(tmp_path, {"train": 2, "val": 2}, size=32)
    complete = files(tmp_path)
    for lost in ("annotations/val.json", "annotations/panoptic_val.json", "images/val/000002.png"):
        (tmp_path / lost).unlink()
    (tmp_path / "images/val/000001.png").write_bytes(b"half of an image")
    generate_scenes(tmp_path, {"train": 2, "val": 2}, size=32)
    assert files(tmp_path) == complete


def test_scenes_of_other_settings_are_not_overwritten(tmp_path: Path) -> None:
    generate_scenes(tmp_path, {"val": 2}, size=32)
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match=r"other settings.*name another folder"):
        generate_scenes(tmp_path, {"val": 2}, size=32, seed=1)
    assert files(tmp_path) == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(FileExistsError, match="name a new or an empty folder"):
        generate_scenes(tmp_path, {"val": 1})
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FileExistsError, match="is a file"):
        generate_scenes(file, {"val": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "images"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shapes": ("circle", "blob")}, r"shapes: blob; .*circle, square, triangle, star, ring, cross, heart"),
        ({"shapes": ()}, "shapes: none"),
        ({"shapes": ("circle", "circle")}, "each name once"),
        ({"size": 31}, "size: .*at least 32"),
        ({"size": (64, 16)}, "size: .*at least 32"),
        ({"images": {"val": 0}}, "images: 0 images of 'val'"),
        ({"images": {}}, "images: no split"),
        ({"images": {"../val": 1}}, "cannot name a split"),
        ({"images": {"panoptic_val": 1}}, "cannot name a split"),
        ({"max_objects": 0}, "max_objects: 0"),
    ],
)
def test_bad_arguments_give_one_line_and_write_nothing(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        generate_scenes(tmp_path / "new", **({"images": {"val": 1}} | arguments))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()
