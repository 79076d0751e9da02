"""Training: exact under resuming, processes and accumulation; safe when something goes wrong."""

import json
import os
import shutil
import signal
import time

import pytest
import torch
from little_memory import last_line_of
from safetensors.torch import load_file
from small_models import small_model
from small_recipes import assert_splits_train_alike, recipe_file, rows, small_recipe, sparse, start

from conditional_detr.stopping import Interrupted
from conditional_detr.train.checkpoint_files import checkpoints, newest_checkpoint, save_checkpoint
from conditional_detr.train.failures import TrainingError
from conditional_detr.train.loop import train
from conditional_detr.train.optimizer import learning_rate_factor
from conditional_detr.train.recipe import Recipe, find_recipe, read_recipe, recipe_names


@pytest.mark.parametrize("family", ["conditional_detr", "detr"])
def test_a_run_leaves_what_its_user_needs(scenes, tmp_path, family):
    metrics = train(small_recipe(scenes, tmp_path, {"family": family}, ema=0.9))
    assert 0 <= metrics["AP"] <= metrics["AP50"] <= 1 and set(metrics["per_class"]) == {"circle", "square", "triangle"}
    for name in (
        "recipe.yaml",
        "curves.png",
        "batch.jpg",
        "validation.jpg",
        "metrics.json",
        "model/model.safetensors",
        "model/preprocessor_config.json",
    ):
        assert (tmp_path / name).is_file(), name
    assert len(rows(tmp_path, "train")) == 6 and len(rows(tmp_path, "eval")) == 2
    assert len(checkpoints(tmp_path / "checkpoints")) == 2
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["id2label"] == {"0": "circle", "1": "square", "2": "triangle"} and config["category_ids"] == [1, 3, 5]


@pytest.mark.numeric
def test_the_loss_goes_down(scenes, tmp_path):
    train(small_recipe(scenes, tmp_path, epochs=12, eval_epochs=100))
    losses = [row["loss"] for row in rows(tmp_path, "train")]
    assert sum(losses[-6:]) < 0.75 * sum(losses[:6])


