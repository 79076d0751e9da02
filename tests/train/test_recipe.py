"""Recipes: wrong values are named, files are read as they are meant, and what a resumed run may change."""

import math
from pathlib import Path

import numpy as np
import pytest

from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.sampler import TrainingBatches
from conditional_detr.train.recipe import GROUPS, Recipe, field_types, find_recipe, read_recipe
from conditional_detr.train.recipe_changes import changed_fields


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "cos"}, "schedule is 'cos'; it is step or cosine"),
        ({"task": "boxes"}, "task is 'boxes'; it is detection, instance or panoptic"),
        ({"precision": None}, "precision is None; it is fp32, bf16 or fp16"),
        ({"epochs": True}, "epochs is True; it must be a whole number"),
        ({"epochs": 2.0}, "epochs is 2.0; it must be a whole number"),
        ({"epochs": "3"}, "epochs is '3'; it must be a whole number"),
        ({"epochs": 1_000_000_000}, "epochs is 1000000000; it is at most 1,000,000"),
        ({"lr": "1e-4"}, "lr is '1e-4'; it must be a number"),
        ({"lr": math.nan}, "lr is nan; it must be a number"),
        ({"weight_decay": math.inf}, "weight_decay is inf; it must be a number"),
        ({"lr": 10**400}, "it must be a number"),
        ({"compile": 1}, "compile is 1; it must be true or false"),
        ({"data": 5}, "data is 5; it must be text"),
        ({"drop_epochs": 40}, "drop_epochs is 40; it must be a list of whole numbers"),
        ({"drop_epochs": ["40"]}, "drop_epochs is ['40']; it must be a list of whole numbers"),
        ({"drop_epochs": [0]}, "epochs count from 1"),
        ({"model": ["detr"]}, "model is ['detr']; it must be fields with values"),
        ({"model": {"d_model": "wide"}}, "model.d_model is 'wide'; it must be a whole number"),
        ({"augmentation": 3}, "augmentation is 3; it must be fields with values"),
        ({"augmentation": {"crap": 3}}, "no option 'augmentation.crap'; did you mean augmentation.crop"),
        ({"augmentation": {"crop": "0"}}, "augmentation.crop is '0'; it must be a number"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"workers": -2}, "workers is -2"),
        ({"threads": 100_000}, "threads is 100000; it is at most 1,024"),
    ],
)
def test_a_value_that_no_recipe_can_have_is_refused(values, message):
    with pytest.raises(ValueError) as error:
        Recipe(**values)
    assert message in str(error.value)


def test_an_augmentation_checks_its_types():
    with pytest.raises(ValueError, match=r"augmentation\.scales is \['64'\]; it must be a list of whole numbers"):
        Augmentation(scales=["64"])


def test_values_that_mean_the_same_are_taken():
    recipe = Recipe(data=Path("coco"), epochs=np.int64(3), lr=1, drop_epochs=(2,), augmentation={"crop": 0})
    assert (recipe.data, recipe.epochs, recipe.lr, recipe.drop_epochs) == ("coco", 3, 1, [2])
    assert type(recipe.epochs) is int and recipe.augmentation == Augmentation(crop=0)


def test_every_field_is_in_one_group():
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(field_types()) and len(set(names)) == len(names)


