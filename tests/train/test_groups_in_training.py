"""Groups of queries in a run: exact under splitting and resuming, in checkpoints and not in what is evaluated and kept."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from small_models import small_model
from small_recipes import assert_splits_train_alike, rows, small_recipe, sparse

from conditional_detr.files import read_json
from conditional_detr.models.family import family_of
from conditional_detr.train.checkpoint_files import checkpoints, newest_checkpoint
from conditional_detr.train.failures import TrainingError
from conditional_detr.train.loop import train

FURTHER = "model.further_query_groups.weight"


@pytest.mark.parametrize("family", ["conditional_detr", "detr"])
def test_two_processes_and_micro_batches_train_groups_like_one(scenes, tmp_path, family):
    scenes = sparse(scenes, tmp_path / "sparse")
    values = dict(backbone_norm="frozen", dropout=0.0)
    small_model(family, **values).save_pretrained(tmp_path / "start")
    model = {"family": family, "query_groups": 3, **values}
    options = dict(init_from=str(tmp_path / "start"), model=model, epochs=1)
    assert_splits_train_alike(scenes, tmp_path, steps=3, **options)


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory):
    """A run with a moving average, a checkpoint after every step."""
    output = tmp_path_factory.mktemp("groups") / "run"
    train(small_recipe(scenes, output, {"query_groups": 3}, ema=0.9, checkpoint_steps=1, keep_checkpoints=9))
    return output


def test_checkpoints_have_all_groups_and_models_the_first(run):
    _, content = newest_checkpoint(run / "checkpoints")
    assert content["config"]["query_groups"] == 3
    assert content["model"][FURTHER].shape == content["ema"]["module." + FURTHER].shape == (20, 32)
    first = {"best": None, "model": None}
    for name in first:
        assert "query_groups" not in read_json(run / name / "config.json")
        weights = load_file(run / name / "model.safetensors")
        assert not any("further" in weight for weight in weights)
        first[name] = weights["model.query_position_embeddings.weight"]
    assert torch.equal(first["best"], first["model"]) and len(first["best"]) == 10


def test_a_run_with_groups_is_resumed_exactly(run, scenes, tmp_path):
    again = shutil.copytree(run, tmp_path / "run")
    for path in checkpoints(again / "checkpoints")[3:]:
        path.unlink()
    options = dict(ema=0.9, checkpoint_steps=1, keep_checkpoints=9, resume="auto")
    train(small_recipe(scenes, again, {"query_groups": 3}, **options))
    whole, resumed = (newest_checkpoint(folder / "checkpoints")[1] for folder in (run, again))
    for part in ("model", "ema"):
        assert all(torch.equal(whole[part][name], resumed[part][name]) for name in whole[part])
    assert [row["loss"] for row in rows(run, "train")] == [row["loss"] for row in rows(again, "train")]


def test_another_number_of_groups_is_another_run(run, scenes):
    for model, said in (({"query_groups": 4}, "3 → 4"), ({}, "3 → None")):
        with pytest.raises(TrainingError, match=rf"model\.query_groups: {said}"):
            train(small_recipe(scenes, run, model, ema=0.9, resume="auto"))


def test_a_model_without_groups_is_trained_on_with_groups(scenes, tmp_path):
    small_model(num_labels=2).save_pretrained(tmp_path / "start")  # of other classes, too
    recipe = small_recipe(
        scenes, tmp_path / "run", {"query_groups": 3}, init_from=str(tmp_path / "start"), epochs=1, checkpoint_steps=1
    )
    train(recipe)
    assert len(newest_checkpoint(tmp_path / "run/checkpoints")[1]["model"][FURTHER]) == 20
    model = family_of("conditional_detr").detector.from_pretrained(tmp_path / "run/model")
    assert model.config.query_groups == 1 and model.config.num_labels == 3


def test_a_mask_head_alone_is_not_trained_with_groups(scenes, tmp_path):
    with pytest.raises(
        ValueError, match=r"model\.query_groups is 2: .* freeze_detector keeps it as it is; leave it at 1"
    ):
        small_recipe(scenes, tmp_path, {"query_groups": 2}, task="instance", freeze_detector=True, init_from="x")


def test_masks_are_trained_with_groups(scenes, tmp_path):
    metrics = train(
        small_recipe(scenes, tmp_path, {"query_groups": 2}, task="panoptic", epochs=1, gradient_checkpointing=True)
    )
    assert "PQ" in metrics and {"loss_mask", "loss_dice"} <= set(rows(tmp_path, "train")[0])
