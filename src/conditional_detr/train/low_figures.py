"""Why a run finds next to nothing, as far as its own figures tell."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ..data.examine.objects import Seen, longest_sides
from ..evaluate.evaluation import HEADLINE
from ..models.segmenter import SegmentationModel
from .run import Run

LOW = 0.01  # of AP or PQ: below, next to nothing is found
FEW_STEPS = (
    1500  # what `cdetr demo` makes, to AP 0.67 on easy scenes; scratch_small on BCCD's 205 photographs makes 2000
)
MANY = 0.2  # share of objects too small to be seen
FALLING, FALLEN = 0.98, 0.9  # of mean losses, see `_course`


def is_low(run: Run) -> bool:
    """Whether the best evaluation so far found next to nothing."""
    return 0 <= run.progress.best < LOW


def low_for_half_the_run(run: Run) -> bool:
    """The same, at the first evaluation of the run's second half, where something can still be changed."""
    half = [row for row in run.log.rows if row["kind"] == "eval" and 2 * row["step"] >= run.total_steps]
    return is_low(run) and len(half) == 1 and run.progress.step < run.total_steps


def why_low(run: Run) -> str:
    """What is likely the reason, and what to do, in a line."""
    recipe, reasons = run.recipe, []
    pretrained = recipe.init_from or recipe.backbone_weights or recipe.model_config().use_pretrained_backbone
    if run.progress.step < FEW_STEPS and not recipe.init_from:
        reasons.append(
            f"{run.progress.step} steps are few for a transformer that starts from nothing (cdetr demo makes {FEW_STEPS}, on easy "
            "pictures): more --epochs"
        )
    reasons += _course([row["loss"] for row in run.log.rows if row["kind"] == "train" and "loss" in row], recipe.lr)
    if not pretrained:
        reasons.append("all weights began at random: --init_from or --backbone_weights learns from fewer images")
    reasons += _too_small(run)
    name = HEADLINE[recipe.task].replace("_", " ")
    likely = f" Likely why: {'; '.join(reasons)}." if reasons else ""
    return f"{name} is near 0 after {run.progress.step} steps.{likely} Look at validation.jpg, and at the data with cdetr data check"


def _course(losses: Sequence[Any], lr: float) -> list[str]:
    """What the course of the training loss says."""
    quarter = len(losses) // 4
    if quarter < 2:
        return []
    first, before, last = (
        fmean(part) for part in (losses[:quarter], losses[-2 * quarter : -quarter], losses[-quarter:])
    )
    if last > FALLEN * first:
        return [f"the loss has hardly fallen ({first:.3g} → {last:.3g}): lr {lr:g} may be far too low or too high"]
    return ["the loss is still falling: more --epochs"] if last < FALLING * before else []


def _too_small(run: Run) -> list[str]:
    """Whether the model is too coarse for the objects."""
    data, recipe = run.val_set, run.recipe
    if data is None or not len(data.boxes):
        return []
    model = run.state.model
    stride = (model.detector if isinstance(model, SegmentationModel) else model).model.backbone.stride
    sides = longest_sides(data, Seen(recipe.image_size, recipe.max_size, stride))[~data.crowds]
    share = float((sides < stride).mean()) if len(sides) else 0.0
    if share < MANY:
        return []
    return [
        f"{share:.0%} of the objects are smaller than a cell of the feature map ({stride} pixels) at image_size "
        f"{recipe.image_size}: a larger --image_size and --augmentation.scales, or a smaller --model.output_stride"
    ]
