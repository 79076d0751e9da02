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


def outline(mask: np.ndarray) -> list[int]:
    """One polygon [x0, y0, x1, y1, …] along the sides of pixels, which filled by the even-odd rule is the mask again, bit for
    bit: parts and holes are joined by bridges that are walked there and back.

    Args:
        mask: (H, W) bool, not empty.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    inside = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.int8), 1)
    down, right = np.diff(inside, axis=0), np.diff(inside, axis=1)  # where pixels begin (1) and end (-1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Sides run with the mask on their right; (y, x) of pixel corners.
    for changes, begins, way in ((down, 1, ((0, 0), (0, 1))), (down, -1, ((0, 1), (0, 0)))):
        for y, x in np.argwhere(changes == begins).tolist():
            following.setdefault((y, x - 1 + way[0][1]), []).append((y, x - 1 + way[1][1]))
    for changes, begins, way in ((right, 1, ((1, 0), (0, 0))), (right, -1, ((0, 0), (1, 0)))):
        for y, x in np.argwhere(changes == begins).tolist():
            following.setdefault((y - 1 + way[0][0], x), []).append((y - 1 + way[1][0], x))
    loops = []
    while following:
        start = next(iter(following))
        loop = [start]
        while True:
            ends = following[loop[-1]]
            following_corner = ends.pop()
            if not ends:
                del following[loop[-1]]
            if following_corner == start:
                break
            loop.append(following_corner)
        loops.append(_without_straight_corners(loop))
    joined = list(loops[0])
    for loop in loops[1:]:
        joined += [loops[0][0], *loop, loop[0]]
    return [value for y, x in joined for value in (x + left, y + top)]


def _without_straight_corners(loop: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The corners of a loop of unit steps at which it turns."""
    corners = np.array(loop)
    turns = ((corners - np.roll(corners, 1, 0)) != (np.roll(corners, -1, 0) - corners)).any(1)
    return [(int(y), int(x)) for y, x in corners[turns]]
