"""Stopped, killed or failed at any moment, a run is continued as if nothing had been."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import small_model
from small_recipes import small_recipe

from conditional_detr.data.scenes import generate_scenes
from conditional_detr.files import read_json
from conditional_detr.stopping import Interrupted, StopRequest
from conditional_detr.train import loop, setup
from conditional_detr.train.checkpoint_files import checkpoints, newest_checkpoint
from conditional_detr.train.failures import LossNotFinite, NoUsableCheckpoint, RecipeChanged, RunExists, TrainingError
from conditional_detr.train.loop import train
from conditional_detr.train.state import Pace


def rows(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def without_clocks(run):
    clocks = ("time", "images_per_second", "data_share")
    return [{name: value for name, value in row.items() if name not in clocks} for row in rows(run)]


def assert_same_run(one, other):
    """Both have left the same, but for what depends on the clock."""
    for folder in ("model", "best"):
        a, b = (load_file(run / folder / "model.safetensors") for run in (one, other))
        assert all(torch.equal(a[name], b[name]) for name in a | b), folder
    a, b = (newest_checkpoint(run / "checkpoints")[1]["model"] for run in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    for name in ("metrics.json", "best/metrics.json"):
        assert read_json(one / name) == read_json(other / name)
    assert without_clocks(one) == without_clocks(other)
    assert not list(other.rglob("*.part"))


@pytest.fixture(scope="module")
def long_evaluation(tmp_path_factory):
    """Scenes whose evaluation takes much longer than their training."""
    counts = {"train": 8, "val": 40}
    return generate_scenes(tmp_path_factory.mktemp("data") / "scenes", counts, size=64, max_objects=4)


def options(**values):
    return {
        **dict(epochs=2, batch_size=4, eval_batch_size=1, workers=1, ema=0.9, checkpoint_steps=1, log_steps=3),
        **values,
    }


def start(data, run, **values):
    path = run.parent / f"{run.name}.yaml"
    path.write_text(json.dumps(small_recipe(data, run, resume="auto", **values).to_dict()))  # JSON is YAML
    return subprocess.Popen(
        [sys.executable, "-m", "conditional_detr.cli", "train", "--config", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def runs(session):
    """Whether any process of a session is left."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def undisturbed(long_evaluation, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(small_recipe(long_evaluation, run, **options()))
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopped_or_killed_in_an_evaluation(long_evaluation, undisturbed, tmp_path, number):
    run = tmp_path / "run"
    process = start(long_evaluation, run, **options())
    deadline = time.time() + 200
    while not (run / "checkpoints/step-00000002.pt").exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, number) if number != signal.SIGKILL else process.kill()
    output, _ = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number, output
        said = output.splitlines()[-1]  # what is said in an evaluation; after a step it is "state saved in"
        assert f"stopped by {signal.Signals(number).name}; the last checkpoint is" in said
    left = time.time() + (20 if number == signal.SIGKILL else 1)  # orphans look for their parent every 5 s
    while runs(process.pid) and time.time() < left:
        time.sleep(0.1)
    assert not runs(process.pid)
    train(small_recipe(long_evaluation, run, resume="auto", **options()))
    assert_same_run(undisturbed, run)


def test_an_evaluation_that_failed_is_done_on_resuming(long_evaluation, undisturbed, tmp_path):
    data, run = shutil.copytree(long_evaluation, tmp_path / "data"), tmp_path / "run"
    picture = sorted((data / "images/val").iterdir())[5]
    whole = picture.read_bytes()
    picture.write_bytes(whole[:100])
    with pytest.raises(OSError, match=picture.name):
        train(small_recipe(data, run, **options()))
    picture.write_bytes(whole)
    (run / ".log.jsonl.999999999.part").write_text("of a run that was killed")
    (run / "checkpoints/.step-00000002.pt.999999999.part").write_text("of a run that was killed")
    train(small_recipe(data, run, resume="auto", **options()))
    assert_same_run(undisturbed, run)


