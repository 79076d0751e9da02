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
FINE = 16  # pixels of a cell: the smaller of the strides that models are trained with


@dataclass(frozen=True)
class Advice:
    """What suits a data set, and why in a line each."""

    image_size: int
    output_stride: int
    image_size_reason: str
    num_queries: int
    num_queries_reason: str

    def lines(self) -> list[tuple[str, str]]:
        """Options of `cdetr train`, and why."""
        return [
            (f"--image_size {self.image_size} --model.output_stride {self.output_stride}", self.image_size_reason),
            (f"--model.num_queries {self.num_queries}", self.num_queries_reason),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, such as JSON has; the keys stay."""
        return dataclasses.asdict(self)


def advise(data: DetectionDataset, seen: Seen) -> Advice | None:
    """What suits a split; None where it has no objects.

    The image size is the smallest multiple of `STEP` at which at most a twentieth of the objects is smaller than one cell
    and the usual object has `CELLS` cells, as long as pictures grow no more than twofold; where there is none, cells of 16
    pixels are tried.
    """
    if data.crowds.all():
        return None
    size, stride, share = _sizes(data, seen)
    if share < VISIBLE and stride > FINE:
        size, stride, share = _sizes(data, dataclasses.replace(seen, stride=FINE))
    why = f"{share:.0%} of the objects are then one cell ({stride} pixels) or larger"
    if share < VISIBLE:
        why += "; for the others, cut the pictures into tiles"
    fullest = int(data.objects_per_image().max())
    queries = max(QUERY_STEP, math.ceil(ROOM * fullest / QUERY_STEP) * QUERY_STEP)
    because = f"{fullest} objects are in the fullest image; keep a trained model's number where that is larger"
    return Advice(size, stride, why, queries, because)


def _sizes(data: DetectionDataset, seen: Seen) -> tuple[int, int, float]:
    """A short side for this stride, the stride, and the share of objects that are then one cell or more."""
    short = float(np.median(data.sizes.min(1)))
    most = max(SMALLEST, min(LARGEST, math.ceil(ENLARGED * short / STEP) * STEP))
    size, share = most, 0.0
    for size in range(SMALLEST, most + 1, STEP):
        at = dataclasses.replace(seen, image_size=size, max_size=round(size * seen.max_size / seen.image_size))
        sides = longest_sides(data, at)[~data.crowds]
        share = float((sides >= seen.stride).mean())
        if share >= VISIBLE and np.median(sides) >= CELLS * seen.stride:
            break
    return size, seen.stride, share
