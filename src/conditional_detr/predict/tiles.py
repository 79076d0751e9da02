"""Where a large picture is cut into tiles that overlap."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from ..images.prepare import Preprocessing

OVERLAP = 0.2  # of a tile's side, at least, with each neighbour: objects up to this size are whole in some tile
WORTH_TILES = 0.5  # a picture is cut where the model would see less than this of its height and width

TileSide = int | Literal["auto"]  # pixels of the picture


class Tile(NamedTuple):
    """A part of a picture, in its pixels; right and bottom are the first ones behind it."""

    left: int
    top: int
    right: int
    bottom: int


def tile_side(tile: TileSide, size: tuple[int, int], preprocessing: Preprocessing) -> int | None:
    """The side of the tiles that a picture is cut into, in pixels; None: it is taken whole.

    Args:
        tile: the side; or "auto": the side at which the model sees a tile pixel for pixel, for pictures that it would see at
            less than half their height and width.
        size: height and width of the picture.

    Raises:
        ValueError: a side that is not positive.
    """
    if tile == "auto":
        seen = preprocessing.size_of(*size)
        if seen[0] * seen[1] >= WORTH_TILES**2 * size[0] * size[1]:
            return None
        side = max(preprocessing.size_of(min(size), min(size)))
    elif isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
        raise ValueError(f"tile must be a number of pixels, or 'auto', got {tile!r}")
    else:
        side = tile
    return side if side < max(size) else None


def tiles_of(size: tuple[int, int], side: int) -> list[Tile]:
    """Tiles of one size that cover a picture, row by row, evenly; each shares `OVERLAP` of its side with the next, or more.

    Args:
        size: height and width of the picture, of which a tile has no more.
    """
    height, width = min(side, size[0]), min(side, size[1])
    tops, lefts = _starts(size[0], height), _starts(size[1], width)
    return [Tile(left, top, left + width, top + height) for top in tops for left in lefts]


def _starts(length: int, side: int) -> list[int]:
    shared = min(side - 1, round(OVERLAP * side))
    count = -(-(length - shared) // (side - shared))
    return np.linspace(0, length - side, count).round().astype(int).tolist()
