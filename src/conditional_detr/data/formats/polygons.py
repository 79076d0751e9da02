"""Outlines: their boxes, and whether they cross themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_POINTS = 2000  # of a polygon that is looked at: the look takes the square of it


def polygon_box(polygon: Sequence[float]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 around [x0, y0, x1, y1, …]."""
    xs, ys = polygon[0::2], polygon[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def crosses_itself(polygon: Sequence[float]) -> bool:
    """Whether two sides of [x0, y0, x1, y1, …] cross: each has the other's ends on either side of it. Sides that only
    touch, or lie on each other, do not: so outlines with a hole are drawn."""
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    if not 4 <= len(points) <= MOST_POINTS:
        return False
    start, end = points, np.roll(points, -1, axis=0)  # (n, 2)
    along = end - start

    def side(of: np.ndarray) -> np.ndarray:
        """(i, j): on which side of side i the point j lies."""
        away = of[None] - start[:, None]
        return np.sign(along[:, None, 0] * away[..., 1] - along[:, None, 1] * away[..., 0])

    apart = side(start) * side(end) < 0
    return bool((apart & apart.T).any())
