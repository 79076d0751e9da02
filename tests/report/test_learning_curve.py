"""Trainings on shares of the data, and where the law through them leads."""

import json

import numpy as np
import pytest
from small_recipes import recipe_file, small_recipe

from conditional_detr import cli
from conditional_detr.data.splits import read_split_files
from conditional_detr.report.learning_curve import plan, power_law
from conditional_detr.train.loop import train


def test_a_power_law_is_continued_exactly():
    images = [100, 200, 400]
    figures = [1 - 0.8 * n**-0.3 for n in images]
    fit = power_law(images, figures, np.repeat(np.array(figures)[:, None], 20, axis=1))
    assert fit["exponent"] == pytest.approx(0.3)
    for one, n in zip(fit["predicted"], (800, 1600), strict=True):
        assert one["images"] == n
        assert [one[name] for name in ("figure", "low", "high")] == pytest.approx([1 - 0.8 * n**-0.3] * 3)


def test_what_has_learned_nothing_is_not_continued():
    assert power_law([1, 2, 4], [0.0, 0.0, 0.0], np.zeros((3, 5))) is None
    assert power_law([1, 1, 1], [0.1, 0.1, 0.1], np.full((3, 5), 0.1)) is None


def planned(recipe, run, scenes, output):
    run.mkdir()
    recipe_file(run, recipe)
    return plan(run / "model", str(scenes), recipe.split, output)


def test_each_share_is_part_of_the_next_and_takes_as_many_steps(scenes, tmp_path):
    recipe = small_recipe(scenes, tmp_path / "run", epochs=3, drop_epochs=[2])
    found = planned(recipe, tmp_path / "run", scenes, tmp_path / "out")
    assert found.own and found.images == {0.25: 6, 0.5: 12, 1.0: 24}
    quarter, half = (found.recipes[share] for share in (0.25, 0.5))
    assert (quarter.epochs, quarter.drop_epochs, half.epochs, half.drop_epochs) == (12, [8], 6, [4])
    sets = [read_split_files(r.train_annotations, r.train_images, "detection", False) for r in (quarter, half)]
    assert [len(data) for data in sets] == [6, 12]
    assert set(sets[0].file_names) < set(sets[1].file_names)
    whole = read_split_files(scenes / "annotations/train.json", scenes / "images/train", "detection", False)
    for data in sets:
        for i, name in enumerate(data.file_names):
            j = whole.file_names.index(name)
            rows, own = slice(*whole.first[j : j + 2]), slice(*data.first[i : i + 2])
            np.testing.assert_array_equal(data.boxes[own], whole.boxes[rows])


def test_other_data_than_the_models_is_trained_whole_too(scenes, tmp_path):
    found = planned(small_recipe("elsewhere", tmp_path / "run"), tmp_path / "run", scenes, tmp_path / "out")
    assert not found.own and list(found.recipes) == [0.25, 0.5, 1.0]


def test_panoptic_recipes_are_refused(scenes, tmp_path):
    with pytest.raises(ValueError, match="for panoptic data it is not there"):
        planned(small_recipe(scenes, tmp_path / "run", task="panoptic"), tmp_path / "run", scenes, tmp_path / "out")


@pytest.mark.slow
def test_the_command_trains_what_is_missing_and_says_what_more_data_would_bring(scenes, tmp_path, capsys):
    train(small_recipe(scenes, tmp_path / "run", epochs=1))
    arguments = ["--model", tmp_path / "run/model", "--data", scenes, "--output", tmp_path / "out", "--resamples", 10]
    assert cli.main(["report", *map(str, arguments), "--workers", "0", "--learning_curve", "true"]) == 0
    found = json.loads((tmp_path / "out/report.json").read_text())["learning_curve"]
    assert [(row["share"], row["images"]) for row in found["points"]] == [(0.25, 6), (0.5, 12), (1.0, 24)]
    assert found["verdict"] and 'id="learning"' in (tmp_path / "out/report.html").read_text()
    assert "learning curve: 2 trainings" in capsys.readouterr().out