def test_a_file_may_name_inner_fields_with_dots(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model.num_queries: 50\nmodel:\n  d_model: 64\naugmentation.crop: 0\nlr: 1e-3\n")
    values = read_recipe(path)
    assert values["augmentation"] == {"crop": 0} and values["lr"] == 1e-3  # which YAML 1.1 takes for text
    assert Recipe(**values).model_config().num_queries == 50 and values["model"]["d_model"] == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedule: cos", "schedule is 'cos'; it is step or cosine"),
        ("num_queries: 5", "there is no option 'num_queries'; did you mean model.num_queries?"),
        ("learning_rate: 5", "there is no option 'learning_rate'; did you mean lr?"),
        ("data:", "data is None; it must be text"),
        ("model.d_model: 5\nmodel: 3", "model is 3; it must be fields with values"),
        ("augmentation:\n  crop: x", "augmentation.crop is 'x'; it must be a number"),
    ],
)
def test_an_error_in_a_file_names_the_file(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read_recipe(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


def test_a_run_folder_stands_for_its_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text("epochs: 1")
    assert find_recipe(str(tmp_path)) == tmp_path / "recipe.yaml"


def changes(before, after, step):
    """What `changed_fields` says of two recipes, 5 steps an epoch."""
    return changed_fields(Recipe(**before).to_dict(), Recipe(**after).to_dict(), step, 5)


@pytest.mark.parametrize(
    ("before", "after", "step"),
    [
        (dict(epochs=4), dict(epochs=9), 20),  # a finished run goes on
        (dict(epochs=9), dict(epochs=4), 20),
        (dict(epochs=50), dict(epochs=90, drop_epochs=[40, 70]), 250),
        (dict(drop_epochs=[40]), dict(drop_epochs=[4]), 20),
        (dict(eval_epochs=1), dict(eval_epochs=5), 20),
        (dict(threads=1), dict(threads=2), 20),
        (dict(schedule="cosine", drop_epochs=[1]), dict(schedule="cosine", drop_epochs=[2]), 20),
        (dict(schedule="cosine", epochs=4, warmup_steps=20), dict(schedule="cosine", epochs=5, warmup_steps=20), 20),
    ],
)
def test_what_lies_ahead_may_change_in_a_resumed_run(before, after, step):
    assert changes(before, after, step) == []


@pytest.mark.parametrize(
    ("before", "after", "step", "message"),
    [
        (dict(epochs=9), dict(epochs=4), 21, "epochs: 9 → 4, and the checkpoint is from epoch 4.2"),
        (dict(schedule="cosine", epochs=4), dict(schedule="cosine", epochs=5), 20, "over which schedule cosine has spread"),
        (dict(drop_epochs=[4]), dict(drop_epochs=[3]), 21, "drop_epochs: [4] → [3]"),
        (dict(drop_epochs=[40]), dict(drop_epochs=[4]), 21, "drop_epochs: [40] → [4]"),
        (dict(early_stopping=3), dict(early_stopping=3, eval_epochs=2), 20, "which decides when early_stopping ends"),
        (dict(lr=1.0), dict(lr=2.0), 1, "lr: 1.0 → 2.0"),
        (dict(model={"d_model": 64}), dict(model={"d_model": 32}), 1, "model.d_model: 64 → 32"),
        (dict(augmentation={"crop": 0}), dict(augmentation={"crop": 1}), 1, "augmentation.crop: 0 → 1"),
    ],
)  # fmt: skip
def test_what_was_learned_from_may_not_change(before, after, step, message):
    (change,) = changes(before, after, step)
    assert message in change


def test_a_field_that_an_older_checkpoint_lacks_had_its_default():
    saved = Recipe().to_dict()
    for name in ("ema", "early_stopping", "threads"):
        del saved[name]
    del saved["augmentation"]["color_jitter"]
    assert changed_fields(saved, Recipe().to_dict(), 3, 5) == []
    assert changed_fields(saved, Recipe(ema=0.5).to_dict(), 3, 5) == ["ema: 0.0 → 0.5"]


def test_a_step_of_more_images_than_there_are_is_refused():
    options = dict(parts=1, own_parts=range(1), epochs=1, seed=0)
    with pytest.raises(ValueError, match="batch_size is 1000000, and there are 70 training images"):
        TrainingBatches(70, batch_size=1_000_000, **options)
    TrainingBatches(70, batch_size=70, **options)
    (batch,) = TrainingBatches(4, batch_size=16, **options)  # a few images may fill a batch several times
    assert [index for _, index in batch].count(0) == 4
