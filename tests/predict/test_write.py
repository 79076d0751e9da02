"""Prediction: the same boxes from the command line, from Python and in any company; files that people can use."""

import json

import pytest
import torch
from PIL import Image
from same_detections import assert_same_detections, rows, threshold_between

from conditional_detr import ConditionalDetrImageProcessor, Detector
from conditional_detr.cli import main
from conditional_detr.images.find import find_images
from conditional_detr.predict.draw import draw_detections
from conditional_detr.predict.write import predict


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, size in enumerate([(64, 64), (80, 60), (50, 90)]):
        Image.effect_noise(size, 60 + i).convert("RGB").save(folder / f"{i}.png")
    return folder


@pytest.mark.numeric
def test_an_image_gives_the_same_alone_and_in_company(model_folder, pictures):
    detector = Detector.from_pretrained(model_folder, device="cpu")
    files = find_images([str(pictures)])
    together = detector.detect(files, threshold=0.0)
    for file, found in zip(files, together, strict=True):
        alone = detector(file, threshold=0.0)
        assert len(alone) == len(found) == 30
        assert_same_detections(alone, found, score=1e-4, box=0.02)


@pytest.mark.numeric
def test_detections_are_those_of_the_processor_and_the_model(model_folder, pictures):
    detector = Detector.from_pretrained(model_folder, device="cpu")
    processor = ConditionalDetrImageProcessor.from_pretrained(model_folder)
    image = Image.open(pictures / "1.png")
    inputs = processor(images=image, return_tensors="pt")
    with torch.no_grad():
        outputs = detector.model(**inputs)
    (expected,) = processor.post_process_object_detection(outputs, target_sizes=[(60, 80)], threshold=0.0)
    for form in (image, str(pictures / "1.png"), pictures / "1.png"):
        found = detector(form, threshold=0.0)
        named = [
            {"label": detector.model.config.id2label[label], "score": score, "box": box}
            for label, score, box in rows(expected)
        ]
        assert_same_detections(found, named, score=1e-4, box=0.02)
        assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)


@pytest.mark.numeric
def test_predict_writes_json_lines_and_pictures(model_folder, pictures, tmp_path):
    detector = Detector.from_pretrained(model_folder, device="cpu")
    every = detector.detect(find_images([str(pictures)]), threshold=0.0)
    threshold = threshold_between([d.score for found in every for d in found])
    code = main(["predict", "--model", str(model_folder), "--images", str(pictures), "--output", str(tmp_path / "out"),
                 "--threshold", str(threshold), "--workers", "0", "--device", "cpu"])  # fmt: skip
    assert code == 0
    written = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["file"] for row in written] == [str(pictures / f"{i}.png") for i in range(3)]
    assert (written[2]["width"], written[2]["height"]) == (50, 90)
    assert 0 < sum(len(row["detections"]) for row in written) < 90
    for row in written:
        found = detector(row["file"], threshold=threshold)
        assert_same_detections(row["detections"], found, score=2e-4, box=0.03)  # written with four and two digits
        assert all(d["score"] >= threshold - 1e-4 for d in row["detections"])
        with Image.open(row["picture"]) as picture:  # enlarged by a whole factor until labels can be read
            factor = picture.width // row["width"]
            assert picture.size == (row["width"] * factor, row["height"] * factor) and min(picture.size) >= 256


def test_pictures_never_overwrite_the_images_they_show(model_folder, tmp_path):
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "own.jpg")
    before = (tmp_path / "own.jpg").read_bytes()
    detector = Detector.from_pretrained(model_folder, device="cpu")
    with pytest.raises(ValueError, match="would overwrite the image .*own.jpg; choose another folder"):
        predict(detector, [tmp_path / "own.jpg"], tmp_path, workers=0)
    assert (tmp_path / "own.jpg").read_bytes() == before


def test_a_device_that_is_not_there_is_named(model_folder):
    for name in ("cuda:99", "gpu"):
        with pytest.raises(ValueError, match=f"device '{name}' is not there"):
            Detector.from_pretrained(model_folder, device=name)


def test_two_images_of_one_name_get_two_pictures(model_folder, pictures, tmp_path):
    (pictures / "more").mkdir()
    (pictures / "0.png").rename(pictures / "more/1.png")
    detector = Detector.from_pretrained(model_folder, device="cpu")
    written = predict(detector, find_images([str(pictures)]), tmp_path / "out", workers=0)
    assert len({row["picture"] for row in written}) == 3


def test_files_folders_and_patterns_are_found_once(pictures):
    found = find_images([str(pictures / "*.png"), str(pictures), str(pictures / "0.png")])
    assert [path.name for path in found] == ["0.png", "1.png", "2.png"]
    with pytest.raises(FileNotFoundError, match="nothing.jpg is neither a file, a folder nor a pattern"):
        find_images(["nothing.jpg"])


def test_unreadable_images_stop_or_are_reported(model_folder, pictures, tmp_path, capsys):
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:2000])
    (pictures / "2.png").write_text("no image")
    arguments = ["predict", "--model", str(model_folder), "--images", str(pictures), "--output", str(tmp_path / "out"),
                 "--workers", "0", "--device", "cpu"]  # fmt: skip
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "2.png" in message and "--skip_bad_images" in message  # headers are read first
    assert main([*arguments, "--skip_bad_images", "true"]) == 0
    written = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert ["error" in row for row in written] == [False, True, True]


def test_a_narrow_picture_is_not_made_huge():
    for size, longest in (((300, 1), 3900), ((96, 96), 288), ((5000, 2), 5000)):
        width, height = size
        drawn = draw_detections(torch.zeros(3, height, width, dtype=torch.uint8), [])
        assert max(drawn.size) == longest


def test_the_truth_is_drawn_beside_what_is_found(model_folder, scenes, tmp_path, capsys):
    images, file = scenes / "images/val", scenes / "annotations/val.json"
    command = ["predict", "--model", str(model_folder), "--images", str(images), "--workers", "0"]
    widths = []
    for name, more in (("plain", []), ("beside", ["--truth", str(file)])):
        assert main([*command, "--output", str(tmp_path / name), *more]) == 0
        with Image.open(next((tmp_path / name).glob("*.jpg"))) as picture:
            widths.append(picture.width)
    assert widths[1] > 2 * widths[0]
    assert main([*command, "--output", str(tmp_path / "other"), "--truth", str(model_folder / "config.json")]) == 1
    assert "config.json is not COCO JSON" in capsys.readouterr().err
