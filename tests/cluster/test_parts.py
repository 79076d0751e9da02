"""Parts of a list, from pictures to files: each step as a process of Ray's does it, without Ray."""

import base64
import io
import json
import os
import pickle
from dataclasses import asdict

import numpy as np
import pyarrow
import pytest
import torch
from cluster_pictures import rows_of, write_pictures
from PIL import Image
from pyarrow import parquet
from small_models import randomise, small_config

from conditional_detr import ConditionalDetrForSegmentation, ConditionalDetrImageProcessor, Detector, __version__
from conditional_detr.cluster.detect import BatchDetector, Detecting, batching_of
from conditional_detr.cluster.listing import pictures_of
from conditional_detr.cluster.model_files import ModelFiles
from conditional_detr.cluster.parts import PICTURES, Output
from conditional_detr.cluster.pipeline import WINDOW, actors_of
from conditional_detr.cluster.places import Place
from conditional_detr.cluster.read import PartReader
from conditional_detr.cluster.write import PartWriter
from conditional_detr.images.find import find_images
from conditional_detr.predict.stream import Source, detect
from conditional_detr.predict.write import predict


def begun(folder, images, part_size=16, form="jsonl", **asked):
    output = Output(Place.of(folder), asked, part_size, form)
    output.begin(lambda: pictures_of([str(image) for image in images]))
    return output


def asked_of(model, **options):
    return Detecting(
        ModelFiles.read(str(model)), {"device": "cpu"}, torch.get_num_threads(), **{"threshold": 0.0, **options}
    )


def found_in(part, output, asked, batch_size=4):
    """What an actor gives of a part."""
    reader = PartReader(batching_of(asked, __version__, batch_size, WINDOW * batch_size), output.folder / PICTURES)
    row = pyarrow.Table.from_pylist([{"planned": b"", **asdict(part)}])
    return BatchDetector(asked)(pyarrow.concat_tables(reader(row)))


def write_all(output, asked):
    writer = PartWriter(output.folder, output.form)
    return [writer(found_in(part, output, asked)).to_pylist()[0] for part in output.missing()[0]]


def test_each_picture_has_the_bits_that_one_machine_gives(model, tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 21)
    output, asked = begun(tmp_path / "out", [pictures], part_size=512), asked_of(model, for_scores=True)
    (part,) = output.missing()[0]
    rows = found_in(part, output, asked).to_pylist()
    detector = Detector.from_pretrained(model, device="cpu")
    sources = [Source(path, Image.open(path).size[::-1]) for path in find_images([str(pictures)])]
    alone = dict(
        detect(detector.model, detector.processor, sources, threshold=0.0, batch_size=4, workers=0, window=WINDOW * 4)
    )
    assert sorted(row["position"] for row in rows) == list(range(21))
    for row in rows:
        here, there = alone[row["position"]], pickle.loads(row["row"])
        assert np.array_equal(here.boxes, there.boxes) and np.array_equal(here.scores, there.scores)
        assert np.array_equal(here.labels, there.labels) and len(there.boxes)


def test_rows_are_those_of_predict_bad_pictures_included(model, tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 19)
    (pictures / "00003.png").write_bytes(b"no picture")
    (pictures / "00004.png").write_bytes((pictures / "00005.png").read_bytes()[:3000])  # its header is whole
    output = begun(tmp_path / "out", [pictures], part_size=8)
    said = write_all(output, asked_of(model))
    assert [(one["pictures"], one["bad"]) for one in said] == [(8, 2), (8, 0), (3, 0)]
    detector = Detector.from_pretrained(model, device="cpu")
    images = find_images([str(pictures)])
    expected = predict(detector, images, tmp_path / "one", threshold=0.0, draw=False, skip_bad_images=True)
    assert rows_of(tmp_path / "out") == expected
    assert (
        said[0]["first_error"] == expected[3]["error"] and sum(one["found"] for one in said) == 17 * 3 * 10
    )  # classes, queries


