"""What would end a run hours later is found before its first step, which leaves no trace of itself."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from little_memory import last_line_of
from PIL import Image
from small_recipes import recipe_file, rows, small_recipe, start

from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.formats.coco import read_coco
from conditional_detr.data.sampler import TrainingBatches
from conditional_detr.data.samples import TrainingSet, collate
from conditional_detr.data.scenes import generate_scenes
from conditional_detr.data.transforms import training_transform
from conditional_detr.train import preflight as module
from conditional_detr.train.checkpoint_files import newest_checkpoint
from conditional_detr.train.failures import DiskTooSmall, EvaluationFails, FirstLossNotFinite, PreflightFailed
from conditional_detr.train.largest import largest_batch, largest_sizes
from conditional_detr.train.loop import train
from conditional_detr.train.preflight import duration


def quick_recipe(data, output, model=None, **values):
    """A recipe with preflight and a smaller backbone."""
    return small_recipe(data, output, {"backbone": "resnet10t", **(model or {})}, **{"preflight": True, **values})


def assert_same(a, b):
    """Bit for bit, all that is in two checkpoints."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def test_a_run_is_the_same_with_and_without_it(scenes, tmp_path, capsys):
    """With dropout, batch norm, a moving average, warm-up, micro-batches; and resumed, where it is tried again, but not where
    nothing is left to do. Nothing of it is left on the disk."""
    values = dict(ema=0.9, warmup_steps=2, accumulate=2, keep_checkpoints=1)
    run, other = tmp_path / "with", tmp_path / "without"
    train(quick_recipe(scenes, run, epochs=1, **values))
    said = capsys.readouterr().out
    assert re.search(r"preflight: some [\d.]+ s a step, .* an epoch, .* an evaluation: .* in all\n", said)
    assert "preflight: the largest batch, (4, 3, 96, 96) with up to 4 objects an image" in said
    assert "MiB of disk for checkpoints and models" in said and "preflight: it fits" in said
    first, last = map(float, re.search(r"learned for 8 steps: ([\d.]+) → ([\d.]+)", said).groups())
    assert last < first
    for again in ("it fits", ""):
        train(quick_recipe(scenes, run, epochs=2, resume="auto", **values))
        said = capsys.readouterr().out
        assert ("it fits" in said) is bool(again) and "learned for" not in said
    train(quick_recipe(scenes, other, epochs=2, preflight=False, **values))
    assert "preflight" not in capsys.readouterr().out
    for part in ("model", "ema", "optimizer", "progress"):
        assert_same(*(newest_checkpoint(folder / "checkpoints")[1][part] for folder in (run, other)))
    files = [sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) for folder in (run, other)]
    assert files[0] == files[1]
    losses = [[row["loss"] for row in rows(folder, "train")] for folder in (run, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("crop", [0.0, 0.5])
@pytest.mark.parametrize("group_by_shape", [False, True])
def test_no_batch_of_a_run_is_larger_than_the_largest(tmp_path, crop, group_by_shape):
    """All batches of 20 epochs, on images of many shapes."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    images, boxes = [], []
    for i, (height, width) in enumerate(rng.integers(20, 90, (12, 2)).tolist(), 1):
        Image.new("RGB", (width, height)).save(tmp_path / f"images/{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        boxes += [{"image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}] * (i % 5)
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    data = read_coco(tmp_path / "all.json", tmp_path / "images")
    settings = Augmentation(scales=[24, 32], max_size=60, crop=crop, crop_scales=[30, 40], crop_min=16, crop_max=36)
    real = TrainingSet(data, training_transform(settings), 0)
    batches = TrainingBatches(
        len(data),
        batch_size=4,
        parts=2,
        own_parts=range(2),
        epochs=20,
        seed=0,
        drawn_size=real.drawn_size if group_by_shape else None,
    )
    largest = largest_batch(data, batches, settings)
    made = [collate([real[key] for key in keys]) for keys in batches]
    height, width = largest.images.shape[-2:]
    areas = [batch.images.shape[-2] * batch.images.shape[-1] for batch in made]
    assert 0.6 * height * width <= max(areas) <= height * width
    assert largest.images.shape[0] == 2 and largest.pixel_mask.shape == (2, height, width)
    assert [len(label["boxes"]) for label in largest.labels] == [4, 4]
    assert max(len(label["boxes"]) for batch in made for label in batch.labels) <= 4


def test_the_largest_sizes_of_an_image_are_those_of_its_tallest_and_widest_parts():
    settings = Augmentation()
    assert largest_sizes((480, 640), settings)[0] == (800, 1066)
    assert (800, 1250) in largest_sizes((480, 640), settings) and (1250, 800) in largest_sizes((480, 640), settings)
    assert largest_sizes((480, 640), Augmentation(crop=0)) == [(800, 1066)]


def test_a_picture_that_cannot_be_read_in_an_evaluation_ends_it_before_training(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.0)  # leaves out what is not asked for here
    data = shutil.copytree(scenes, tmp_path / "data")
    for picture in (data / "images/val").iterdir():
        picture.write_bytes(picture.read_bytes()[:100])
    with pytest.raises(EvaluationFails, match=r"preflight: an evaluation would fail: .*\.png.*--skip_bad_images"):
        train(quick_recipe(data, tmp_path / "run"))
    assert not (tmp_path / "run/checkpoints").exists() and not (tmp_path / "run/.preflight").exists()


def test_a_full_disk_is_said_before_training(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.0)  # leaves out what is not asked for here

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        # recipe.yaml is there already, as of a run that was begun before
        patch.setattr("conditional_detr.train.loop.introduce", lambda run: run.output.mkdir())
        with pytest.raises(OSError, match=r"No space left on device.*MiB are free"):
            train(quick_recipe(scenes, tmp_path / "run"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(DiskTooSmall, match=r"2 checkpoints.*take 1\d MiB, and .* MiB are free.*--keep_checkpoints"):
        train(quick_recipe(scenes, tmp_path / "run"))
    assert not list((tmp_path / "run").rglob("*.pt")) and not (tmp_path / "run/.preflight").exists()


def test_a_loss_that_is_not_finite_is_said_with_its_images_and_the_cure(scenes, tmp_path):
    with pytest.raises(FirstLossNotFinite, match=r"image ids \d+, .*lower lr, set clip_norm") as error:
        train(quick_recipe(scenes, tmp_path, {"backbone_norm": "group"}, lr=1e18, clip_norm=0))
    assert "--preflight false" in str(error.value)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_loss_that_does_not_fall_is_a_warning(scenes, tmp_path, capsys):
    model = {"backbone_norm": "group"}
    recipe = quick_recipe(scenes, tmp_path, model, lr=1e-30, backbone_lr=0, weight_decay=0, epochs=1)
    train(recipe)
    assert "it should fall. lr (1e-30, backbone_lr 0) may be too high, or far too low" in capsys.readouterr().out


@pytest.mark.slow
def test_memory_that_does_not_hold_the_largest_batch_is_said_before_training(scenes, tmp_path):
    """In a process that may have only 400 MB more than it has when training starts; most of the batches would fit."""
    program = """
import sys
from little_memory import take_little_more
from small_recipes import small_recipe
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.train.failures import PreflightFailed
from conditional_detr.train.loop import train

def run(scales):
    augmentation = Augmentation(scales=scales, max_size=4000, crop=0)
    return train(small_recipe(sys.argv[1], sys.argv[2], preflight=True, augmentation=augmentation))

take_little_more()
try:
    run([64] * 20 + [1500])
except PreflightFailed as error:
    print(error)
"""
    line, errors = last_line_of(program, scenes, tmp_path / "run")
    assert line.startswith(
        "preflight: memory does not hold the largest batch that the data can make, (8, 3, 1500, 1500)"
    ), errors
    assert "--accumulate (the same result)" in line and not list((tmp_path / "run").rglob("*.pt"))


def test_memory_is_told_from_fewer_images_before_it_is_full(scenes, tmp_path, monkeypatch):
    """Where memory is full, Linux ends the process without a word; so the batch is not tried that would fill it."""
    monkeypatch.setattr(module, "LARGE", 1000)
    tried = []
    timed = module._Trial.timed
    monkeypatch.setattr(
        module._Trial, "timed", lambda self, parts: tried.append(len(parts[0].images)) or timed(self, parts)
    )
    monkeypatch.setattr(module, "memory_limit", lambda device: 2**20)
    with pytest.raises(PreflightFailed, match=r"\(8, 3, 96, 96\).*some [\d.]+ [MG]iB, and there are 1 MiB"):
        train(quick_recipe(scenes, tmp_path / "run"))
    assert tried == [1, 2]


@pytest.mark.slow
def test_two_processes_agree(scenes, tmp_path):
    path = recipe_file(tmp_path, small_recipe(scenes, tmp_path / "run", preflight=True, epochs=1))
    process = start(["--config", str(path)], processes=2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and output.count("preflight: it fits") == 1, output
    assert "(4, 3, 96, 96)" in output and not (tmp_path / "run/.preflight").exists()


def test_what_would_take_too_long_is_told_from_fewer_images(tmp_path, monkeypatch, capsys):
    """Of panoptic data, with groups of queries."""
    data = generate_scenes(tmp_path / "scenes", {"train": 8, "val": 2}, size=64, max_objects=3)
    monkeypatch.setattr(module, "LARGE", 1000)
    monkeypatch.setattr(module, "SECONDS", 0.0)
    train(quick_recipe(data, tmp_path / "run", {"query_groups": 2, "backbone": "resnet18"}, task="panoptic", epochs=1))
    said = capsys.readouterr().out
    assert "(estimated from fewer images)" in said and "learned for" not in said and "it fits" in said


def test_times_are_told_in_units_that_people_use():
    told = [duration(seconds) for seconds in (0.234, 45.2, 100, 1000, 7200, 1e6)]
    assert told == ["0.23 s", "45 s", "1.7 min", "17 min", "2.0 h", "12 days"]
