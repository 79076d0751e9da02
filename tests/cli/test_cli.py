"""The command line: instant help, one line for every error a user can cause, exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from coco_files import box, write_set
from small_models import small_model

from conditional_detr.cli import COMMANDS, main
from conditional_detr.train.recipe import recipe_names


def run(*arguments, capsys):
    code = main([str(a) for a in arguments])
    return code, capsys.readouterr()


def assert_one_line(code, streams, expected_code, *parts):
    assert code == expected_code
    assert streams.err.count("\n") == 1 and streams.err.startswith("cdetr: "), streams.err
    for part in parts:
        assert part in streams.err


def test_help_needs_nothing_heavy():
    script = "import sys; from conditional_detr.cli import main; main(['--help']); print('torch' in sys.modules, 'jsonargparse' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.endswith("False False\n") and all(f"  {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("command", [*COMMANDS, "data generate", "data convert"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0 and f"cdetr {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["fly"], "no command 'fly'"),
        (["train", "--config", "no_such_recipe"], "no recipe 'no_such_recipe'; there are conditional_detr_dc5"),
        (["train", "--wings", "2"], "--wings"),
        (["train", "--epochs", "many"], "epochs"),
        (["train", "--epochs", "0"], "epochs is 0; it must be positive"),
        (["train", "--model.num_querys", "3"], "no field 'num_querys'; did you mean num_queries"),
        (["train", "--model.family", "yolo"], "model.family is 'yolo'; it is one of conditional_detr, detr"),
        (["train", "--augmentation.crop", "3"], "augmentation.crop is 3"),
        (["eval", "--model", "x"], "give --data FOLDER"),
        (["predict", "--model", "x", "--images", "y", "--threshold", "7"], "scores are in 0…1"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line_and_exit_code_2(arguments, part, capsys):
    assert_one_line(*run(*arguments, capsys=capsys), 2, part)


def test_an_unknown_key_in_a_recipe_is_an_error(tmp_path, capsys):
    for text, message in (
        ("epochs: 3\nbatchsize: 4\n", "no option 'batchsize'; did you mean batch_size"),
        ("epochs: [", "is not YAML"),
        ("- a", "is not a recipe"),
        ("", "is not a recipe"),
    ):
        (tmp_path / "mine.yaml").write_text(text)
        assert_one_line(*run("train", "--config", tmp_path / "mine.yaml", capsys=capsys), 2, "mine.yaml", message)


def test_bad_data_is_one_line_and_exit_code_1(tmp_path, capsys):
    output = tmp_path / "run"
    train = ["train", "--config", "demo", "--output", output, "--data"]
    assert_one_line(*run(*train, tmp_path / "none", capsys=capsys), 1, "none does not exist")
    data = write_set(tmp_path / "data", [box([1, 1, 5, 5], image=99)])
    assert_one_line(*run(*train, data, capsys=capsys), 1, "image_id is 99")
    (data / "annotations/train.json").write_text("{")
    assert_one_line(*run(*train, data, capsys=capsys), 1, "train.json is not JSON")
    assert not output.exists()


def test_evaluating_a_model_of_other_classes_is_refused(tmp_path, capsys):
    small_model().save_pretrained(tmp_path / "model")
    from conditional_detr import ConditionalDetrImageProcessor

    ConditionalDetrImageProcessor().save_pretrained(tmp_path / "model")
    data = write_set(tmp_path / "data", [box([1, 1, 5, 5])], split="val")
    assert_one_line(
        *run("eval", "--model", tmp_path / "model", "--data", data, capsys=capsys), 1, "no class called 'cat'"
    )


def test_a_model_that_is_not_there_is_named(tmp_path, capsys):
    data = write_set(tmp_path / "data", [box([1, 1, 5, 5])], split="val")
    for model in (tmp_path / "nothing", data):
        assert_one_line(*run("eval", "--model", model, "--data", data, capsys=capsys), 1, str(model))


def test_data_makes_a_data_set_that_training_finds(tmp_path, capsys):
    code, _ = run("data", "--output", tmp_path / "d", "--train", 2, "--val", 1, "--size", 48, capsys=capsys)
    assert code == 0
    assert len(json.loads((tmp_path / "d/annotations/train.json").read_text())["images"]) == 2


def test_the_commands_that_the_documents_show_exist():
    root = Path(__file__).parents[2]
    texts = [path.read_text(encoding="utf-8") for path in (root / "README.md", *sorted((root / "docs").glob("*.md")))]
    commands = {name for text in texts for name in re.findall(r"\bcdetr ([a-z]+)\b", text)}
    recipes = {name for text in texts for name in re.findall(r"--config ([a-z0-9_]+)\b", text)}
    assert commands <= set(COMMANDS) and recipes <= set(recipe_names())
