"""Figures of many explanations: to which side of an object each head looks, and how its spread grows with the object.

Conditional DETR's paper claims both of the spatial attention (section 3.4, figures 1 and 4): heads look at the four
extremities of the box or inside it, and look wider where the object is larger.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..predict.attention import PARTS, Explanation, Part

INSIDE = 0.25  # of the way from a box's centre to its edge: nearer, a head looks inside


@dataclass(frozen=True)
class Gaze:
    """Where the heads looked for one detection. h heads."""

    offset: np.ndarray  # (h, 2) x and y of the attention's centre from the box's: -1 and 1 are the box's edges
    spread: np.ndarray  # (h,) pixels: root of the mean square distance from the attention's centre, over √2
    size: float  # pixels: root of the box's area


@dataclass(frozen=True)
class HeadFigures:
    """One head over all detections.

    Attributes:
        head: its number, from 0.
        looks_at: left, right, top or bottom, or inside where the mean offset is less than `INSIDE` both ways.
        x, y: mean offset of the attention's centre from the box's, in halves of the box's width and height.
        x_deviation, y_deviation: standard deviations of the offsets.
        spread: mean, in pixels.
        growth: pixels of spread for each pixel of object size (root of area), by least squares; None where all have one size.
        correlation: of spread and size; None where it is not defined.
    """

    head: int
    looks_at: str
    x: float
    y: float
    x_deviation: float
    y_deviation: float
    spread: float
    growth: float | None
    correlation: float | None


class AttentionFigures:
    """Collects what explanations say; a few numbers of each are kept."""

    def __init__(self) -> None:
        self.gazes: dict[Part, list[Gaze]] = {part: [] for part in PARTS}

    def add(self, explanations: Iterable[Explanation]) -> None:
        for explanation in explanations:
            for part, gazes in self.gazes.items():
                gazes.append(gaze_of(explanation, part))

    @property
    def detections(self) -> int:
        return len(self.gazes["spatial"])

    def heads(self, part: Part = "spatial") -> list[HeadFigures]:
        """A row a head; none without detections."""
        gazes = self.gazes[part]
        if not gazes:
            return []
        offsets, spreads = np.stack([g.offset for g in gazes]), np.stack([g.spread for g in gazes])
        sizes = np.array([g.size for g in gazes])
        return [_head(i, offsets[:, i], spreads[:, i], sizes) for i in range(offsets.shape[1])]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, such as JSON has."""
        parts: dict[str, Any] = {part: [asdict(head) for head in self.heads(part)] for part in self.gazes}
        return {"detections": self.detections, **parts}


def gaze_of(explanation: Explanation, part: Part) -> Gaze:
    """Mean and deviation of an attention over the cells' centres, beside the box."""
    weights = explanation.attention(part).astype(np.float64)  # (h, R, C)
    (height, width), (rows, columns) = explanation.size, weights.shape[1:]
    xs, ys = (np.arange(columns) + 0.5) / columns * width, (np.arange(rows) + 0.5) / rows * height
    x, y = weights.sum(1) @ xs, weights.sum(2) @ ys  # (h,)
    variance = (weights.sum(1) @ xs**2 - x**2) + (weights.sum(2) @ ys**2 - y**2)
    x0, y0, x1, y1 = explanation.detection.box
    box_width, box_height = max(x1 - x0, 1e-6), max(y1 - y0, 1e-6)
    offset = np.stack([(x - (x0 + x1) / 2) / (box_width / 2), (y - (y0 + y1) / 2) / (box_height / 2)], axis=1)
    return Gaze(offset, np.sqrt(np.maximum(variance, 0) / 2), float(np.sqrt(box_width * box_height)))


def _head(head: int, offsets: np.ndarray, spreads: np.ndarray, sizes: np.ndarray) -> HeadFigures:
    (x, y), (x_deviation, y_deviation) = offsets.mean(0).tolist(), offsets.std(0).tolist()
    centred, of_spread = sizes - sizes.mean(), spreads - spreads.mean()
    varied, spread_varies = float(centred @ centred), float(of_spread @ of_spread)
    together = float(centred @ of_spread)
    return HeadFigures(
        head=head,
        looks_at=_side(x, y),
        x=x,
        y=y,
        x_deviation=x_deviation,
        y_deviation=y_deviation,
        spread=float(spreads.mean()),
        growth=together / varied if varied > 0 else None,
        correlation=together / (varied * spread_varies) ** 0.5 if varied > 0 and spread_varies > 0 else None,
    )


def _side(x: float, y: float) -> str:
    if max(abs(x), abs(y)) < INSIDE:
        return "inside"
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"
