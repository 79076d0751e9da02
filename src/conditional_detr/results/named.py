"""Results with the names of their classes: what `Detector` gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .image_results import ImageResults


@dataclass(frozen=True)
class Detection:
    """One object found.

    Attributes:
        label: name of its class.
        score: confidence, 0…1.
        box: (x0, y0, x1, y1) in pixels of the image as it is seen (EXIF applied).
        class_id: number of its class, 0…C-1.
        run_lengths: its mask as COCO run lengths, {"size": [height, width], "counts": str}; None of a detector's.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    class_id: int
    run_lengths: dict[str, Any] | None = None

    @property
    def mask(self) -> np.ndarray | None:
        """The pixels of the object, bool (height, width) of the image; None of a detector's. Decoded at each call."""
        if self.run_lengths is None:
            return None
        from hotcoco import mask as coco_mask

        return coco_mask.decode(self.run_lengths).astype(bool)

    def to_dict(self) -> dict[str, Any]:
        """`label`, `score`, `box` (a list), `class_id` and, where there is one, `mask` (the run lengths): plain values,
        such as JSON has."""
        values = {"label": self.label, "score": self.score, "box": list(self.box), "class_id": self.class_id}
        return values if self.run_lengths is None else {**values, "mask": self.run_lengths}


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: its number in the map, from 1.
        label: name of its class.
        class_id: number of its class, 0…C-1.
        is_thing: whether its class is countable; all stuff of one class is one segment.
        score: confidence, 0…1; of merged stuff the highest.
        area: in pixels.
    """

    id: int
    label: str
    class_id: int
    is_thing: bool
    score: float
    area: int


@dataclass(frozen=True)
class PanopticMap:
    """Which segment each pixel belongs to.

    Attributes:
        ids: int32 (height, width), 0 where there is none.
        segments: in the order of their ids.
    """

    ids: np.ndarray
    segments: list[Segment]


def named_detections(results: ImageResults, names: Mapping[int, str]) -> list[Detection]:
    """An image's detections, best first. names: class -> name."""
    rows = zip(results.labels.tolist(), results.scores.tolist(), results.boxes.tolist(), strict=True)
    masks = [None] * len(results.labels) if results.masks is None else results.masks
    return [
        Detection(names[label], score, (x0, y0, x1, y1), label, mask)
        for (label, score, (x0, y0, x1, y1)), mask in zip(rows, masks, strict=True)
    ]


def named_map(results: ImageResults, names: Mapping[int, str]) -> PanopticMap:
    """An image's panoptic map. names: class -> name.

    Raises:
        ValueError: the results have no map.
    """
    if results.segmentation is None:
        raise ValueError("these results have no panoptic map")
    segments = [
        Segment(s["id"], names[s["label_id"]], s["label_id"], s["isthing"], s["score"], s["area"])
        for s in results.segments
    ]
    return PanopticMap(results.segmentation, segments)
