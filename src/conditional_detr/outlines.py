"""Outlines of masks: polygons along the sides of pixels, exact, or with fewer corners for people to move."""

from __future__ import annotations

import numpy as np

Loop = list[tuple[int, int]]  # corners (y, x)


def outline(mask: np.ndarray) -> list[int]:
    """One polygon [x0, y0, x1, y1, …] along the sides of pixels, which filled by the even-odd rule is the mask again, bit for
    bit: parts and holes are joined by bridges that are walked there and back.

    Args:
        mask: (H, W) bool, not empty.
    """
    loops = _loops(mask)
    joined = list(loops[0])
    for loop in loops[1:]:
        joined += [loops[0][0], *loop, loop[0]]
    return [value for y, x in joined for value in (x, y)]


def simple_outlines(mask: np.ndarray, tolerance: float = 1.0) -> list[list[tuple[int, int]]]:
    """A polygon [(x, y), …] for each part of a mask, with as few corners as stay within `tolerance` pixels of its sides
    (Douglas and Peucker 1973). Holes are filled.

    Args:
        mask: (H, W) bool, not empty.
    """
    parts = [np.array(loop)[:, ::-1] for loop in _loops(mask)]  # (n, 2) x, y
    outer = [part for part in parts if _signed_area(part) > 0]  # holes are walked the other way
    return [[(int(x), int(y)) for x, y in _simplified(part, tolerance)] for part in outer]


def _signed_area(points: np.ndarray) -> float:
    x, y = points.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def _simplified(points: np.ndarray, tolerance: float) -> np.ndarray:
    """The corners (n, 2) that are kept: the ends of what is straight enough, beginning with two opposite ones."""
    closed = np.concatenate([points, points[:1]]).astype(np.float64)
    kept = np.zeros(len(closed), dtype=bool)
    far = int(np.linalg.norm(closed - closed[0], axis=1).argmax())
    kept[[0, far]] = True
    pieces = [(0, far), (far, len(closed) - 1)]
    while pieces:
        start, end = pieces.pop()
        if end - start < 2:
            continue
        along, away = closed[end] - closed[start], closed[start + 1 : end] - closed[start]
        length = np.linalg.norm(along)
        if length:
            distances = np.abs(along[0] * away[:, 1] - along[1] * away[:, 0]) / length
        else:
            distances = np.linalg.norm(away, axis=1)
        if distances.max() > tolerance:
            middle = start + 1 + int(distances.argmax())
            kept[middle] = True
            pieces += [(start, middle), (middle, end)]
    simple = points[kept[:-1]]
    return simple if len(simple) >= 3 else points


def _loops(mask: np.ndarray) -> list[Loop]:
    """The closed lines between a mask and what is not: around its parts clockwise as they are seen, around holes the other way."""
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
    loops: list[Loop] = []
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
        loops.append([(y + top, x + left) for y, x in _without_straight_corners(loop)])
    return loops


def _without_straight_corners(loop: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The corners of a loop of unit steps at which it turns."""
    corners = np.array(loop)
    turns = ((corners - np.roll(corners, 1, 0)) != (np.roll(corners, -1, 0) - corners)).any(1)
    return [(int(y), int(x)) for y, x in corners[turns]]
