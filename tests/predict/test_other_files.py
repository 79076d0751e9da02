"""`cdetr predict --write`: files for other programs, of the same detections as `predictions.jsonl`."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from small_models import randomise, small_model

from conditional_detr import ConditionalDetrImageProcessor, Detector
from conditional_detr.cli import main
from conditional_detr.data.splits import read_all
from conditional_detr.images.find import find_images
from conditional_detr.predict.write import predictions


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = randomise(small_model(id2label={0: "circle", 1: "square", 2: "triangle"}))
    model.config.category_ids = [4, 9, 11]
    model.save_pretrained(folder)
    ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("000000000012.png", "b.png", "c.png"):
        Image.effect_noise((80, 60), 60).convert("RGB").save(folder / name)
    return folder


def run(model_folder, pictures, output, *options):
    return main(["predict", "--model", str(model_folder), "--images", str(pictures), "--output", str(output), "--draw", "false",
                 "--threshold", "0.004", "--workers", "0", "--device", "cpu", *options])  # fmt: skip


def rows_of(output):
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def test_every_form_holds_the_same_detections(model_folder, pictures, tmp_path, capsys):
    output = tmp_path / "out"
    (pictures / "d.png").write_bytes(b"no picture")
    assert (
        run(model_folder, pictures, output, "--write", "coco", "csv", "yolo", "labelme", "--skip_bad_images", "true")
        == 0
    )
    rows = rows_of(output)
    assert "error" in rows.pop()
    boxes = np.array([d["box"] for row in rows for d in row["detections"]])
    assert len(boxes)
    coco = json.loads((output / "coco_results.json").read_text())
    assert [r["image_id"] for r in coco] == [
        name for row, name in zip(rows, (12, "b", "c"), strict=True) for _ in row["detections"]
    ]
    assert {r["category_id"] for r in coco} <= {4, 9, 11}
    x, y, w, h = np.array([r["bbox"] for r in coco]).T
    assert np.stack([x, y, x + w, y + h], 1) == pytest.approx(boxes)
    table = list(csv.DictReader((output / "predictions.csv").read_text().splitlines()))
    assert np.array([[float(r[c]) for c in ("x0", "y0", "x1", "y1")] for r in table]) == pytest.approx(boxes)
    assert sorted(f.name for f in (output / "labels").iterdir()) == [
        "000000000012.txt",
        "b.txt",
        "c.txt",
        "classes.txt",
    ]
    assert (output / "labels/classes.txt").read_text() == "circle\nsquare\ntriangle\n"
    assert sum(
        len((output / f"labels/{name}.txt").read_text().splitlines()) for name in ("000000000012", "b", "c")
    ) == len(boxes)
    (data,) = read_all(output / "labelme")
    assert [p.resolve() for p in map(data.image_path, range(3))] == sorted(pictures.resolve().glob("[0bc]*"))
    assert data.boxes == pytest.approx(boxes.clip(0, [80, 60, 80, 60]), abs=1e-3)


def test_lines_are_written_by_default_and_nothing_else(model_folder, pictures, tmp_path):
    assert run(model_folder, pictures, tmp_path / "out") == 0
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["predictions.jsonl"]


def test_what_was_corrected_by_hand_is_not_written_over(model_folder, pictures, tmp_path, capsys):
    corrected = tmp_path / "out/labelme/b.json"
    corrected.parent.mkdir(parents=True)
    corrected.write_text("mine")
    assert run(model_folder, pictures, tmp_path / "out", "--write", "labelme") != 0
    assert "corrected by hand" in capsys.readouterr().err and corrected.read_text() == "mine"


def test_a_run_that_ends_early_leaves_whole_files_of_what_it_found(model_folder, pictures, tmp_path):
    detector, output = Detector.from_pretrained(model_folder, device="cpu"), tmp_path / "out"
    coming = predictions(
        detector, find_images([str(pictures)]), output, threshold=0.004, batch_size=1, workers=0, draw=False,
        forms=["coco", "csv", "yolo", "labelme"],
    )  # fmt: skip
    first = next(coming)
    assert (output / "predictions.csv").read_text().count("\n") == 1 + len(first["detections"])
    assert [f.name for f in (output / "labelme").iterdir()] == ["000000000012.json"]
    coming.close()
    assert not (output / "coco_results.json").exists()
    assert len(rows_of(output)) == 1
