"""A training run of a few seconds: its recipe, its processes and its log."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from small_models import SMALL

from conditional_detr.data.augmentation import Augmentation
from conditional_detr.train.loop import train
from conditional_detr.train.recipe import Recipe


def small_recipe(data, output, model=None, **values):
    defaults = dict(
        data=str(data),
        output=str(output),
        model={**SMALL, "auxiliary_loss": True, **(model or {})},
        image_size=64,
        max_size=128,
        augmentation=Augmentation(scales=[48, 64], max_size=128, crop=0.5, crop_scales=[64], crop_min=32, crop_max=48),
        epochs=2,
        batch_size=8,
        lr=1e-3,
        backbone_lr=1e-3,
        workers=0,
        log_steps=1,
        tensorboard=False,
        preflight=False,
    )
    return Recipe(**{**defaults, **values})


def rows(run, kind):
    return [row for row in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if row["kind"] == kind]


def start(arguments, processes=1):
    """`cdetr train` in processes of its own, as a user starts it."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "conditional_detr.cli", "train", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def recipe_file(folder, recipe):
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe.to_dict()))  # JSON is YAML
    return path


def sparse(scenes, folder):
    """The scenes, most of them without objects, so that a process or micro-batch often has no target at all."""
    shutil.copytree(scenes, folder)
    path = folder / "annotations/train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in (2, 3, 11)]
    path.write_text(json.dumps(content))
    return folder


def assert_splits_train_alike(data, folder, steps, **options):
    """A batch in one piece, in four micro-batches, and over two processes: the loss of every step is the same. The runs are
    in the folders "one", "split" and "two"."""
    train(small_recipe(data, folder / "one", **options))
    train(small_recipe(data, folder / "split", **options, accumulate=4))
    path = recipe_file(folder, small_recipe(data, folder / "two", **options))
    process = start(["--config", str(path)], processes=2)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    expected = rows(folder / "one", "train")
    for other in ("split", "two"):
        seen = rows(folder / other, "train")
        assert len(seen) == len(expected) == steps
        for a, b in zip(expected, seen, strict=True):
            for name in ("loss", "loss_ce", "loss_bbox", "loss_giou"):
                assert b[name] == pytest.approx(a[name], rel=1e-3), (other, a["step"], name)
