"""Whether one model is better than another, or only luckier with these images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.dataset import DetectionDataset
from ..evaluate.evaluation import HEADLINE, Metrics
from .bootstrap import chance, interval
from .figures import PREFIX, Report, analyse


def compare(
    report: Report,
    dataset: DetectionDataset,
    metrics: Metrics,
    results: Sequence[Mapping[str, Any]],
    model: str,
    seed: int = 0,
) -> dict[str, Any]:
    """The differences between the model of a report and another on the same images, each with its interval: both are
    counted on the same resamples (paired bootstrap), so that hard images, which are hard for both, blur nothing.

    Args:
        dataset: of the report.
        metrics, results: the other model's.
        model: the other's name.
        seed: that the report was made with.

    Returns:
        `figures` and `per_class`: name -> own, other, difference, low, high, chance (a two-sided p value of the resamples),
        clear (the interval leaves out 0). Where images cannot be resampled for a figure (PQ), there is no interval.
    """
    truth = dataset.to_coco()
    scored = {category["id"] for category in truth["categories"]}
    kept = [row for row in results if row["category_id"] in scored]
    figures: dict[str, np.ndarray] = {}
    classes: dict[str, np.ndarray] = {}
    for own in report.kinds.values():
        other = analyse(truth, kept, own.iou_type, report.resamples, seed).resampled
        for name, values in own.resampled.figures.items():
            figures[PREFIX[own.iou_type] + name] = values - other.figures[name]
        for name, values in own.resampled.classes.items():
            classes[PREFIX[own.iou_type] + name] = values - other.classes[name]
    of_class = "mask_AP" if "mask_AP" in classes else "AP"
    per_class = {
        name: _difference(
            report.metrics.per_class[name][of_class], metrics.per_class[name][of_class], classes[of_class][:, k]
        )
        for k, name in enumerate(report.names)
    }
    found = {
        name: _difference(value, metrics.summary[name], figures.get(name))
        for name, value in report.metrics.summary.items()
    }
    headline = HEADLINE[report.task] if HEADLINE[report.task] in figures else of_class
    return {
        "model": model,
        "resamples": report.resamples,
        "verdict": _verdict(headline, found[headline]),
        "figures": found,
        "class_figure": of_class,
        "per_class": per_class,
    }


def _difference(own: float, other: float, resampled: np.ndarray | None) -> dict[str, Any]:
    measured = own >= 0 and other >= 0
    bounds = interval(resampled) if measured and resampled is not None else None
    low, high = bounds or (None, None)
    return {
        "own": own,
        "other": other,
        "difference": own - other if measured else None,
        "low": low,
        "high": high,
        "chance": chance(resampled) if bounds is not None and resampled is not None else None,
        "clear": bounds is not None and not bounds[0] <= 0 <= bounds[1],
    }


def _verdict(name: str, one: Mapping[str, Any]) -> str:
    name = name.replace("_", " ")
    if one["low"] is None:
        return f"{name} cannot be compared."
    bounds = f"{name} {one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"
    if not one["clear"]:
        return f"The difference cannot be told from chance: {bounds}."
    return f"This model is {'better' if one['difference'] > 0 else 'worse'}, by more than chance: {bounds}, p {one['chance']:.3f}."