def test_parquet_holds_what_json_lines_hold(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "model"
    randomise(ConditionalDetrForSegmentation(small_config(is_thing=[True, True, False]))).save_pretrained(folder)
    ConditionalDetrImageProcessor(size={"shortest_edge": 48, "longest_edge": 64}).save_pretrained(folder)
    pictures, asked = (
        write_pictures(tmp_path / "pictures", 3),
        asked_of(folder, threshold=0.01, panoptic_threshold=0.0),
    )
    (pictures / "00001.png").write_bytes(b"")
    for form in ("jsonl", "parquet"):
        write_all(begun(tmp_path / form, [pictures], form=form), asked)
    (file,) = (tmp_path / "parquet").glob("part-*.parquet")
    lines, table = rows_of(tmp_path / "jsonl"), parquet.read_table(file).to_pylist()
    assert [row["error"] for row in table] == [row.get("error") for row in lines]
    for line, row in zip(lines, table, strict=True):
        for name in line.keys() - {"panoptic_png"}:
            assert row[name] == line[name]
    png = base64.b64decode(lines[0]["panoptic_png"])
    assert table[0]["panoptic_png"] == png and len(lines[0]["segments"]) > 0
    ids = np.asarray(Image.open(io.BytesIO(png)))[..., 0]
    assert {segment["id"] for segment in lines[0]["segments"]} >= set(np.unique(ids)) - {0}


def test_only_missing_parts_are_left_and_the_list_stays_the_first_ones(model, tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 5)
    asked = asked_of(model)
    write_all(begun(tmp_path / "out", [pictures], part_size=2), asked)
    before = rows_of(tmp_path / "out")
    middle = sorted((tmp_path / "out").glob("part-*"))[1]
    middle.unlink()
    write_pictures(tmp_path / "pictures", 6)  # a new one, which is none of this run's
    again = begun(tmp_path / "out", [pictures], part_size=2)
    missing, done = again.missing()
    assert [part.name for part in missing] == [middle.name] and done == 3
    write_all(again, asked)
    assert rows_of(tmp_path / "out") == before


def test_parts_of_another_run_are_named_and_refused(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 3)
    begun(tmp_path / "out", [pictures], threshold=0.5)
    with pytest.raises(ValueError, match=r"out holds another run's parts \(threshold was 0\.5, is 0\.3\)"):
        begun(tmp_path / "out", [pictures], threshold=0.3)
    output = begun(tmp_path / "out", [pictures], threshold=0.5)
    (tmp_path / "out/part-00000000-aaaaaaaaaaaa.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"not of this run \(part-00000000-aaaaaaaaaaaa"):
        output.missing()
    (tmp_path / "out/run.json").unlink()
    with pytest.raises(ValueError, match=r"parts of another run .* without its run\.json"):
        begun(tmp_path / "out", [pictures], threshold=0.5)


def test_half_a_part_is_never_written(model, tmp_path):
    output = begun(tmp_path / "out", [write_pictures(tmp_path / "pictures", 4)])
    (part,) = output.missing()[0]
    rows = found_in(part, output, asked_of(model))
    for wrong in (rows.slice(1), pyarrow.concat_tables([rows.slice(1), rows.slice(3, 1)])):
        with pytest.raises(RuntimeError, match="for 4 pictures"):
            PartWriter(output.folder, "jsonl")(wrong)
    assert output.missing()[0] == [part]


def test_folders_patterns_lists_and_tables_name_the_same_pictures(tmp_path, monkeypatch):
    pictures = write_pictures(tmp_path / "b", 2)
    for name in ("b-c", "b/inner", "a"):
        write_pictures(tmp_path / name, 1)
    (tmp_path / "b/notes.md").write_text("no picture")
    expected = [str(path) for path in find_images([str(tmp_path)])]
    assert len(expected) == 5 and list(pictures_of([str(tmp_path)])) == expected
    assert list(pictures_of([str(pictures / "0*1.png")])) == [str(pictures / "00001.png")]
    monkeypatch.chdir(tmp_path)
    relative = [os.path.relpath(path) for path in expected]
    (tmp_path / "list.txt").write_text("\n".join(relative) + "\n\n")
    assert list(pictures_of(["list.txt"])) == expected
    parquet.write_table(pyarrow.table({"id": ["x"] * 5, "path": relative}), "list.parquet")
    assert list(pictures_of(["list.parquet"])) == expected
    assert list(pictures_of([f"file://{tmp_path}/b"])) == [f"file://{path}" for path in expected if "/b/" in path]


def test_names_that_are_no_text_come_through(model, tmp_path):
    folder = write_pictures(tmp_path / "pictures", 1)
    os.rename(folder / "00000.png", os.fsencode(folder) + b"/\xff\n.png")
    write_all(begun(tmp_path / "out", [folder], form="parquet"), asked_of(model))
    (file,) = (tmp_path / "out").glob("part-*.parquet")
    (row,) = parquet.read_table(file).to_pylist()
    assert row["file"].endswith("\\udcff\n.png") and row["width"] == 64


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "names no pictures"), (None, "neither a file, a folder nor a pattern")],
)
def test_a_list_without_pictures_begins_nothing(tmp_path, content, message):
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    with pytest.raises(FileNotFoundError, match=message):
        begun(tmp_path / "out", [tmp_path / "list.txt"])
    assert not (tmp_path / "out").exists()


def test_a_table_must_say_which_column_names_pictures(tmp_path):
    parquet.write_table(pyarrow.table({"one": ["a"], "two": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="which column names pictures"):
        list(pictures_of([str(tmp_path / "x.parquet")]))


def test_as_many_actors_as_there_is_room_for():
    assert actors_of({"CPU": 7.0}, "", 2, 0).count == 3
    assert actors_of({"CPU": 64.0, "GPU": 8.0}, "", 1, 0) == actors_of({"CPU": 64.0, "GPU": 8.0}, "cuda", 1, 8)
    assert actors_of({"CPU": 64.0, "GPU": 8.0}, "cpu", 4, 3).cpus == 4
    for cluster, device, asked in (({"CPU": 2.0}, "", 3), ({"CPU": 2.0}, "cuda", 0)):
        with pytest.raises(ValueError, match="no room for"):
            actors_of(cluster, device, 1, asked)


def test_model_files_travel_whatever_they_are(model, tmp_path):
    shape = Detector.from_pretrained(model, device="cpu").detect(torch.zeros(3, 48, 48, dtype=torch.uint8), 0.0)
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    files = ModelFiles.read(str(tmp_path / "model.safetensors"))
    assert set(files.files) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert (
        pickle.loads(pickle.dumps(files)).detector(device="cpu").detect(torch.zeros(3, 48, 48, dtype=torch.uint8), 0.0)
        == shape
    )
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises((OSError, ValueError), match=str(tmp_path)):
        ModelFiles.read(str(tmp_path)).detector(device="cpu")
    assert json.loads(files.files["config.json"])["model_type"] == "conditional_detr"
