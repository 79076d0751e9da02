"""The whole way with data as people have it: trained on, resumed, scored, drawn, and nothing written into its folder."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_recipes import small_recipe

from conditional_detr.cli import main
from conditional_detr.data.convert import convert
from conditional_detr.train.loop import train


def flat(source, folder, to):
    """Scenes in another format, without splits."""
    whole = convert(source, folder / "split", to, "detection").folder
    root = folder / "flat"
    if to == "voc":
        (root / "annotations").mkdir(parents=True)
        (root / "images").symlink_to(whole / "JPEGImages")
        for path in (whole / "Annotations").iterdir():
            (root / "annotations" / path.name).write_bytes(path.read_bytes())
    else:
        for part in ("images", "labels"):
            (root / part).mkdir(parents=True)
            for path in (whole / part / "train").iterdir():
                (root / part / path.name).write_bytes(path.read_bytes())
        (root / "data.yaml").write_text("names: [circle, square, triangle]\n")
    return root


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_data_without_splits_is_trained_on_resumed_scored_and_drawn(scenes, tmp_path, to, capsys):
    root = flat(scenes, tmp_path, to)
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    values = {"split": "0.7,0.3", "threads": 1}
    straight = small_recipe(root, tmp_path / "straight", epochs=2, **values)
    train(straight)
    train(small_recipe(root, tmp_path / "run", epochs=1, **values))
    train(small_recipe(root, tmp_path / "run", epochs=2, resume="auto", **values))
    weights = [
        torch.load(sorted((tmp_path / run / "checkpoints").glob("*"))[-1], weights_only=True)
        for run in ("straight", "run")
    ]
    assert weights[0].keys() == weights[1].keys()
    logs = [
        [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("straight", "run")
    ]
    losses = [[row["loss"] for row in rows if row["kind"] == "train"] for rows in logs]
    assert losses[0] == losses[1], "resuming is exact: the split is the same"
    said = capsys.readouterr().out
    assert f"({'YOLO' if to == 'yolo' else 'Pascal VOC'})" in said and "the same every time (--split 0.7,0.3)" in said

    model = str(tmp_path / "run/model")
    options = ["--data", str(root), "--shares", "0.7,0.3", "--workers", "0", "--threads", "1"]
    metrics = tmp_path / "metrics.json"
    assert main(["eval", "--model", model, *options, "--metrics", str(metrics)]) == 0
    trained = json.loads((tmp_path / "run/metrics.json").read_text())
    np.testing.assert_allclose(json.loads(metrics.read_text())["AP50"], trained["AP50"], atol=1e-6)

    pictures = sorted((root / "images").glob("*.png"))[:2]
    command = [
        "predict",
        "--model",
        model,
        "--images",
        *map(str, pictures),
        "--workers",
        "0",
        "--threads",
        "1",
        "--threshold",
        "0.001",
    ]
    assert main([*command, "--output", str(tmp_path / "plain")]) == 0
    assert main([*command, "--output", str(tmp_path / "beside"), "--truth", str(root)]) == 0
    widths = [Image.open(tmp_path / name / f"{pictures[0].stem}.jpg").width for name in ("plain", "beside")]
    assert widths[1] > widths[0], "its objects are drawn beside what is found"
    assert before == sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))


def test_the_card_names_the_folder_of_a_data_yaml(scenes, tmp_path):
    root = flat(scenes, tmp_path, "yolo")
    train(small_recipe(root / "data.yaml", tmp_path / "run", epochs=1, split="0.7,0.3"))
    assert f"## Data\n\n{root.name}\n" in (tmp_path / "run/model/README.md").read_text()


def test_another_split_does_not_continue_a_run(scenes, tmp_path):
    root = flat(scenes, tmp_path, "yolo")
    train(small_recipe(root, tmp_path / "run", epochs=1, split="0.7,0.3"))
    with pytest.raises(RuntimeError, match="other images or annotations"):
        train(small_recipe(root, tmp_path / "run", epochs=2, split="0.5,0.5", resume="auto"))
