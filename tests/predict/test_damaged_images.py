"""Prediction over folders as they are: with damaged files, odd names and things that are no files."""

import json
import os
import struct
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import randomise, small_model

from conditional_detr import ConditionalDetrImageProcessor, Detector
from conditional_detr.cli import main
from conditional_detr.images.find import find_images
from conditional_detr.predict.image_files import file_stems
from conditional_detr.predict.write import predict, predictions


def jpeg(path, size=(80, 60), **options):
    Image.effect_noise(size, 60).convert("RGB").save(path, "JPEG", **options)


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, pixels=None):
    """A grey PNG file that says it has this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = b"\0" * (width + 1) * height if pixels is None else pixels
    parts = [png_chunk(b"IHDR", head), png_chunk(b"IDAT", zlib.compress(pixels)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def damaged(kind):
    if kind == "empty":
        return b""
    if kind == "text":
        return b"no image"
    if kind == "HDF5 stub":
        return b"\x89HDF\r\n\x1a\n" + b"\0" * 100
    if kind == "broken chunk":
        return png(20, 20).replace(b"IDAT", b"ID\xffT")
    if kind == "cut":
        return png(20, 20)[:45]
    if kind == "no pixels":
        return png(0, 0)
    assert kind == "bomb"
    return png(60_000, 60_000, b"\0" * 100)


KINDS = ["empty", "text", "HDF5 stub", "broken chunk", "cut", "no pixels", "bomb"]


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    randomise(small_model(output_stride=16)).save_pretrained(folder)
    ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return Detector.from_pretrained(folder, device="cpu")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "pictures"
    path.mkdir()
    jpeg(path / "good.jpg")
    return path


def read_rows(output):
    return [json.loads(line) for line in (output / "predictions.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_image_is_one_line_or_one_row(kind, detector, folder, tmp_path):
    (folder / "bad.png").write_bytes(damaged(kind))
    with pytest.raises(OSError, match=r"bad\.png: .*--skip_bad_images true$") as error:
        predict(detector, find_images([str(folder)]), tmp_path / "out", workers=0)
    assert "\n" not in str(error.value)
    predict(detector, find_images([str(folder)]), tmp_path / "out", workers=0, skip_bad_images=True)
    bad, good = read_rows(tmp_path / "out")
    assert bad["file"].endswith("bad.png") and "bad.png: " in bad["error"]
    assert good["file"].endswith("good.jpg") and (good["width"], good["height"]) == (80, 60)


def test_where_all_are_damaged_there_is_a_row_for_each(detector, folder, tmp_path):
    (folder / "good.jpg").write_bytes(b"")
    rows = predict(detector, find_images([str(folder)]), tmp_path / "out", workers=0, skip_bad_images=True)
    assert len(rows) == 1 and rows == read_rows(tmp_path / "out")


@pytest.mark.parametrize("size", [(1_000_000, 1), (200_000, 10), (3, 300_000)])
def test_pictures_far_too_long_to_be_drawn_are_drawn_smaller(size, detector, folder, tmp_path):
    (folder / "long.png").write_bytes(png(*size))
    _, row = predict(detector, find_images([str(folder)]), tmp_path / "out", workers=0, threshold=0.0)
    assert (row["width"], row["height"]) == size
    with Image.open(row["picture"]) as picture:
        assert max(picture.size) == 4096


def test_an_image_that_memory_would_not_hold_is_a_row(detector, folder, tmp_path):
    jpeg(folder / "large.jpg")
    small = detector.processor.size
    detector.processor.size = {"height": 200_000, "width": 300_000}
    try:
        rows = predict(detector, find_images([str(folder)]), tmp_path / "out", workers=0, skip_bad_images=True)
    finally:
        detector.processor.size = small
    assert all("does not fit into memory" in row["error"] and row["file"] in row["error"] for row in rows)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(detector, folder, tmp_path):
    os.mkfifo(folder / "pipe.jpg")
    assert [path.name for path in find_images([str(folder)])] == ["good.jpg"]
    for call in (lambda: find_images([str(folder / "pipe.jpg")]), lambda: detector(folder / "pipe.jpg")):
        outcome = []

        def run(call=call, outcome=outcome):
            try:
                call()
            except OSError as error:
                outcome.append(str(error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(60)
        assert outcome and "pipe.jpg: a pipe or a device, not a file" in outcome[0]


def test_a_name_that_is_not_utf_8_loses_nothing(detector, folder, tmp_path):
    name = os.fsencode(folder) + b"/na\xffme.jpg"
    try:
        os.rename(folder / "good.jpg", name)
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    output = tmp_path / "out"
    predict(detector, find_images([str(folder)]), output, workers=0, threshold=0.0)
    (line,) = (output / "predictions.jsonl").read_bytes().splitlines()
    line.decode("utf-8").encode("utf-16")  # fails where half of a pair stands alone
    row = json.loads(line)
    assert row["file"].endswith("na\\udcffme.jpg") and row["picture"].endswith("na_me.jpg")
    assert row["detections"] and os.path.isfile(row["picture"])


def test_a_name_as_long_as_names_can_be_is_cut_for_the_picture(detector, folder, tmp_path):
    long = folder / ("n" * 251 + ".jpg")
    (folder / "good.jpg").rename(long)
    (row,) = predict(detector, [long], tmp_path / "out", workers=0)
    assert row["file"] == str(long) and os.path.isfile(row["picture"])


def test_pictures_of_twenty_thousand_images_of_one_name_have_a_name_each(folder):
    names = file_stems([folder / str(i) / "image.jpg" for i in range(20_000)])  # minutes, were it quadratic
    assert len(set(names)) == 20_000 and names[:3] == ["image", "image-2", "image-3"]


def test_pictures_have_names_that_every_file_system_tells_apart(folder):
    names = file_stems([folder / name for name in ("a.jpg", "A.png", "a-2.jpg", "b-panoptic.jpg", "b.jpg")])
    written = [f"{name}{end}".casefold() for name in names for end in (".jpg", "-panoptic.jpg")]
    assert len(set(written)) == len(written)


def test_what_pillow_merely_knows_by_name_is_no_picture_of_a_folder(folder):
    for name in ("doc.pdf", "values.h5", "weather.grib", "film.mpg", "drawing.eps", "notes.txt"):
        (folder / name).write_bytes(b"x")
    jpeg(folder / "UPPER.JPEG")
    assert [path.name for path in find_images([str(folder)])] == ["UPPER.JPEG", "good.jpg"]


def test_rows_are_written_as_images_are_done_in_their_order(detector, folder, tmp_path):
    """A run that is stopped leaves whole lines: the beginning of what it would have written."""
    rng = np.random.default_rng(0)
    for i in range(40):
        jpeg(folder / f"{i:02}.jpg", tuple(rng.integers(40, 60, 2)))
    (folder / "05.jpg").write_bytes(b"")
    images = find_images([str(folder)])
    options = dict(workers=0, batch_size=1, draw=False, threshold=0.0, skip_bad_images=True)
    whole = predict(detector, images, tmp_path / "whole", **options)
    assert [row["file"] for row in whole] == [str(image) for image in images]
    coming = predictions(detector, images, tmp_path / "stopped", **options)
    for count in range(1, 21):
        row = next(coming)
        assert row == whole[count - 1] and read_rows(tmp_path / "stopped")[count - 1] == row
    assert len(read_rows(tmp_path / "stopped")) <= 20
    coming.close()
    stopped, complete = (tmp_path / name / "predictions.jsonl" for name in ("stopped", "whole"))
    assert stopped.read_bytes().endswith(b"\n") and complete.read_bytes().startswith(stopped.read_bytes())


def test_what_pillow_warns_of_is_one_line_that_names_the_file(detector, folder, tmp_path, caplog, recwarn):
    jpeg(folder / "good.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7fgarbage")
    predict(detector, find_images([str(folder)]), tmp_path / "out", workers=0, threshold=0.0)
    said = [record.getMessage() for record in caplog.records if "good.jpg: " in record.getMessage()]
    assert len(said) == 1 and "EXIF" in said[0] and "\n" not in said[0]
    assert not [warning for warning in recwarn if "EXIF" in str(warning.message)]


def test_where_nothing_is_found_the_best_score_is_said(detector, folder, tmp_path, caplog):
    (best, *_) = detector(folder / "good.jpg", threshold=0.0)
    predict(detector, find_images([str(folder)]), tmp_path / "out", workers=0, threshold=0.9999)
    (said,) = (record.getMessage() for record in caplog.records if "no detection" in record.getMessage())
    assert f"no detection above 0.9999; the best score was {best.score:.2g}" in said
    assert "good.jpg" in said and "lower --threshold" in said


@pytest.mark.parametrize("family", ["conditional_detr", "detr"])
def test_where_every_query_is_used_num_queries_is_named(family, folder, tmp_path, caplog):
    model = small_model(family, output_stride=16)
    with torch.no_grad():  # each query is sure to see an object of class 0
        model.class_labels_classifier.weight.zero_()
        model.class_labels_classifier.bias.copy_(torch.tensor([8.0, -8.0, -8.0, -8.0][: 3 + (family == "detr")]))
    from conditional_detr.processors.auto_processor import IMAGE_PROCESSORS

    small = IMAGE_PROCESSORS[family](size={"shortest_edge": 64, "longest_edge": 128})
    predict(Detector(model, small), find_images([str(folder)]), tmp_path / "out", workers=0)
    said = [record.getMessage() for record in caplog.records if "num_queries" in record.getMessage()]
    assert len(said) == 1 and "in 1 of 1 images" in said[0] and "10 queries scores above 0.5" in said[0]


def test_an_address_is_refused_with_what_to_do(detector, capsys):
    for call in (lambda: detector("https://example.org/a.jpg"), lambda: find_images(["https://example.org/a.jpg"])):
        with pytest.raises(ValueError, match=r"https://example\.org/a\.jpg is an address.*download it"):
            call()


def test_the_command_says_how_many_could_not_be_used(folder, tmp_path, capsys):
    randomise(small_model(output_stride=16)).save_pretrained(tmp_path / "model")
    ConditionalDetrImageProcessor().save_pretrained(tmp_path / "model")
    (folder / "bad.png").write_bytes(damaged("HDF5 stub"))
    code = main(["predict", "--model", str(tmp_path / "model"), "--images", str(folder), "--output", str(tmp_path / "out"),
                 "--skip_bad_images", "true", "--image_size", "64", "--max_size", "96", "--draw_labels", "false",
                 "--line_width", "1", "--device", "cpu"])  # fmt: skip
    assert code == 0
    assert "1 images could not be used; first: " in capsys.readouterr().out