def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_weights(scenes, tmp_path):
    """Bit for bit, with dropout, augmentation, EMA and batch norm on."""
    options = dict(ema=0.9, epochs=4, checkpoint_steps=1, keep_checkpoints=3, eval_epochs=4, workers=1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_path = recipe_file(tmp_path, small_recipe(scenes, whole, **options))
    process = start(["--config", str(train_path)])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    process = start(["--config", str(train_path), "--output", str(broken), "--resume", "auto"])
    deadline = time.time() + 200
    while len(checkpoints(broken / "checkpoints")) < 2 and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = newest_checkpoint(broken / "checkpoints")
    assert found is not None and 0 < found[1]["progress"]["step"] < 12
    process = start(["--config", str(train_path), "--output", str(broken), "--resume", "auto"])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "continuing from" in output, output
    last = [load_file(run / "model/model.safetensors") for run in (whole, broken)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    states = [newest_checkpoint(run / "checkpoints")[1]["model"] for run in (whole, broken)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    losses = [[row["loss"] for row in rows(run, "train")] for run in (whole, broken)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("family", "most_are_empty"),
    [pytest.param("conditional_detr", False, marks=pytest.mark.numeric), ("conditional_detr", True), ("detr", True)],
)
def test_two_processes_and_micro_batches_train_like_one(scenes, tmp_path, family, most_are_empty):
    """Both normalisers: the loss of every step is the same however a batch is split."""
    if most_are_empty:
        scenes = sparse(scenes, tmp_path / "sparse")
    torch.manual_seed(0)
    values = dict(backbone_norm="frozen", dropout=0.0)
    small_model(family, **values).save_pretrained(tmp_path / "start")
    options = dict(init_from=str(tmp_path / "start"), model={"family": family, **values}, epochs=3, eval_epochs=3)
    assert_splits_train_alike(scenes, tmp_path, steps=9, **options)
    for other in ("split", "two"):
        figures = [rows(tmp_path / run, "eval")[0]["AR_100"] for run in ("one", other)]
        assert figures[1] == pytest.approx(figures[0], abs=0.02)


def test_ctrl_c_saves_and_says_how_to_go_on(scenes, tmp_path):
    path = recipe_file(tmp_path, small_recipe(scenes, tmp_path / "run", epochs=500, eval_epochs=500, workers=1))
    process = start(["--config", str(path)])
    deadline = time.time() + 200
    while not (tmp_path / "run/log.jsonl").exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    last = output.strip().splitlines()[-1]
    assert "stopped by SIGINT" in last and "--resume auto" in last and "Traceback" not in output
    step = newest_checkpoint(tmp_path / "run/checkpoints")[1]["progress"]["step"]
    assert step == rows(tmp_path / "run", "train")[-1]["step"]


@pytest.mark.numeric
def test_a_stopped_run_goes_on_where_it_stopped(scenes, tmp_path, monkeypatch):
    recipe = small_recipe(scenes, tmp_path, epochs=2)
    from conditional_detr.train import loop as module

    step = module._step

    def stop_at_third(run, batches):
        if run.progress.step == 2 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run, batches)

    monkeypatch.setattr(module, "_step", stop_at_third)
    with pytest.raises(Interrupted) as stopped:
        train(recipe)
    assert stopped.value.signal == signal.SIGTERM
    train(small_recipe(scenes, tmp_path, epochs=2, resume="auto"))
    assert [row["step"] for row in rows(tmp_path, "train")] == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_not_finite_names_step_and_images_and_keeps_the_state_before_it(scenes, tmp_path):
    with pytest.raises(TrainingError, match=r"not finite at step \d+ \(image ids \d+, ") as error:
        train(small_recipe(scenes, tmp_path, {"backbone_norm": "group"}, lr=1e18, clip_norm=0, epochs=4))
    assert "state from before it is in" in str(error.value)
    _, state = newest_checkpoint(tmp_path / "checkpoints")
    assert all(t.isfinite().all() for t in state["model"].values())


def test_resuming_with_another_recipe_names_the_fields(scenes, tmp_path):
    train(small_recipe(scenes, tmp_path, epochs=1))
    with pytest.raises(TrainingError, match="holds a run already"):
        train(small_recipe(scenes, tmp_path, epochs=1))
    with pytest.raises(TrainingError, match=r"lr: 0\.001 → 0\.01; model\.num_queries: 10 → 12"):
        train(small_recipe(scenes, tmp_path, {"num_queries": 12}, epochs=1, lr=0.01, resume="auto"))


def test_resuming_compares_the_data_itself_and_not_its_path(scenes, tmp_path):
    train(small_recipe(scenes, tmp_path / "run", epochs=1))
    moved = shutil.copytree(scenes, tmp_path / "moved")
    # What does not change learning may change: here, where the data is and how often is logged.
    train(small_recipe(moved, tmp_path / "run", epochs=1, resume="auto", log_steps=5))
    path = moved / "annotations/train.json"
    content = json.loads(path.read_text())
    content["annotations"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(TrainingError, match="the data: other images or annotations"):
        train(small_recipe(moved, tmp_path / "run", epochs=1, resume="auto"))


def test_a_file_that_is_no_checkpoint_is_named(scenes, tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(TrainingError, match=r"other\.pt is not a checkpoint of a training run"):
        train(small_recipe(scenes, tmp_path / "run", epochs=1, resume=str(tmp_path / "other.pt")))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_stops_with_one_line_or_is_counted(scenes, tmp_path, workers):
    shutil.copytree(scenes, tmp_path / "data")
    broken = tmp_path / "data/images/train/000005.png"
    broken.write_bytes(broken.read_bytes()[:200])
    path = recipe_file(tmp_path, small_recipe(tmp_path / "data", tmp_path / "run", epochs=1, workers=workers))
    process = start(["--config", str(path)])
    output, _ = process.communicate(timeout=120)  # and does not hang
    assert process.returncode == 1 and "Traceback" not in output
    assert "000005.png" in output.strip().splitlines()[-1] and "--skip_bad_images" in output
    process = start(["--config", str(path), "--skip_bad_images", "true", "--output", str(tmp_path / "skipped")])
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "1 times a damaged image was left out" in output


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_checkpoint_cut_anywhere_is_passed_over(tmp_path, size):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step, "weights": torch.zeros(9999)}, keep=2)
    newest = checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:size])
    assert newest_checkpoint(tmp_path)[1]["step"] == 1


def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step}, keep=2)
    newest = checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    assert newest_checkpoint(tmp_path)[1] == {"step": 1}
    assert newest.name in caplog.text


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"step": 1}, keep=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device.*MiB are free.*nothing that was written before is lost"):
        save_checkpoint(tmp_path, 2, {"step": 2}, keep=1)
    assert newest_checkpoint(tmp_path)[1] == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.numeric
def test_other_classes_get_a_new_classifier_and_keep_the_rest(scenes, tmp_path, capsys):
    small_model(num_labels=5).save_pretrained(tmp_path / "start")
    recipe = small_recipe(
        scenes, tmp_path / "run", init_from=str(tmp_path / "start"), epochs=1, lr=1e-12, backbone_lr=0
    )
    train(recipe)
    assert (
        "its 5 classes (LABEL_0, LABEL_1, LABEL_2, LABEL_3, …) are not the data's 3 (circle, square, triangle)"
        in capsys.readouterr().out
    )
    before, after = (load_file(tmp_path / p / "model.safetensors") for p in ("start", "run/model"))
    name = "model.encoder.layers.0.fc1.weight"
    torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    assert after["class_labels_classifier.weight"].shape == (3, 32)


def test_frozen_norms_without_pretrained_weights_are_refused(scenes, tmp_path):
    with pytest.raises(ValueError, match="needs pretrained weights.*backbone_norm batch"):
        train(small_recipe(scenes, tmp_path, {"backbone_norm": "frozen"}))


