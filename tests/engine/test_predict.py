"""Prediction: the same boxes from the command line, from Python and in any company; files that people can use."""

import json

import pytest
import torch
from PIL import Image
from small_models import randomise, small_model

from conditional_detr import ConditionalDetrImageProcessor, Detector
from conditional_detr.cli import main
from conditional_detr.engine.predict import draw_detections, find_images, predict


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    randomise(small_model(id2label={0: "circle", 1: "square", 2: "triangle"})).save_pretrained(folder)
    ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, size in enumerate([(64, 64), (80, 60), (50, 90)]):
        Image.effect_noise(size, 60 + i).convert("RGB").save(folder / f"{i}.png")
    return folder


def test_an_image_gives_the_same_alone_and_in_company(model_folder, pictures):
    detector = Detector.from_pretrained(model_folder, device="cpu")
    files = find_images([str(pictures)])
    together = detector.detect(files, threshold=0.0)
    for file, found in zip(files, together, strict=True):
        alone = detector(file, threshold=0.0)
        assert len(alone) == len(found) == 30
        for a, b in zip(alone, found, strict=True):
            assert a.label == b.label and a.score == pytest.approx(b.score, abs=1e-4)
            assert a.box == pytest.approx(b.box, abs=0.02)


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
        assert [d.score for d in found] == pytest.approx(expected["scores"].tolist(), abs=1e-4)
        assert found[0].box == pytest.approx(expected["boxes"][0].tolist(), abs=0.02)
        assert found[0].label == detector.model.config.id2label[int(expected["labels"][0])]


def test_predict_writes_json_lines_and_pictures(model_folder, pictures, tmp_path):
    code = main(["predict", "--model", str(model_folder), "--images", str(pictures), "--output", str(tmp_path / "out"),
                 "--threshold", "0.1", "--workers", "0", "--device", "cpu"])  # fmt: skip
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [str(pictures / f"{i}.png") for i in range(3)]
    assert (rows[2]["width"], rows[2]["height"]) == (50, 90)
    detector = Detector.from_pretrained(model_folder, device="cpu")
    for row in rows:
        found = detector(row["file"], threshold=0.1)
        assert [d["label"] for d in row["detections"]] == [d.label for d in found]
        assert all(d["score"] >= 0.1 for d in row["detections"])
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
    rows = predict(detector, find_images([str(pictures)]), tmp_path / "out", workers=0)
    assert len({row["picture"] for row in rows}) == 3


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
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert ["error" in row for row in rows] == [False, True, True]


def test_a_narrow_picture_is_not_made_huge():
    for size, longest in (((300, 1), 3900), ((96, 96), 288), ((5000, 2), 5000)):
        width, height = size
        drawn = draw_detections(torch.zeros(3, height, width, dtype=torch.uint8), [])
        assert max(drawn.size) == longest
