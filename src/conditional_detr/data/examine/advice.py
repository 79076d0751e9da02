"""Sizes of pictures and numbers of queries that suit a data set."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dataset import DetectionDataset
from .objects import Seen, longest_sides

SMALLEST, LARGEST, STEP = 256, 800, 32  # of recommended short sides, in pixels
VISIBLE = 0.95  # share of objects that are to be one cell or more
CELLS = 2  # the usual object's longer side
ENLARGED = 2  # by which pictures are made larger at most: they become no clearer
ROOM = 1.5  # queries for each object of the fullest image
QUERY_STEP = 50


@dataclass(frozen=True)
class Advice:
    """What suits a data set, and why in a line each."""

    image_size: int
    image_size_reason: str
    num_queries: int
    num_queries_reason: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def advise(data: DetectionDataset, seen: Seen) -> Advice | None:
    """What suits a split; None where it has no objects.

    The image size is the smallest multiple of `STEP` at which at most a twentieth of the objects is smaller than one cell
    and the usual object has `CELLS` cells, as long as pictures grow no more than twofold.
    """
    rows = ~data.crowds
    if not rows.any():
        return None
    short = float(np.median(data.sizes.min(1)))
    most = max(SMALLEST, min(LARGEST, math.ceil(ENLARGED * short / STEP) * STEP))
    size, share = most, 0.0
    for size in range(SMALLEST, most + 1, STEP):
        at = dataclasses.replace(seen, image_size=size, max_size=round(size * seen.max_size / seen.image_size))
        sides = longest_sides(data, at)[rows]
        share = float((sides >= seen.stride).mean())
        if share >= VISIBLE and np.median(sides) >= CELLS * seen.stride:
            break
    why = f"{share:.0%} of the objects are then one cell ({seen.stride} pixels) or larger"
    if share < VISIBLE and seen.stride > 16:
        why += "; take model.output_stride 16, or cut the pictures into tiles"
    elif share < VISIBLE:
        why += "; cut the pictures into tiles"
    fullest = int(data.objects_per_image().max())
    queries = max(QUERY_STEP, math.ceil(ROOM * fullest / QUERY_STEP) * QUERY_STEP)
    return Advice(
        size,
        why,
        queries,
        f"{fullest} objects are in the fullest image; keep a trained model's number where that is larger",
    )
