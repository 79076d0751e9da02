"""From which score on a detection is to be believed: where F1, the harmonic mean of precision and recall at IoU 0.5, is
greatest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .matches import IOU50, ClassMatches


@dataclass
class OperatingPoint:
    """Detections of at least `threshold`, and what they are worth at IoU 0.5; -1 where nothing can be measured."""

    threshold: float = -1.0
    f1: float = -1.0
    precision: float = -1.0
    recall: float = -1.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def best_threshold(matches: Sequence[ClassMatches]) -> OperatingPoint:
    """The best of all thresholds for the detections of these classes together.

    Where no detection is right, no threshold is better than another, and the figures are 0.
    """
    objects = sum(int(own.objects.sum()) for own in matches)
    if not objects:
        return OperatingPoint()
    scores = np.concatenate([own.scores for own in matches])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    right = np.concatenate([own.right[IOU50] for own in matches])[order].cumsum()
    claimed = np.concatenate([own.counted[IOU50] for own in matches])[order].cumsum()
    if not len(right) or not right[-1]:
        return OperatingPoint(-1.0, 0.0, 0.0, 0.0)
    f1 = 2 * right / (claimed + objects)
    last = np.append(scores[1:] != scores[:-1], True)  # detections of one score stand or fall together
    best = int(np.argmax(np.where(last, f1, -1.0)))
    found, said = int(right[best]), int(claimed[best])
    return OperatingPoint(float(scores[best]), float(f1[best]), found / said, found / objects)
