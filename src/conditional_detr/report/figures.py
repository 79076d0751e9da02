"""All that a report says, in numbers: what `report.json` holds, and what the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hotcoco import metrics

from ..config import Task
from ..data.dataset import DetectionDataset
from ..evaluate.coco_metrics import CocoEvaluation, coco_evaluation
from ..evaluate.evaluation import Metrics
from .bootstrap import CONFIDENCE, Resampled, affordable_resamples, draw_images, interval, resampled_figures
from .errors import (
    TIDE_NAMES,
    ImageErrors,
    Marked,
    confusion,
    image_errors,
    suspected_labels,
)
from .matches import IOU50, ClassMatches, class_matches
from .slices import by_objects, by_size
from .thresholds import OperatingPoint, best_threshold

BINS = 10  # of calibration
SURE = 0.1  # most of DETR's detections score almost nothing, and would hide how well the others are calibrated
MOST_SUSPECTS = 24
PREFIX = {"bbox": "", "segm": "mask_"}


@dataclass
class Analysis:
    """What is known of boxes (`iou_type` "bbox") or of masks ("segm").

    Attributes:
        curves: IoU threshold -> precision at each of COCO's 101 recalls, of each class; None where there is no object.
        tide: kind of mistake -> what AP50 would gain without it; and how often it happens, among all detections.
        calibration: bins, and the expected calibration error (`ece`), of detections that score at least `SURE`.
    """

    iou_type: str
    done: CocoEvaluation
    matches: Mapping[str, Sequence[ClassMatches]]
    resampled: Resampled
    curves: dict[str, dict[str, list[float] | None]]
    tide: dict[str, dict[str, float]]
    calibration: dict[str, Any]
    threshold: OperatingPoint
    thresholds: dict[str, OperatingPoint]

    def to_dict(self) -> dict[str, Any]:
        return {
            "tide": self.tide,
            "calibration": self.calibration,
            "threshold": self.threshold.to_dict(),
            "class_thresholds": {name: point.to_dict() for name, point in self.thresholds.items()},
            "precision_at_recall": self.curves,
        }


@dataclass
class Report:
    """A model on a data set. Figures are in 0…1, -1 where there is nothing to measure; see `to_dict` for the JSON."""

    model: dict[str, Any]
    data: dict[str, Any]
    dataset: DetectionDataset
    metrics: Metrics
    resamples: int
    kinds: dict[str, Analysis]  # "boxes", and "masks" where there are
    errors: ImageErrors
    confusion: list[list[int]]
    names: list[str]  # of the classes of boxes, as `confusion` has them
    sizes: list[dict[str, Any]]
    crowds: list[dict[str, Any]]
    suspects: dict[str, list[Marked]]
    detections: list[Mapping[str, Any]]  # COCO results of at least the threshold
    speed: dict[str, Any] = field(default_factory=dict)
    run: list[dict[str, Any]] = field(default_factory=list)  # rows of log.jsonl
    comparison: dict[str, Any] | None = None
    learning_curve: dict[str, Any] | None = None

    @property
    def task(self) -> Task:
        return self.metrics.task

    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """Of each figure that images can be resampled for."""
        return {
            PREFIX[kind.iou_type] + name: interval(values)
            for kind in self.kinds.values()
            for name, values in kind.resampled.figures.items()
        }

    def class_intervals(self) -> dict[str, dict[str, tuple[float, float] | None]]:
        """Class -> figure -> interval."""
        found: dict[str, dict[str, tuple[float, float] | None]] = {name: {} for name in self.names}
        for kind in self.kinds.values():
            for figure, values in kind.resampled.classes.items():
                for k, name in enumerate(self.names):
                    found[name][PREFIX[kind.iou_type] + figure] = interval(values[:, k])
        return found

    def to_dict(self) -> dict[str, Any]:
        bounds, class_bounds = self.intervals(), self.class_intervals()
        per_class = {
            name: {"figures": _with_bounds(row, class_bounds.get(name, {})), "objects": row["objects"]}
            for name, row in self.metrics.per_class.items()
        }
        return {
            "model": self.model,
            "data": self.data,
            "task": self.task,
            "figures": _with_bounds(self.metrics.summary, bounds),
            "bootstrap": {"resamples": self.resamples, "confidence": CONFIDENCE, "over": "images"},
            "per_class": per_class,
            **{kind: analysis.to_dict() for kind, analysis in self.kinds.items()},
            "confusion": {"classes": self.names, "matrix": self.confusion, "threshold": self.errors.threshold},
            "mistakes": self.errors.counts(),
            "by_size": self.sizes,
            "by_objects": self.crowds,
            "suspected_labels": {
                kind: [mark.to_dict(self.dataset.file_names[mark.image]) for mark in marks]
                for kind, marks in self.suspects.items()
            },
            "speed": self.speed,
            "run": self.run,
            "comparison": self.comparison,
            "learning_curve": self.learning_curve,
        }


def _with_bounds(
    figures: Mapping[str, float], bounds: Mapping[str, tuple[float, float] | None]
) -> dict[str, dict[str, float | None]]:
    rows = {}
    for name, value in figures.items():
        if name != "objects":
            low, high = bounds.get(name) or (None, None)
            rows[name] = {"value": value, "low": low, "high": high}
    return rows


def analyse(
    truth: dict[str, Any], results: Sequence[Mapping[str, Any]], iou_type: str, resamples: int, seed: int
) -> Analysis:
    """Args: `truth` and `results` as of `coco_metrics`; resamples: at most so many; 0: as many as a minute allows."""
    done = coco_evaluation(truth, results, iou_type)
    matches = class_matches(done)
    weights = draw_images(len(done.images), resamples or affordable_resamples(matches), seed)
    names = [category["name"] for category in sorted(truth["categories"], key=lambda c: done.categories[c["id"]])]
    curves = done.evaluation.eval
    assert curves is not None
    precision = curves["precision"][:, :, :, 0, -1]  # (T, 101, K)
    tide = done.evaluation.tide_errors()
    return Analysis(
        iou_type=iou_type,
        done=done,
        matches=matches,
        resampled=resampled_figures(matches, weights),
        curves={
            f"{0.5 + 0.05 * t:.2f}": {
                name: precision[t, :, k].tolist() if (precision[t, :, k] > -1).any() else None
                for k, name in enumerate(names)
            }
            for t in (IOU50, 5)
        },
        tide={
            ours: {"gain": float(tide["delta_ap"][theirs]), "count": int(tide["counts"][theirs])}
            for theirs, ours in TIDE_NAMES.items()
        },
        calibration=calibration(matches["all"]),
        threshold=best_threshold(matches["all"]),
        thresholds={name: best_threshold([own]) for name, own in zip(names, matches["all"], strict=True)},
    )


def calibration(matches: Sequence[ClassMatches]) -> dict[str, Any]:
    """How often detections of a score are right at IoU 0.5: a calibrated model's are in 0.7 of all cases where they score 0.7."""
    scores = np.concatenate([own.scores[own.counted[IOU50]] for own in matches])
    right = np.concatenate([own.right[IOU50][own.counted[IOU50]] for own in matches])
    sure = scores >= SURE
    if not sure.any():
        return {"least_score": SURE, "detections": 0, "ece": None, "bins": []}
    ece, _ = metrics.calibration_error(scores[sure], right[sure], BINS)
    bins = metrics.calibration_curve(scores[sure], right[sure], BINS)
    names = {
        "bin_lower": "low",
        "bin_upper": "high",
        "avg_confidence": "score",
        "avg_accuracy": "right",
        "count": "count",
    }
    return {
        "least_score": SURE,
        "detections": int(sure.sum()),
        "ece": float(ece),
        "bins": [{ours: one[theirs] for theirs, ours in names.items()} for one in bins if one["count"]],
    }


