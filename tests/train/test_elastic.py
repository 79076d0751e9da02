"""Training that loses machines goes on with those that are left, and learns what the recipe says."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from float64_training import train_in_float64
from small_recipes import recipe_file, small_recipe

from conditional_detr.train.checkpoint_files import newest_checkpoint


def options(scenes, **values):
    """Four epochs of three steps, with all that is drawn: dropout, augmentation. Without validation, which computes in float32."""
    files = dict(train_annotations=str(scenes / "annotations/train.json"), train_images=str(scenes / "images/train"))
    return {**files, "epochs": 4, "checkpoint_steps": 1, "ema": 0.9, "resume": "auto", **values}


def machines(folder, count, command, **environment):
    """So many torchruns, each in a folder of its own: what one writes, the others do not see. Gives them and the store that
    they meet at, which is not on any of them."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    quick = "is_host=0,last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=2"
    launcher = [
        "-m", "torch.distributed.run", f"--nnodes=1:{count}", "--nproc_per_node=1", "--max-restarts=2", "--rdzv_backend=c10d",
        f"--rdzv_endpoint=localhost:{store.port}", "--rdzv_id=run", f"--rdzv_conf={quick}",
    ]  # fmt: skip
    started = []
    for number in range(count):
        own = folder / f"machine{number}"
        own.mkdir()
        started.append(
            subprocess.Popen(
                [sys.executable, *launcher, *command], cwd=own, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            )
        )  # fmt: skip
    return store, started


def trained(run):
    """The weights, and their moving average; not batch norm's statistics, which are a process's own."""
    content = newest_checkpoint(run / "checkpoints")[1]
    assert content["progress"]["step"] == 12
    parts = {**content["model"], **content["ema"]}
    return {name: value for name, value in parts.items() if "running_" not in name and value.is_floating_point()}


@pytest.mark.numeric
def test_a_run_that_loses_a_machine_ends_with_the_weights_of_one_that_did_not(scenes, tmp_path):
    """Two machines without a common disk, of which the one that leads dies: the other goes on alone, with the same
    micro-batches one after another. Dropout and batch norm are those of a run that was never disturbed."""
    train_in_float64(small_recipe("", tmp_path / "whole", accumulate=2, **options(scenes)))
    path = recipe_file(tmp_path, small_recipe("", "run", **options(scenes)))
    store, started = machines(tmp_path, 2, ["-m", "float64_training", str(path)], RANK_TO_LOSE="0")
    said = [process.communicate(timeout=300)[0] for process in started]
    left = next(number for number, process in enumerate(started) if process.returncode == 0)
    assert started[1 - left].returncode == -9, said
    assert "Continue with --resume auto" in said[left] or "ProcessLost" in said[left], said[left]
    assert "continuing from run/checkpoints/step-00000005.pt (step 5)" in said[left], said[left]
    assert "1 of 2 processes: they make all 2 micro-batches of a step" in said[left]
    one, other = trained(tmp_path / "whole"), trained(tmp_path / f"machine{left}/run")
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-11, msg=name)
    del store
