"""What a detector takes, says of itself and gives back."""

import io
import json
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import randomise, small_model

from conditional_detr import ConditionalDetrImageProcessor, Detection, Detector
from conditional_detr.predict import detector as module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    randomise(small_model(output_stride=16)).save_pretrained(path)
    ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def detector(folder):
    return Detector.from_pretrained(folder, device="cpu")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.effect_noise((80, 60), 60).convert("RGB").save(path)
    return path


def assert_same(found, expected):
    """To rounding: memory layouts and sizes of batches differ, and the order of nearly tied scores with them."""
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) == 30
        np.testing.assert_allclose([d.score for d in ours], [d.score for d in theirs], atol=1e-4)
        assert {type(d.label) for d in ours} == {str}


class OnceOnly(io.RawIOBase):
    """What a connection to a server is: read from the front, once."""

    def __init__(self, content):
        self.content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.content.readinto(buffer)


def test_an_image_may_be_a_path_bytes_an_open_file_pixels_or_an_image(detector, picture):
    expected = detector(picture, 0.0)
    content, image = picture.read_bytes(), Image.open(picture)
    array = np.array(image)
    planes = torch.from_numpy(array).permute(2, 0, 1)
    with open(picture, "rb") as file:
        forms = [str(picture), content, bytearray(content), io.BytesIO(content), file, image, array]
        for form in [*forms, planes, planes / 255]:
            assert_same([detector(form, 0.0)], [expected])
            assert_same(detector.detect(form, 0.0), [expected])
        assert not file.closed
    assert_same([detector(OnceOnly(content), 0.0)], [expected])


def test_several_images_may_be_a_list_a_batch_or_come_one_by_one(detector, picture):
    expected = detector(picture, 0.0)
    planes = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)
    for images in ([picture] * 3, (str(picture),) * 3, torch.stack([planes] * 3), np.stack([planes.numpy()] * 3)):
        for found in (detector(images, 0.0), detector.detect(images, 0.0)):
            assert_same(found, [expected] * 3)
    assert_same(detector.detect((picture for _ in range(3)), 0.0), [expected] * 3)
    assert detector.detect([], 0.0) == detector([], 0.0) == []


def test_of_a_long_stream_few_images_are_held(detector, monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 4)
    alive, most = [], []

    class Picture(np.ndarray):
        pass

    def stream():
        for _ in range(20):
            image = np.zeros((64, 64, 3), np.uint8).view(Picture)
            alive.append(weakref.ref(image))
            most.append(sum(reference() is not None for reference in alive))
            yield image

    assert len(detector.detect(stream(), 0.0)) == 20
    assert max(most) <= 4 + 1


def test_what_is_no_image_or_damaged_is_named(detector, tmp_path):
    for thing in ({}, 3, None):
        with pytest.raises(TypeError, match=f"got {type(thing).__name__}"):
            detector(thing)
    with pytest.raises(OSError, match="the bytes given: not an image"):
        detector(b"no image")
    with pytest.raises(OSError, match="the BytesIO given: the file is empty"):
        detector(io.BytesIO())
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg: no such file"):
        detector.detect(str(tmp_path / "absent.jpg"))
    with pytest.raises(ValueError, match="is an address"):
        detector.detect(["https://example.org/a.jpg"])


@pytest.mark.parametrize("threshold", [-0.1, 1.5, 50, float("nan"), "0.5", None, True])
def test_a_threshold_that_is_no_score_is_refused(threshold, detector, picture):
    with pytest.raises(ValueError, match="threshold must be a number from 0 to 1, got"):
        detector(picture, threshold)


def test_a_detector_says_what_it_is(detector):
    assert detector.names == [detector.model.config.id2label[i] for i in range(3)]
    text = repr(detector)
    for part in ("conditional_detr", "resnet18", "3 classes", "10 queries", "shortest_edge 64", "float32", "cpu"):
        assert part in text
    assert "\n" not in text


def test_a_detector_moves(folder):
    detector = Detector.from_pretrained(folder, device="cpu")
    assert detector.to("cpu") is detector and detector.device.type == "cpu"
    with pytest.raises(ValueError, match="device 'cuda:99' is not there"):
        detector.to("cuda:99")
    detector.model.is_compiled = True
    assert detector.to("cpu") is detector


def test_detections_become_json(detector, picture):
    found = detector(picture, 0.0)
    values = json.loads(json.dumps([detection.to_dict() for detection in found]))
    first = found[0]
    assert values[0] == {
        "label": first.label, "score": first.score, "box": list(first.box), "class_id": first.class_id,
    }  # fmt: skip
    mask = {"size": [2, 2], "counts": "04"}
    assert Detection("cat", 0.5, (0, 0, 2, 2), 0, mask).to_dict()["mask"] == mask


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, {"shortest_edge": 64, "longest_edge": 128}),
        ({"image_size": 96}, {"shortest_edge": 96, "longest_edge": 192}),
        ({"image_size": 96, "max_size": 100}, {"shortest_edge": 96, "longest_edge": 100}),
        ({"max_size": 100}, {"shortest_edge": 64, "longest_edge": 100}),
    ],
)
def test_images_can_be_given_another_size(options, size, folder, picture):
    detector = Detector.from_pretrained(folder, device="cpu", **options)
    assert detector.processor.size == size
    assert len(detector(picture, 0.0)) == 30
    with pytest.raises(ValueError, match="shortest_edge must be an integer of at least 1"):
        Detector.from_pretrained(folder, device="cpu", image_size=0)