def report_of(
    metrics_: Metrics,
    dataset: DetectionDataset,
    results: Sequence[Mapping[str, Any]],
    *,
    model: dict[str, Any],
    data: dict[str, Any],
    resamples: int = 0,
    seed: int = 0,
) -> Report:
    """The report of predictions that were scored.

    Args:
        metrics_: `evaluation.score` of these results.
        results: COCO results with the data set's ids.
    """
    truth = dataset.to_coco()
    scored = {category["id"] for category in truth["categories"]}  # of panoptic data things alone
    own = [row for row in results if row["category_id"] in scored]
    kinds = {"boxes": analyse(truth, own, "bbox", resamples, seed)}
    if metrics_.task != "detection":
        kinds["masks"] = analyse(truth, own, "segm", resamples, seed)
    boxes = kinds["boxes"]
    threshold = boxes.threshold.threshold if boxes.threshold.threshold >= 0 else 0.5
    errors = image_errors(truth, own, dataset.image_ids, threshold)
    mistakes = np.bincount([m.image for m in errors.mistakes], minlength=len(dataset))
    return Report(
        model=model,
        data=data,
        dataset=dataset,
        metrics=metrics_,
        resamples=len(boxes.resampled.figures["AP"]),
        kinds=kinds,
        errors=errors,
        confusion=confusion(truth, own, threshold),
        names=list(boxes.thresholds),
        sizes=by_size(truth, errors.found),
        crowds=by_objects(truth, dataset.image_ids, boxes.done, mistakes),
        suspects=suspected_labels(truth, own, dataset.image_ids, errors, MOST_SUSPECTS),
        detections=[row for row in own if row["score"] >= threshold],
    )
