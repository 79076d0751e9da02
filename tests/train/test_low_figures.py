"""A run that finds next to nothing says why, as far as it knows."""

import pytest
from small_recipes import small_recipe

from conditional_detr.stopping import StopRequest
from conditional_detr.train.loop import train
from conditional_detr.train.low_figures import why_low
from conditional_detr.train.setup import set_up


def test_a_run_too_short_from_nothing_says_so_once_on_its_way_and_at_its_end(scenes, tmp_path, capsys):
    train(small_recipe(scenes, tmp_path, epochs=4, eval_epochs=2, lr=1e-30, backbone_lr=0, weight_decay=0))
    said = capsys.readouterr().out
    reasons = [line for line in said.splitlines() if line.startswith("AP is near 0")]
    assert [line.split(".")[0] for line in reasons] == ["AP is near 0 after 6 steps", "AP is near 0 after 12 steps"]
    assert "12 steps are few for a transformer that starts from nothing" in reasons[1]
    assert "the loss has hardly fallen" in reasons[1] and "all weights began at random" in reasons[1]
    assert "cell of the feature map" not in reasons[1]


@pytest.fixture
def run(scenes, tmp_path):
    return lambda **values: set_up(small_recipe(scenes, tmp_path, **values), StopRequest(say=False))


def test_reasons_are_of_the_runs_own_figures(run):
    coarse = run(model={"output_stride": 32})
    coarse.progress.step = 3000
    coarse.log.rows = [{"kind": "train", "step": i, "epoch": 0.0, "loss": 10.0 * 0.99**i} for i in range(1, 41)]
    said = why_low(coarse)
    assert "of the objects are smaller than a cell of the feature map (32 pixels) at image_size 64" in said
    assert "the loss is still falling: more --epochs" in said and "steps are few" not in said
    for row in coarse.log.rows:
        row["loss"] = 10.0 if row["step"] < 15 else 5.0
    assert "loss" not in why_low(coarse)
    coarse.recipe.backbone_weights = "resnet18.pth"
    assert "all weights began at random" not in why_low(coarse)
