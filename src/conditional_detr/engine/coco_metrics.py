"""COCO's figures from predictions: the one file that calls hotcoco for them."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

from hotcoco import COCO, COCOeval

# hotcoco's names -> COCO's own.
NAMES = {
    "AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP_small", "APm": "AP_medium", "APl": "AP_large",
    "AR1": "AR_1", "AR10": "AR_10", "AR100": "AR_100", "ARs": "AR_small", "ARm": "AR_medium", "ARl": "AR_large",
}  # fmt: skip


@dataclass
class CocoMetrics:
    """The twelve figures of COCO's detection task, in 0…1; -1 where there is nothing to measure (no large objects, say)."""

    summary: dict[str, float]
    per_class: dict[str, dict[str, float]]  # name -> AP, AP50, objects

    def to_dict(self) -> dict[str, Any]:
        return {**self.summary, "per_class": self.per_class}


def coco_metrics(annotations: dict[str, Any], results: list[dict[str, Any]], iou_type: str = "bbox") -> CocoMetrics:
    """Score predictions.

    Args:
        annotations: the contents of a COCO annotation file.
        results: COCO results: dicts with image_id, category_id, bbox (x, y, width, height in pixels) and score.
    """
    # The evaluator prints its own table; ours comes later, with the classes.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        evaluation = COCOeval(truth, truth.load_res(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = evaluation.get_results()
    curves = evaluation.eval
    assert curves is not None
    precision = curves["precision"][:, :, :, 0, -1]  # (T thresholds, R recalls, K classes), all areas, 100 boxes
    objects = dict.fromkeys(evaluation.params.cat_ids, 0)
    for annotation in annotations["annotations"]:
        if not annotation.get("iscrowd", 0):
            objects[annotation["category_id"]] += 1
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    per_class = {}
    for k, category in enumerate(evaluation.params.cat_ids):
        ours = precision[:, :, k]
        measured = bool((ours > -1).any())
        per_class[names[category]] = {
            "AP": float(ours.mean()) if measured else -1.0,
            "AP50": float(ours[0].mean()) if measured else -1.0,
            "objects": objects[category],
        }
    return CocoMetrics({ours: float(found[theirs]) for theirs, ours in NAMES.items()}, per_class)
