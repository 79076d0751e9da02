"""The annotations of a COCO file in columns, and the same cut to their images and ordered by them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...coco_masks import encode_segmentation
from ..object_masks import InstanceMasks
from .polygons import POLYGONS_LOOKED_AT, crosses_itself

Size = tuple[int, int]  # height, width


@dataclass
class Columns:
    """Checked annotations, in the order of the file. K of them."""

    images: np.ndarray  # (K,) int64: the place of each one's image among those that are there
    classes: np.ndarray  # (K,) int64
    boxes: np.ndarray  # (K, 4) float64: x, y, width, height
    areas: np.ndarray  # (K,) float64
    crowds: np.ndarray  # (K,) 0 or 1
    positions: np.ndarray  # (K,) int64: in the file's list
    ids: Sequence[Any]  # by position
    masks: Masks | None = None


@dataclass
class Masks:
    """Run lengths as they are made of segmentations, and what was wrong with these."""

    run_lengths: bytearray = field(default_factory=bytearray)  # of K masks, one after another
    ends: array[int] = field(
        default_factory=lambda: array("q")
    )  # K: of each; where the one before ends if there is no mask
    short_polygons: list[Any] = field(default_factory=list)
    outlined: int = 0  # annotations with polygons
    crossing: list[Any] = field(default_factory=list)

    def add(self, segmentation: Any, number: Any, box: Sequence[float], size: Size) -> None:
        """Add an annotation's segmentation: none where it has no mask, or one without a pixel, or its box no area.

        Raises:
            ValueError: it is no segmentation.
        """
        if _has_area(box, size):
            self.run_lengths += self._run_lengths(segmentation, number, size)
        self.ends.append(len(self.run_lengths))

    def lengths(self) -> np.ndarray:
        """(K,) bytes of each; 0 where there is no mask."""
        return np.diff(np.frombuffer(self.ends, dtype=np.int64), prepend=0)

    def of(self, rows: np.ndarray, sizes: np.ndarray) -> InstanceMasks:
        """Some of them, in this order; `sizes` of all images."""
        found, ends = bytearray(), self.ends
        for i in rows.tolist():  # not joined from a list: its parts would take as much again
            found += self.run_lengths[ends[i - 1] if i else 0 : ends[i]]
        return InstanceMasks(
            sizes=sizes,
            run_length_bytes=np.frombuffer(found, dtype=np.uint8),
            first=np.concatenate(([0], np.cumsum(self.lengths()[rows], dtype=np.int64))),
        )

    def _run_lengths(self, segmentation: Any, number: Any, size: Size) -> bytes:
        from hotcoco import mask as coco_mask

        outlines = segmentation if isinstance(segmentation, list) else None
        if outlines is not None:
            long = [polygon for polygon in outlines if not isinstance(polygon, list) or len(polygon) >= 6]
            if len(long) < len(outlines):
                self.short_polygons.append(number)
                segmentation = outlines = long
        if not segmentation:
            return b""
        found = encode_segmentation(segmentation, *size)
        if outlines is not None:
            self.outlined += 1
            if self.outlined <= POLYGONS_LOOKED_AT and any(map(crosses_itself, outlines)):
                self.crossing.append(number)
        counts: bytes = found["counts"] if coco_mask.area(found) else b""
        return counts


def _has_area(box: Sequence[float], size: Size) -> bool:
    """Whether x, y, width, height has an area inside an image."""
    x, y, width, height = box
    right, bottom = x + width, y + height
    return right > x < size[1] and right > 0 and bottom > y < size[0] and bottom > 0


@dataclass
class Rows:
    """The usable annotations, ordered by image. A of them; see `DetectionDataset`."""

    first: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    positions: np.ndarray
    kept: np.ndarray  # (A,) int64: rows of the columns
    clipped: int
    dropped: list[Any]
    maskless: list[Any]


def rows_of(columns: Columns, sizes: np.ndarray) -> Rows:
    """Cut boxes to their images (N sizes, height and width), and leave out what has no area or no mask there."""
    images = columns.images
    x, y, width, height = columns.boxes.T
    bottom, right = sizes[images].T.astype(np.float64)
    x1, y1 = x + width, y + height
    inside = np.stack([np.maximum(x, 0), np.maximum(y, 0), np.minimum(x1, right), np.minimum(y1, bottom)], axis=1)
    usable = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    dropped = [columns.ids[i] for i in columns.positions[~usable].tolist()]
    maskless: list[Any] = []
    if columns.masks is not None:
        masked = columns.masks.lengths() > 0
        maskless = [columns.ids[i] for i in columns.positions[usable & ~masked].tolist()]
        usable &= masked
    # Half a pixel outside is rounding, not a fault worth reporting.
    outside = (x < -0.5) | (y < -0.5) | (x1 > right + 0.5) | (y1 > bottom + 0.5)
    kept = np.flatnonzero(usable)
    kept = kept[np.argsort(images[kept], kind="stable")]
    counts = np.bincount(images[kept], minlength=len(sizes))
    return Rows(
        first=np.concatenate(([0], np.cumsum(counts, dtype=np.int64))),
        boxes=inside[kept].astype(np.float32),
        classes=columns.classes[kept],
        areas=columns.areas[kept].astype(np.float32),
        crowds=columns.crowds[kept].astype(bool),
        positions=columns.positions[kept],
        kept=kept,
        clipped=int((outside & usable).sum()),
        dropped=dropped,
        maskless=maskless,
    )
