"""Outlines: their boxes, and whether they cross themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...messages import listed_briefly

POLYGONS_LOOKED_AT = 2000  # objects of a data set whose outlines are looked at: some tenths of a second
MOST_POINTS = 2000  # of a polygon that is looked at: the look takes the square of it


def polygon_box(polygon: Sequence[float]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 around [x0, y0, x1, y1, …]."""
    xs, ys = polygon[0::2], polygon[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def crosses_itself(polygon: Sequence[float]) -> bool:
    """Whether two sides of [x0, y0, x1, y1, …] cross: each has the other's ends on either side of it. Sides that only
    touch do not, nor bridges to holes and other parts, which are walked there and back."""
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    if not 4 <= len(points) <= MOST_POINTS:
        return False
    start, end = points, np.roll(points, -1, axis=0)  # (n, 2)
    sides = {(*a, *b) for a, b in zip(start.tolist(), end.tolist(), strict=True)}
    alone = [(*b, *a) not in sides for a, b in zip(start.tolist(), end.tolist(), strict=True)]
    start, end = start[alone], end[alone]
    along = end - start

    def side(of: np.ndarray) -> np.ndarray:
        """(i, j): on which side of side i the point j lies."""
        away = of[None] - start[:, None]
        return np.sign(along[:, None, 0] * away[..., 1] - along[:, None, 1] * away[..., 0])

    with np.errstate(all="ignore"):  # numbers beyond any picture
        apart = side(start) * side(end) < 0
    return bool((apart & apart.T).any())


def crossing_remark(objects: Sequence[object]) -> str:
    """What to say of objects whose outlines cross themselves."""
    return (
        f"the outlines of {len(objects)} of the first {POLYGONS_LOOKED_AT} objects cross themselves; only what the even-odd rule "
        f"finds inside is their mask. Draw them anew ({listed_briefly(objects, 3)})"
    )
