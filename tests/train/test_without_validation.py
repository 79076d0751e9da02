"""Training on everything there is: no validation data, and so no AP."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from small_recipes import rows, small_recipe

from conditional_detr import ConditionalDetrForObjectDetection
from conditional_detr.files import read_json
from conditional_detr.train.checkpoint_files import checkpoints, newest_checkpoint
from conditional_detr.train.failures import TrainingError
from conditional_detr.train.loop import train
from conditional_detr.train.setup import read_data


@pytest.fixture
def train_alone(scenes, tmp_path):
    """The scenes without their validation set."""
    data = shutil.copytree(scenes, tmp_path / "data")
    (data / "annotations/val.json").unlink()
    shutil.rmtree(data / "images/val")
    return data


def test_the_last_average_is_the_model_and_the_run_can_be_resumed(train_alone, tmp_path, capsys):
    options = dict(split="1,0", ema=0.9, epochs=2, early_stopping=1)
    assert train(small_recipe(train_alone, tmp_path / "run", **options)) == {}
    said = capsys.readouterr().out
    assert "no validation data: no AP, no best model" in said and "24 images" in said
    run = tmp_path / "run"
    assert len(rows(run, "train")) == 6 and not rows(run, "eval") and not (run / "best").exists()
    assert (run / "curves.png").is_file() and read_json(run / "metrics.json") == {}
    average = newest_checkpoint(run / "checkpoints")[1]["ema"]
    weights = load_file(run / "model/model.safetensors")
    model = ConditionalDetrForObjectDetection.from_pretrained(run / "model").state_dict()
    assert all(torch.equal(model[name], average[f"module.{name}"]) for name in model if "num_batches" not in name)
    assert "AP" not in (run / "model/README.md").read_text().partition("```")[0]
    with pytest.raises(TrainingError, match="the data: other images or annotations"):
        train(small_recipe(train_alone, run, resume="auto", **{**options, "split": "0.8,0.2"}))
    # The step before the last epoch's end is gone: an epoch is done again, with the same result.
    checkpoints(run / "checkpoints")[-1].unlink()
    train(small_recipe(train_alone, run, resume="auto", **options))
    again = load_file(run / "model/model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.items())


def test_val_is_held_out_unless_the_shares_say_otherwise_or_the_data_has_its_own(scenes, train_alone, tmp_path):
    counts = {}
    for name, data, split in (
        ("held out", train_alone, "0.8,0.2"),
        ("own", scenes, "1,0"),
        ("none", train_alone, "1,0"),
    ):
        counts[name] = [dataset and len(dataset) for dataset in read_data(small_recipe(data, tmp_path, split=split))]
    assert counts == {"held out": [19, 5], "own": [24, 10], "none": [24, None]}


def test_training_files_alone_are_trained_on_without_validation(scenes, tmp_path, capsys):
    files = dict(train_annotations=str(scenes / "annotations/train.json"), train_images=str(scenes / "images/train"))
    assert train(small_recipe("", tmp_path / "run", epochs=1, **files)) == {}
    assert "no validation data" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no train data: give --data FOLDER, or --train_annotations"):
        train(small_recipe("", tmp_path / "none", epochs=1))


def test_one_picture_cannot_be_divided_but_trained_on(scenes, tmp_path):
    content = json.loads((scenes / "annotations/train.json").read_text())
    content["images"] = content["images"][:1]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]]
    (tmp_path / "images").mkdir()
    shutil.copy(scenes / "images/train" / content["images"][0]["file_name"], tmp_path / "images")
    (tmp_path / "all.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match="too few different pictures.*train on all of it without validation .--split 1,0"
    ):
        train(small_recipe(tmp_path / "all.json", tmp_path / "run", epochs=1))
    train(small_recipe(tmp_path / "all.json", tmp_path / "run", epochs=1, split="1,0"))
    assert len(rows(tmp_path / "run", "train")) == 1