def test_a_finished_run_stays_as_it_is(long_evaluation, undisturbed, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    train(small_recipe(long_evaluation, run, resume="auto", **options()))
    assert_same_run(undisturbed, run)


def test_garbage_in_the_log_does_not_stop_resuming(long_evaluation, undisturbed, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    garbage = b'{"kind": "train"}\nnull\n[1]\n{"kind": "train", "step": "x", "epoch": 1}\n\xff\xfe\n{"kind\n' * 2000
    with (run / "log.jsonl").open("ab") as file:
        file.write(garbage)
    train(small_recipe(long_evaluation, run, resume="auto", **options()))
    assert_same_run(undisturbed, run)


def damage_progress(state):
    state["progress"].clear()


def damage_step(state):
    state["progress"]["step"] = "2"


def damage_optimizer_shapes(state):
    first = state["optimizer"]["state"][0]
    first["exp_avg"] = first["exp_avg"].flatten()[:1].clone()


def damage_optimizer_groups(state):
    del state["optimizer"]["param_groups"][0]


def damage_optimizer_rates(state):
    state["optimizer"]["param_groups"][0]["base_lr"] = None


def damage_weights(state):
    name = next(iter(state["model"]))
    state["model"][name] = state["model"][name].to(torch.int8)


def damage_names(state):
    state["model"]["other"] = state["model"].pop(next(iter(state["model"])))


def damage_average(state):
    state["ema"] = None


def damage_pace(state):
    state["pace"]["steps"] = [1]


def damage_threads(state):
    state["threads"] = 10**9


def damage_recipe(state):
    state["recipe"] = []


def damage_config(state):
    state["config"]["d_model"] = "many"


DAMAGES = [value for name, value in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_of_another_form_is_refused_before_it_is_used(long_evaluation, undisturbed, tmp_path, damage):
    state = torch.load(checkpoints(undisturbed / "checkpoints")[-1], weights_only=True)
    damage(state)
    path = tmp_path / checkpoints(undisturbed / "checkpoints")[-1].name
    torch.save(state, path)
    with pytest.raises(TrainingError, match=rf"{path.name} is (damaged|not a checkpoint)"):
        train(small_recipe(long_evaluation, tmp_path / "run", resume=str(path), **options()))
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_passed_over_and_put_aside(long_evaluation, undisturbed, tmp_path, caplog):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    newest = checkpoints(run / "checkpoints")[-1]
    state = torch.load(newest, weights_only=True)
    damage_optimizer_shapes(state)
    torch.save(state, newest)
    torch.save(state, newest.with_name("step-00000900.pt"))
    train(small_recipe(long_evaluation, run, resume="auto", **options()))
    assert f"{newest.name} is damaged" in caplog.text and "trying the one before" in caplog.text
    assert newest.with_name("step-00000900.aside").is_file()  # or it would be the newest again, and the new ones old
    assert_same_run(undisturbed, run)


@pytest.mark.parametrize("resume", ["", "auto"])
def test_a_run_without_a_usable_checkpoint_is_not_begun_anew(long_evaluation, undisturbed, tmp_path, resume):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    for path in checkpoints(run / "checkpoints"):
        path.write_bytes(path.read_bytes()[:1000])
    log = (run / "log.jsonl").read_text()
    with pytest.raises(TrainingError, match="holds a run already" if not resume else "none of the 2 checkpoints"):
        train(small_recipe(long_evaluation, run, resume=resume, **options()))
    assert (run / "log.jsonl").read_text() == log


def test_a_turned_bit_in_a_checkpoint_is_seen(undisturbed, tmp_path, caplog):
    folder = shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    newest = checkpoints(folder)[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert newest_checkpoint(folder)[0] != newest and "check sum" in caplog.text


def test_the_model_that_was_started_from_decides_what_is_resumed(scenes, tmp_path):
    """The recipe does not say how many queries, and that strides are dilated; the weights' shapes do not show it."""
    start_from = small_model(num_queries=7, output_stride=32, dilation=True, backbone="resnet50")
    start_from.save_pretrained(tmp_path / "start")
    model = {"backbone_norm": "batch"}
    values = dict(init_from=str(tmp_path / "start"), epochs=1, checkpoint_steps=1, keep_checkpoints=9)
    recipe = small_recipe(scenes, tmp_path / "run", **values)
    recipe.model = model
    train(recipe)
    for path in checkpoints(tmp_path / "run/checkpoints")[2:]:
        path.unlink()
    shutil.rmtree(tmp_path / "start")  # not needed any more
    again = small_recipe(scenes, tmp_path / "run", **{**values, "resume": "auto"})
    again.model = model
    train(again)
    config = read_json(tmp_path / "run/model/config.json")
    assert config["dilation"] is True and config["num_queries"] == 7


@pytest.mark.parametrize(
    ("place", "function"), [(torch.optim.AdamW, "step"), (loop, "count_normalizers")], ids=["last", "first"]
)
def test_running_out_of_memory_leaves_the_state_from_before_the_step(scenes, tmp_path, monkeypatch, place, function):
    """At its end, where batch norm has seen the batch, as at its beginning. What was counted in it is not counted twice."""
    data = shutil.copytree(scenes, tmp_path / "data")
    for image in sorted((data / "images/train").iterdir())[::2]:
        image.write_bytes(image.read_bytes()[:100])
    values = dict(epochs=1, checkpoint_steps=1, keep_checkpoints=9, skip_bad_images=True)
    train(small_recipe(data, tmp_path / "whole", **values))
    works, calls = getattr(place, function), []

    def fail_at_third(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("out of memory")
        return works(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(place, function, fail_at_third)
        with pytest.raises(TrainingError, match="out of memory at step 3.*step-00000002"):
            train(small_recipe(data, tmp_path / "run", **values))
    train(small_recipe(data, tmp_path / "run", **values, resume="auto"))
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    a, b = (newest_checkpoint(tmp_path / run / "checkpoints")[1]["progress"] for run in ("whole", "run"))
    assert a == b and a["bad_images"] == 12


def test_pace_is_of_the_steps_that_were_made():
    """And not of `log_steps`, of which a window that ends early or begins on resuming has fewer."""
    pace = Pace()
    for _ in range(2):
        pace.add(seconds=0.5, waiting=0.1, padding=0.25)
    assert pace.shares(batch_size=8) == {"images_per_second": 16.0, "data_share": 0.2, "padding_share": 0.25}


def test_synchronised_batch_norm_keeps_a_backbones_activations():
    """PyTorch's own conversion drops those that timm's norms hold."""
    backbone = small_model(backbone="efficientnet_lite0").eval().model.backbone
    pixels = torch.randn(1, 3, 64, 64)
    before = backbone(pixels, None)[0]
    converted = setup.convert_sync_batchnorm(backbone)
    assert any(isinstance(part, torch.nn.SyncBatchNorm) for part in converted.modules())
    torch.testing.assert_close(converted(pixels, None)[0], before)


PROGRAM = r"""
import os, sys
from small_recipes import small_recipe
from conditional_detr.stopping import StopRequest
from conditional_detr.train.loop import carry_out
from conditional_detr.train.setup import set_up

rank = os.environ["RANK"]
run = set_up(small_recipe(sys.argv[1], sys.argv[2] + rank, resume="auto", epochs=2, ema=0.9), StopRequest(say=False))
sys.stdout.write(f"{rank} from {run.progress.step}\n")
carry_out(run)
total = sum(b.double().sum().item() for b in (*run.state.model.buffers(), *run.state.average.buffers()))
sys.stdout.write(f"{rank} statistics {total}\n")
"""


def test_all_processes_continue_from_the_first_ones_checkpoint_and_evaluate_with_its_statistics(scenes, tmp_path):
    """On machines that share no disk, the others have none."""
    train(small_recipe(scenes, tmp_path / "run0", epochs=2, ema=0.9, keep_checkpoints=1, checkpoint_steps=2))
    newest = checkpoints(tmp_path / "run0/checkpoints")[-1]
    state = torch.load(newest, weights_only=True)
    (tmp_path / "program.py").write_text(PROGRAM)
    for name in ("model", "best"):
        shutil.rmtree(tmp_path / "run0" / name)
    newest.unlink()
    # Of step 0: two processes train as one does, but not bit for bit, so all of it is done again.
    state["progress"] = {"step": 0, "best": -1.0, "best_step": 0, "evaluations_since_best": 0}
    state["optimizer"]["state"] = {}
    torch.save(state, tmp_path / "run0/checkpoints/step-00000000.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "program.py"), str(scenes), str(tmp_path / "run")],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = sorted(line for line in done.stdout.splitlines() if line[:2] in ("0 ", "1 "))
    assert said[0] == "0 from 0" and said[2] == "1 from 0"
    assert said[1].removeprefix("0 ") == said[3].removeprefix("1 ")


def test_a_second_ctrl_c_stops_at_once_but_a_repeated_request_does_not(capfd):
    with StopRequest(say=True) as stop:
        with pytest.raises(Interrupted, match="training had not begun"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.at_once
        stop.signal = 0
        for number in (
            signal.SIGINT,
            signal.SIGINT,
            signal.SIGTERM,
        ):  # torchrun sends it on to whom it was sent already
            os.kill(os.getpid(), number)
        assert stop.signal == signal.SIGINT
        assert capfd.readouterr().err.count("stopping after this step; Ctrl-C again stops without saving") == 1
        stop.asked_at -= 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert not issubclass(Interrupted, Exception)  # passes through code that catches errors


def test_a_checkpoint_without_what_versions_before_did_not_keep_is_continued(long_evaluation, undisturbed, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    newest, path = checkpoints(run / "checkpoints")[::-1]
    newest.unlink()
    state = torch.load(path, weights_only=True)
    for name in ("config", "pace", "threads", "scaler"):
        del state[name]
    del state["progress"]["evaluated_step"], state["progress"]["bad_images"], state["recipe"]["threads"]
    torch.save(state, path)
    train(small_recipe(long_evaluation, run, resume="auto", **options()))
    a, b = (newest_checkpoint(folder / "checkpoints")[1] for folder in (undisturbed, run))
    for part in ("model", "ema"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part] | b[part])
    assert a["progress"] == b["progress"]


@pytest.mark.parametrize(
    "error",
    [
        RunExists(Path("run")),
        RecipeChanged(Path("step-00000001.pt"), ["lr: 1 → 2"]),
        NoUsableCheckpoint(Path("run")),
        LossNotFinite(3, [1, "a"], None, Path("run")),
    ],
)
def test_an_error_of_the_first_process_reaches_the_others_as_it_is(error):
    other = pickle.loads(pickle.dumps(error))
    assert isinstance(other, TrainingError) and str(other) == str(error)
