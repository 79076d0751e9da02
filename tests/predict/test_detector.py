"""The detector: fast, exact, and clear about what cannot be."""

import pytest
import torch
from PIL import Image
from same_detections import assert_same_detections
from small_models import FAMILIES, randomise, skip_without, small_model

from conditional_detr import Detector
from conditional_detr.models.family import family_of
from conditional_detr.predict.memory import enough_memory
from conditional_detr.processors.auto_processor import IMAGE_PROCESSORS

SIZES = [(64, 64), (80, 60), (50, 90), (64, 64)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """(family) -> a saved model and its processor."""

    def save(family="conditional_detr", **options):
        path = tmp_path_factory.mktemp("model")
        randomise(small_model(family, output_stride=16)).save_pretrained(path)
        size = {"shortest_edge": 64, "longest_edge": 128}
        IMAGE_PROCESSORS[family](**{"size": size, **options}).save_pretrained(path)
        return path

    return save


@pytest.fixture(scope="module")
def pictures():
    return [Image.effect_noise(size, 60 + i).convert("RGB") for i, size in enumerate(SIZES)]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert_same_detections(ours, theirs, score=1e-4, box=0.02)


@pytest.mark.numeric
@pytest.mark.parametrize("family", FAMILIES)
def test_a_detector_detects_what_the_plain_model_detects(family, folder, pictures):
    path = folder(family)
    exact = family_of(family).detector.from_pretrained(path, dtype=torch.float64)
    plain = Detector(exact, IMAGE_PROCESSORS[family].from_pretrained(path))
    fast = Detector.from_pretrained(path, device="cpu")
    assert_same(fast.detect(pictures, 0.0), plain.detect(pictures, 0.0))
    fast.model.canvas_step = 64  # as where CUDA graphs are replayed
    assert_same(fast.detect(pictures, 0.0), plain.detect(pictures, 0.0))


@pytest.mark.numeric
def test_bfloat16_finds_the_same_objects(folder, pictures):
    skip_without(torch.bfloat16)
    path = folder()
    exact, rounded = (Detector.from_pretrained(path, device="cpu", dtype=t) for t in (None, torch.bfloat16))
    for ours, theirs in zip(rounded.detect(pictures, 0.0), exact.detect(pictures, 0.0), strict=True):
        assert [d.score for d in ours] == pytest.approx([d.score for d in theirs], abs=0.01)


@pytest.mark.numeric
def test_without_a_compiler_there_is_a_warning_and_the_same_result(folder, monkeypatch, pictures):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "/nowhere/g++"))
    path = folder()
    with pytest.warns(UserWarning, match=r"compile=True has no effect: no working compiler for cpu \(.*g\+\+"):
        detector = Detector.from_pretrained(path, device="cpu", compile=True)
    assert_same(detector.detect(pictures, 0.0), Detector.from_pretrained(path, device="cpu").detect(pictures, 0.0))


def test_an_image_that_memory_would_not_hold_is_refused_with_size_and_limit(folder, pictures):
    detector = Detector.from_pretrained(folder(do_resize=False), device="cpu")
    image = torch.zeros(3, 1, 1, dtype=torch.uint8).expand(3, 200_000, 300_000)  # three bytes of memory
    with pytest.raises(ValueError, match=r"200000×300000 pixels.*does not fit.*GiB free, enough for .* million pixels"):
        detector(image)
    detector = Detector.from_pretrained(folder(size={"height": 200_000, "width": 300_000}), device="cpu")
    with pytest.raises(ValueError, match="200000×300000 pixels, as the model would see it"):
        detector(pictures[0])


def test_a_failed_allocation_is_one_line_of_advice():
    with (
        pytest.raises(RuntimeError, match="^cpu ran out of memory: take a smaller batch"),
        enough_memory(torch.device("cpu")),
    ):
        torch.empty(2**55)
    with pytest.raises(RuntimeError, match="size of tensor"), enough_memory(torch.device("cpu")):
        torch.zeros(2) + torch.zeros(3)


def test_what_yields_images_gives_a_list_for_each(folder, scenes):
    path = folder()
    detector = Detector.from_pretrained(path, device="cpu", dtype="float32")
    files = sorted((scenes / "images/val").iterdir())[:2]
    assert detector(iter(files), threshold=0.0) == detector(files, threshold=0.0) == detector.detect(files, 0.0)
    assert detector(iter([])) == []
    with pytest.raises(ValueError, match="dtype must be a floating-point type or 'auto', got 'half16'"):
        Detector.from_pretrained(path, dtype="half16")