def test_learned_positions_that_do_not_reach_are_refused_at_the_start(scenes, tmp_path):
    with pytest.raises(ValueError, match="up to 480 pixels, 60 cells of stride 8"):
        train(small_recipe(scenes, tmp_path, {"position_embedding_type": "learned"}, image_size=480, max_size=500))
    assert not tmp_path.exists() or not any(tmp_path.iterdir())


def test_early_stopping_stops(scenes, tmp_path):
    """Nothing is learned at this rate, so AP cannot get better after the first evaluation."""
    model = {"backbone_norm": "group"}
    train(small_recipe(scenes, tmp_path, model, epochs=30, early_stopping=2, lr=1e-30, backbone_lr=0, weight_decay=0))
    assert len(rows(tmp_path, "eval")) == 3


@pytest.mark.numeric
def test_reduced_precision_and_gradient_checkpointing_train(scenes, tmp_path):
    train(small_recipe(scenes, tmp_path / "bf16", precision="bf16", gradient_checkpointing=True, epochs=1))
    assert rows(tmp_path / "bf16", "train")[-1]["loss"] > 0


def test_subnormal_numbers_are_zero_while_training_and_not_after(scenes, tmp_path):
    def least_halved():
        return float(torch.full((1,), 2.0**-126) * 0.5)

    if not torch.set_flush_denormal(True):
        pytest.skip("this processor computes with subnormal numbers only")
    torch.set_flush_denormal(False)
    seen, hook = [], torch.nn.modules.module.register_module_forward_pre_hook
    with hook(lambda module, inputs: seen.append(least_halved())):
        train(small_recipe(scenes, tmp_path / "run", epochs=1))
    assert seen and not any(seen)
    assert least_halved() > 0


def test_schedules():
    recipe = Recipe(epochs=10, drop_epochs=[4, 8], warmup_steps=5)
    factors = [learning_rate_factor(recipe, step, 10) for step in (0, 4, 5, 39, 40, 79, 80)]
    assert factors == pytest.approx([0.2, 1, 1, 1, 0.1, 0.1, 0.01])
    cosine = Recipe(epochs=10, schedule="cosine", warmup_steps=0)
    assert [learning_rate_factor(cosine, step, 10) for step in (0, 50, 100)] == pytest.approx([1, 0.5, 0])


def test_running_out_of_memory_leaves_a_checkpoint_and_advice(scenes, tmp_path):
    """In a process that may have only 400 MB more than it has when training starts."""
    program = """
import sys
from little_memory import take_little_more
from small_recipes import recipe_file, rows, small_recipe, sparse, start
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.train.failures import TrainingError
from conditional_detr.train.loop import train

def run(epochs, scale, resume=""):
    big = Augmentation(scales=[scale], max_size=4000, crop=0)
    recipe = small_recipe(sys.argv[1], sys.argv[2], epochs=epochs, resume=resume, eval_epochs=9, augmentation=big)
    return train(recipe)

run(1, 64)
take_little_more()
try:
    sys.argv[2] += "-large"
    run(2, 1500)
except TrainingError as error:
    print(error)
"""
    line, errors = last_line_of(program, scenes, tmp_path / "run")
    assert line.startswith("out of memory at step 1 (batches of (8, 3, 1500, 1500))"), errors
    assert "--accumulate" in line and (tmp_path / "run-large/checkpoints/step-00000000.pt").is_file()


def test_every_shipped_recipe_is_valid():
    import yaml

    from conditional_detr.data.augmentation import Augmentation

    assert {"conditional_detr_r50_50e", "detr_r50_500e", "finetune", "demo"} <= set(recipe_names())
    for name in recipe_names():
        values = yaml.safe_load(find_recipe(name).read_text())
        Recipe(**{**values, "augmentation": Augmentation(**values.get("augmentation", {}))})


def test_the_small_model_that_is_fine_tuned_is_the_one_that_is_pretrained():
    first, then = (read_recipe(find_recipe(name)) for name in ("pretrain_small", "finetune_small"))
    assert first["model"].pop("use_pretrained_backbone")  # the second gets all its weights from the first
    assert first["model"] == then["model"]
    assert then["init_from"] == "runs/pretrain_small/model"


def test_what_a_recipe_starts_from_is_named_with_the_command_that_makes_it(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = read_recipe(find_recipe("finetune_small")) | {"data": str(scenes), "output": str(tmp_path / "run")}
    message = "runs/pretrain_small/model does not exist: cdetr train --config pretrain_small makes it"
    with pytest.raises(FileNotFoundError, match=message):
        train(Recipe(**values))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("backbone", ["r50", "dc5_r50"])
@pytest.mark.parametrize("epochs", [12, 50])
def test_the_recipes_of_groups_differ_from_those_without_in_what_their_authors_changed(backbone, epochs):
    grouped, plain = (
        read_recipe(find_recipe(f"conditional_detr_{backbone}_{name}")) for name in (f"groups_{epochs}e", "50e")
    )
    assert grouped["model"] == {**plain["model"], "query_groups": 11}
    drop = {12: [11], 50: [40]}[epochs]
    assert grouped == {**plain, "model": grouped["model"], "epochs": epochs, "drop_epochs": drop}
