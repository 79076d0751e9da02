"""The examples run, and what they save opens again."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from PIL import ExifTags, Image
from small_models import FAMILIES, small_config, small_model

from conditional_detr import AutoImageProcessor, AutoModelForObjectDetection
from conditional_detr import transformers as of_transformers
from conditional_detr.cli.options import values_of
from conditional_detr.cli.predict import _parser as predict_parser
from conditional_detr.data.splits import read_split
from conditional_detr.processors.auto_processor import IMAGE_PROCESSORS
from conditional_detr.train.recipe import option_names

EXAMPLES = Path(__file__).parents[1] / "examples"


@torch.no_grad()
@pytest.mark.numeric
@pytest.mark.parametrize(
    ("family", "script"), list(zip(FAMILIES, ["train_with_transformers.py", "train_with_accelerate.py"], strict=True))
)
def test_an_example_trains_and_its_model_opens_again(family, script, scenes, tmp_path):
    small_model(family).save_pretrained(tmp_path / "init")
    IMAGE_PROCESSORS[family](size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path / "init")
    command = [
        sys.executable, str(EXAMPLES / script), "--data", str(scenes), "--init", str(tmp_path / "init"),
        "--output", str(tmp_path / "run"), "--steps", "4", "--batch_size", "2", "--workers", "0",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "AP 0." in done.stdout

    model = AutoModelForObjectDetection.from_pretrained(tmp_path / "run")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    before = AutoModelForObjectDetection.from_pretrained(tmp_path / "init")
    assert processor.size["shortest_edge"] == 64 and len(model.config.category_ids) == model.config.num_labels
    moved = model.class_labels_classifier.weight - before.class_labels_classifier.weight
    assert moved.abs().max() > 0
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    theirs = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "run").double().eval()
    expected = model.double()(pixels).logits
    torch.testing.assert_close(theirs(pixels).logits, expected, rtol=0, atol=1e-7)
    assert "| AP |" in (tmp_path / "run/README.md").read_text()
    for checkpoint in (tmp_path / "run").glob("checkpoint-*"):  # Trainer's own
        again = AutoModelForObjectDetection.from_pretrained(checkpoint, dtype=torch.float64)
        torch.testing.assert_close(again(pixels).logits, expected)
    assert bool(list((tmp_path / "run").glob("checkpoint-*"))) == (script == "train_with_transformers.py")


def test_a_trainer_checkpoints_activations_accumulates_evaluates_and_resumes(scenes, tmp_path, monkeypatch):
    """What transformers.Trainer asks of a model beyond a loss."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from coco_batches import Collate, Pictures, classes_of

    train, val = read_split(scenes, "train"), read_split(scenes, "val")
    config = small_config(num_labels=None, auxiliary_loss=True, backbone_norm="group", **classes_of(train))
    seen = []

    def metrics(evaluation):
        seen.append(evaluation)
        return {"batches": len(evaluation.predictions)}

    def trainer(steps):
        options = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=steps, per_device_train_batch_size=2, gradient_accumulation_steps=2,
            gradient_checkpointing=True, per_device_eval_batch_size=4, eval_strategy="steps", eval_steps=2,
            eval_do_concat_batches=False, save_steps=2, remove_unused_columns=False, report_to="none",
        )  # fmt: skip
        processor = IMAGE_PROCESSORS["conditional_detr"](size={"shortest_edge": 64, "longest_edge": 96})
        return transformers.Trainer(
            model=of_transformers.AutoModelForObjectDetection.from_config(config), args=options, data_collator=Collate(processor),
            train_dataset=Pictures(train, flip=True), eval_dataset=Pictures(val, flip=False), compute_metrics=metrics,
        )  # fmt: skip

    first = trainer(2)
    first.train()
    assert first.model.is_gradient_checkpointing and seen[0].predictions[0] is not None and len(seen[0].label_ids) == 3
    second = trainer(4)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert second.state.global_step == 4


def test_an_examples_picture_is_the_way_up_that_its_boxes_mean(tmp_path, monkeypatch):
    """A camera held upright: the file lies on its side, and its EXIF orientation says so."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from coco_batches import Collate, Pictures

    seen = np.zeros((60, 40, 3), np.uint8)
    seen[40:56, 4:12] = 255  # the object
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for folder in ("annotations", "images/train"):
        (tmp_path / folder).mkdir(parents=True)
    lying = Image.fromarray(seen).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "images/train/a.jpg", exif=exif, quality=95)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 60, "width": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 40, 8, 16]}],
        "categories": [{"id": 1, "name": "box"}],
    }
    (tmp_path / "annotations/train.json").write_text(json.dumps(content))

    pictures = Pictures(read_split(tmp_path, "train", shares=""), flip=False)
    image, annotation = pictures[0]
    x, y, width, height = map(int, annotation["annotations"][0]["bbox"])
    assert image.shape == (3, 60, 40)
    assert image[:, y : y + height, x : x + width].float().mean() > 230
    batch = Collate(IMAGE_PROCESSORS["detr"]())([pictures[0]])
    assert batch["labels"][0]["class_labels"].tolist() == [0]


def test_the_cluster_examples_ask_for_options_that_there_are():
    """They cannot be run here; their commands can be read."""
    entrypoint = yaml.safe_load((EXAMPLES / "kuberay_predict.yaml").read_text())["spec"]["entrypoint"].split()
    commands = [entrypoint[entrypoint.index("cdetr") + 1 :]]
    for name, start in (("slurm_predict.sh", r"\n    cdetr "), ("slurm_train.sh", r"-m conditional_detr ")):
        script = (EXAMPLES / name).read_text()
        subprocess.run(["bash", "-n", EXAMPLES / name], check=True)
        found = re.search(start + r"(.+?)\"\$@\"", script, re.DOTALL)
        commands.append(shlex.split(found[1].replace("\\\n", " ")))
    assert [command[0] for command in commands] == ["predict", "predict", "train"]
    for _, *arguments in commands[:2]:
        values = values_of(predict_parser(), arguments)
        assert values["cluster"] and values["write"] == ["parquet"]
    options = {word.lstrip("-") for word in commands[2] if word.startswith("--")}
    assert options <= {*option_names(), "config", "resume"}


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_examples():
    subprocess.run(["shellcheck", *EXAMPLES.glob("*.sh")], check=True)
