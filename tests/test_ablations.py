"""The variants of the paper's ablations, and the experiment that trains them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from small_models import SMALL, randomise

from conditional_detr import ConditionalDetrConfig, ConditionalDetrForObjectDetection
from conditional_detr.families import CONFIG_CLASSES
from conditional_detr.models.family import family_of

ROOT = Path(__file__).parents[1]
SMALLEST = SMALL | {"num_labels": 3, "output_stride": 4}  # the first stage of the backbone alone


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import ablations

    known = dict(CONFIG_CLASSES)
    yield ablations
    for name in set(CONFIG_CLASSES) - set(known):
        del CONFIG_CLASSES[name], sys.modules[f"conditional_detr.models.{name}"]


def detector(name):
    return family_of(name).detector(CONFIG_CLASSES[name](**SMALLEST))


VARIANTS = [
    "reference_at_origin", "reference_learned", "spatial_query_of_content", "spatial_query_of_scale", "spatial_query_of_position", "scalar",
    "blocks", "matrix", "detr_offset", "detr_focal", "detr_offset_focal", "chosen_cells", "peaks", "peaks_with_content",
]  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns_and_is_saved_and_opened(ablations, name, tmp_path):
    ablations.register(name)
    model = randomise(detector(name)).train()
    pixels = torch.randn(2, 3, 32, 48)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.4, 0.5, 0.2, 0.3]])}] * 2
    model(pixels, labels=labels).loss.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    unused = {"ref_point_head"} if name.startswith("reference") else {"query_scale", "ref_point_head"}
    assert all(any(part in n for part in unused) for n in without), without
    model.eval().save_pretrained(tmp_path)
    loaded = family_of(name).detector.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, loaded(pixels).logits)


@pytest.mark.numeric
def test_a_diagonal_matrix_is_the_models_own_transformation(ablations):
    """With T's other entries at zero, the full matrix computes what Conditional DETR computes."""
    ablations.register("matrix")
    ours = randomise(ConditionalDetrForObjectDetection(ConditionalDetrConfig(**SMALLEST))).double()
    full = detector("matrix").double()
    weights = ours.state_dict()
    channels = ours.config.d_model
    for part in ("weight", "bias"):
        name = f"model.decoder.query_scale.layers.1.{part}"
        spread = torch.zeros(channels, channels, *weights[name].shape[1:], dtype=torch.float64)
        spread[range(channels), range(channels)] = weights[name]
        weights[name] = spread.flatten(0, 1)
    full.load_state_dict(weights)
    pixels = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(full.eval()(pixels).logits, ours.eval()(pixels).logits, rtol=0, atol=1e-10)


@pytest.mark.numeric
def test_queries_chosen_from_the_picture_do_not_depend_on_padding(ablations):
    ablations.register("peaks")
    model = randomise(detector("peaks")).double().eval()
    pixels = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    canvas, mask = torch.zeros(2, 3, 64, 64, dtype=torch.float64), torch.zeros(2, 64, 64)
    canvas[0, :, :32, :48], canvas[1] = pixels[0], 1
    mask[0, :32, :48], mask[1] = 1, 1
    with torch.no_grad():
        alone, padded = model(pixels), model(canvas, mask)
    torch.testing.assert_close(padded.logits[:1], alone.logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(padded.pred_boxes[:1], alone.pred_boxes, rtol=0, atol=1e-9)


def test_epochs_to_an_ap_lie_between_the_evaluations_around_it(ablations):
    from benchmarks.convergence import epochs_to_reach

    assert epochs_to_reach(0.3, [2, 4, 6], [0.1, 0.2, 0.6]) == pytest.approx(4.5)
    assert epochs_to_reach(0.05, [2, 4], [0.1, 0.2]) == pytest.approx(1)
    assert epochs_to_reach(0.7, [2, 4], [0.1, 0.2]) is None


@pytest.mark.slow
def test_the_experiment_is_told_as_a_table_and_goes_on_where_it_was(ablations, tmp_path, monkeypatch, capsys):
    from benchmarks import convergence

    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(
        convergence.SETTINGS, "scenes", convergence.Setting("demo", 1, 1, (1e-3, 3e-4), {"train": 32, "val": 8})
    )
    command = ["--seeds", "2", "--models", "detr,conditional_detr", "--output", str(tmp_path)]
    convergence.main(command)
    results = json.loads((tmp_path / "models.json").read_text(encoding="utf-8"))["results"]
    assert len(results) == 6 and {run["seed"] for run in results if run["chosen"]} == {0, 1}
    assert (tmp_path / "models_scenes.png").stat().st_size > 5000
    capsys.readouterr()
    convergence.main(command)
    told = capsys.readouterr().out
    assert "| conditional_detr |" in told and "AP 0" not in told  # nothing was trained again
