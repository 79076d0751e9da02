"""Training that loses machines goes on with those that are left, and learns what the recipe says."""

import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from float64_training import train_in_float64
from small_recipes import recipe_file, rows, small_recipe

from conditional_detr.data.sampler import TrainingBatches
from conditional_detr.train.checkpoint_files import newest_checkpoint
from conditional_detr.train.distributed import Processes
from conditional_detr.train.loop import train

BATCHES = dict(batch_size=8, epochs=1, seed=0)


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
                env={
                    **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path),
                    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", **environment,
                },
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
def test_fewer_processes_make_the_micro_batches_that_more_made(scenes, tmp_path):
    """A run of two processes, continued by one: bit for bit what one process makes of two micro-batches a step, dropout and
    batch norm included."""
    train(small_recipe(scenes, tmp_path / "whole", accumulate=2, ema=0.9, epochs=3))
    train(small_recipe(scenes, tmp_path / "run", accumulate=2, ema=0.9, epochs=1))
    path, content = newest_checkpoint(tmp_path / "run/checkpoints")
    torch.save({**content, "processes": 2}, path)
    train(small_recipe(scenes, tmp_path / "run", ema=0.9, epochs=3, resume="auto"))
    one, other = (newest_checkpoint(tmp_path / run / "checkpoints")[1] for run in ("whole", "run"))
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    assert other["processes"] == 2


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 8])
def test_every_image_of_a_step_is_one_processs_however_it_divides(processes):
    own_parts = [Processes.share(SimpleNamespace(rank=rank, count=processes), 8) for rank in range(processes)]
    seen = [batch for own in own_parts for batch in TrainingBatches(20, **BATCHES, parts=8, own_parts=own)]
    whole = TrainingBatches(20, **BATCHES, parts=1, own_parts=range(1))
    assert sorted(index for batch in seen for _, index in batch) == sorted(
        np.concatenate(list(whole.steps(0))).tolist()
    )
    uneven = TrainingBatches(20, **BATCHES, parts=3, own_parts=range(3))
    assert [len(batch) for batch in uneven] == [2, 3, 3] * 2
    assert [index for batch in uneven for _, index in batch] == [index for batch in whole for _, index in batch]


def test_a_step_has_an_image_for_each_micro_batch(scenes, tmp_path):
    with pytest.raises(ValueError, match="batch_size 2 does not divide into 1 processes × 3 micro-batches"):
        train(small_recipe(scenes, tmp_path / "run", batch_size=2, accumulate=3))
    assert not (tmp_path / "run").exists()


def processes_without_a_launcher(folder, store, command, **environment):
    """Two processes, each as the first one of a machine: without torchrun, which would end the other when one dies."""
    common = dict(
        WORLD_SIZE="2", LOCAL_WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="localhost", MASTER_PORT=str(store.port),
        TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0", OMP_NUM_THREADS="1",
        PYTHONPATH=os.pathsep.join(sys.path),
    )  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=folder / f"machine{rank}",
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **common, **environment, "RANK": str(rank)},
        )
        for rank in range(2)
    ]


def test_all_take_the_newest_checkpoint_of_any_machine_and_notice_that_one_is_lost(scenes, tmp_path):
    """The first machine is new; the second has the run. Both keep it from then on; one dies, and the other says which."""
    run, other = tmp_path / "machine1/run", tmp_path / "machine0/run"
    train_in_float64(small_recipe("", run, **options(scenes, epochs=1)))
    other.parent.mkdir()
    (run / "best").mkdir()
    (run / "best/config.json").write_text("{}")
    path = recipe_file(tmp_path, small_recipe("", "run", **options(scenes)))
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    started = processes_without_a_launcher(tmp_path, store, ["-m", "float64_training", str(path)], LOST="1")
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [1, -signal.SIGKILL], said
    assert "continuing from run/checkpoints/step-00000003.pt (step 3)" in said[0]
    lost = rf"process 1 of 2 \({started[1].pid} on .*\) has ended without a word .*the last checkpoint is run/checkpoints/step-00000005"
    assert re.search(lost, said[0]), said[0]
    assert [row["step"] for row in rows(other, "train")] == [1, 2, 3, 4, 5]
    assert (other / "best/config.json").read_text() == "{}" and (other / "recipe.yaml").is_file()
    one, two = (newest_checkpoint(folder / "checkpoints")[1] for folder in (run, other))
    assert two["progress"]["step"] == 5
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())


@pytest.mark.slow
@pytest.mark.numeric
def test_a_run_that_loses_a_machine_ends_with_the_weights_of_one_that_did_not(scenes, tmp_path):
    """Two machines without a common disk, of which the one that leads dies: the other goes on alone, with the same
    micro-batches one after another. Dropout and batch norm are those of a run that was never disturbed."""
    train_in_float64(small_recipe("", tmp_path / "whole", accumulate=2, **options(scenes)))
    path = recipe_file(tmp_path, small_recipe("", "run", **options(scenes)))
    store, started = machines(tmp_path, 2, ["-m", "float64_training", str(path)], LOST="0")
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


@pytest.mark.slow
def test_a_machine_that_is_cut_off_ends_the_others_within_a_minute_and_they_go_on(scenes, tmp_path):
    """Nothing is closed, so a message to it would wait for half an hour."""
    path = recipe_file(tmp_path, small_recipe("", "run", **options(scenes)))
    store, started = machines(tmp_path, 2, ["-m", "float64_training", str(path)], LOST="1", HOW="SIGSTOP")
    deadline = time.monotonic() + 300
    try:
        while all(process.poll() is None for process in started) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = next(process for process in started if process.poll() is not None)
        said = left.communicate()[0]
    finally:
        for process in started:
            if process.poll() is None:
                for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                    one.kill()
    assert left.returncode == 0 and "continuing from run/checkpoints/step-00000005.pt" in said, said
    assert "process 1 of 2" in said and "has been silent for 40 seconds" in said
    del store
