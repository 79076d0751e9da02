"""The command line as a stranger uses it: options in any order, other programs' names, wrong values, wrong paths."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_models import small_model

from conditional_detr import ConditionalDetrImageProcessor
from conditional_detr.cli import main
from conditional_detr.train.recipe import Recipe

ROOT = Path(__file__).parents[2]


def line(*arguments, code, capsys):
    """The one line that a command ends with."""
    assert main([str(a) for a in arguments]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("cdetr: "), error
    return error


def effective(*arguments, capsys):
    """The recipe that `cdetr train` would train."""
    with pytest.raises(SystemExit):
        main(["train", *map(str, arguments), "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--epochs", 3, "--model.num_queries", 7, "--augmentation.crop", 0.25, "--config", "demo"),
        ("--epochs=3", "--model.num_queries=7", "--config=demo", "--augmentation.crop=0.25"),
        ("--config", "demo", "--epochs", 3, "--model.num_queries", 7, "--augmentation.crop", 0.25),
        ("--augmentation.crop", 0.25, "--config", "finetune", "--epochs", 3, "--config", "demo", "--model.num_queries", 7),
    ],
)  # fmt: skip
def test_options_win_over_the_recipe_wherever_they_stand(arguments, capsys):
    values = effective(*arguments, capsys=capsys)
    assert (values["epochs"], values["model"]["num_queries"], values["augmentation"]["crop"]) == (3, 7, 0.25)
    assert values["model"]["d_model"] == 128 and values["batch_size"] == 16 and values["augmentation"]["scales"] == [96]


def test_of_two_recipes_the_later_wins(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("model.num_queries: 50\nepochs: 2\n")
    values = effective("--config", "demo", "--config", tmp_path / "mine.yaml", capsys=capsys)
    assert values["model"]["num_queries"] == 50 and values["epochs"] == 2 and values["model"]["d_model"] == 128
    values = effective("--config", tmp_path / "mine.yaml", "--config", "demo", capsys=capsys)
    assert values["model"]["num_queries"] == 20 and values["epochs"] == 6


def test_a_resumed_run_has_its_own_recipe(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(Recipe(epochs=7, lr=0.5, output=str(tmp_path)).to_dict()))
    values = effective("--resume", "auto", "--output", tmp_path, "--epochs", 9, capsys=capsys)
    assert values["lr"] == 0.5 and values["epochs"] == 9 and values["resume"] == "auto"
    assert effective("--output", tmp_path, capsys=capsys)["lr"] == 1e-4


def test_help_shows_the_values_of_the_recipe_in_groups(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--config", "demo", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Passes over the training images. (type: int, default: 6)" in text and "'num_queries': 20" in text
    assert all(f" {group}: --" in text for group in ("data", "model", "optimisation", "evaluation", "running"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--precision", "x"], "--precision is 'x'; it is fp32, bf16 or fp16"),
        (["train", "--lr", "abc"], "--lr is 'abc'; it must be a number"),
        (["train", "--lr=nan"], "--lr is 'nan'; it must be a number"),
        (["train", "--epochs", "2.5"], "--epochs is '2.5'; it must be a whole number"),
        (["train", "--compile", "maybe"], "--compile is 'maybe'; it must be true or false"),
        (["train", "--drop_epochs", "[4,b]"], "--drop_epochs is '[4,b]'; it must be a list of whole numbers"),
        (["train", "--model", "detr"], "--model is 'detr'; it must be fields with values"),
        (["train", "--model.d_model", "wide"], "model.d_model is 'wide'; it must be a whole number"),
        (["train", "--augmentation.crop", "x"], "--augmentation.crop is 'x'; it must be a number"),
        (["train", "--augmentation", "x"], "--augmentation is 'x'; give its fields one by one"),
        (["train", "--epochs"], "--epochs needs a value"),
        (["train", "--config"], "--config needs a value"),
        (["train", "--learning_rate", "3"], "there is no option --learning_rate; did you mean --lr?"),
        (["train", "--epoch", "5"], "there is no option --epoch; did you mean --epochs?"),
        (["train", "--bs=5", "--weights", "x"], "--bs; did you mean --batch_size? there is no option --weights; did you mean --init_from?"),
        (["train", "--num_queries", "5"], "did you mean --model.num_queries?"),
        (["train", "--crop", "0"], "did you mean --augmentation.crop?"),
        (["train", "--device", "cpu"], "CUDA_VISIBLE_DEVICES chooses"),
        (["train", "--batch-size", "4"], "did you mean --batch_size?"),
        (["train", "path/to/coco"], "path/to/coco stands behind no option"),
        (["train", "--epochs", "1000000000"], "epochs is 1000000000; it is at most 1,000,000"),
        (["train", "--config", "fintune"], "there is no recipe 'fintune'; did you mean finetune?"),
        (["train", "--threads", "-1"], "threads is -1"),
        (["eval"], "give --model (see cdetr eval --help)"),
        (["eval", "--checkpoint", "x", "--model", "y"], "did you mean --model?"),
        (["eval", "--model", "x", "--data", "y", "--threads", "-1"], "threads is -1"),
        (["explain"], "give --model and --images"),
        (["predict", "--model", "x", "--images", "y", "--conf", "0.3"], "did you mean --threshold?"),
        (["predict", "--model", "x", "--images", "y", "--draw", "maybe"], "--draw is 'maybe'; it must be true or false"),
        (["predict", "--model", "x", "--images", "y", "--panoptic_threshold", "x"], "--panoptic_threshold is 'x'; it must be a number"),
        (["demo", "--sed", "3"], "did you mean --seed?"),
    ],
)  # fmt: skip
def test_a_slip_is_explained_in_plain_words(arguments, expected, capsys):
    text = line(*arguments, code=2, capsys=capsys)
    assert expected in text and "<class" not in text and "typing." not in text and "Parser key" not in text


def test_an_error_in_a_recipe_names_its_file_and_one_on_the_command_line_does_not(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("ema: 3\n")
    assert f"{path}: ema is 3" in line("train", "--config", path, code=2, capsys=capsys)
    assert "cdetr: ema is 2" in line("train", "--config", path, "--ema", 2, code=2, capsys=capsys)
    path.write_text("model.num_querys: 3\n")
    text = line("train", "--config", path, code=2, capsys=capsys)
    assert f"{path}: model has no field 'num_querys'; did you mean num_queries?" in text


def test_a_file_where_a_folder_is_meant_is_called_a_file(tmp_path, scenes, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 1\n")
    train = ("train", "--config", "demo", "--threads", "1")
    assert "mine.yaml is a file" in line(*train, "--data", path, code=1, capsys=capsys)
    assert "which is a file; it is a folder" in line(*train, "--data", scenes, "--output", path, code=2, capsys=capsys)
    assert "mine.yaml is no file of weights" in line("eval", "--model", path, "--data", scenes, code=1, capsys=capsys)
    assert "cdetr: other.yaml does not exist" in line(
        "eval", "--model", "other.yaml", "--data", scenes, code=1, capsys=capsys
    )
    assert "is a folder without a recipe.yaml" in line("train", "--config", tmp_path, code=2, capsys=capsys)


def test_the_folder_of_a_run_names_its_model(tmp_path, scenes, capsys):
    small_model().save_pretrained(tmp_path / "run/model")
    ConditionalDetrImageProcessor().save_pretrained(tmp_path / "run/model")
    text = line("eval", "--model", tmp_path / "run", "--data", scenes, code=1, capsys=capsys)
    assert f"the run's model is in {tmp_path / 'run/model'}" in text


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tmp_path, scenes, capsys):
    arguments = ("--config", "demo", "--data", scenes, "--output", tmp_path / "run", "--batch_size", 1_000_000)
    text = line("train", *arguments, code=1, capsys=capsys)
    assert "batch_size is 1000000, and there are 24 training images" in text and not (tmp_path / "run").exists()


def test_the_first_line_says_how_many_threads_compute(tmp_path, scenes, capsys):
    small_model().save_pretrained(tmp_path / "model")
    ConditionalDetrImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path / "model")
    images = sorted((scenes / "images/val").iterdir())[0]
    arguments = ["predict", "--model", tmp_path / "model", "--images", images, "--output", tmp_path / "out"]
    assert main([str(a) for a in [*arguments, "--threads", 1]]) == 0
    assert capsys.readouterr().out.startswith("1 thread, as --threads says\n")


def test_python_m_runs_the_package():
    done = subprocess.run(
        [sys.executable, "-m", "conditional_detr", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"conditional-detr \d+\.\d+\.\d+\S*\n", done.stdout)


def test_the_options_that_the_documents_show_exist(capsys):
    """Every `--option` of a `cdetr` line in the README and the documents is one of that command."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    shown = {}
    for text in texts:
        for command, rest in re.findall(r"cdetr (train|eval|predict|explain|demo|data \w+)\b([^`#\n]*)", text):
            shown.setdefault(command, set()).update(re.findall(r"--([a-z_.]+)", rest))
    for command, options in shown.items():
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        known = set(re.findall(r"--([a-z_.]+)", capsys.readouterr().out))
        assert {option for option in options if not option.startswith(("model.", "any."))} <= known, command


def test_a_recipe_in_json_is_a_recipe(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(json.dumps({"lr": 1e-05, "model": {"d_model": 64}}))
    assert effective("--config", tmp_path / "mine.yaml", capsys=capsys)["lr"] == 1e-5
