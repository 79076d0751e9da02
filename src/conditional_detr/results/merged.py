"""What was found in overlapping parts of a picture, as what is in the picture: each object once, and whole.

Two detections of different parts are one object if they agree about what both parts show: their boxes, cut to the pixels
that the parts share, lie over each other. Neighbours that touch do not, however large their boxes' overlap is elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..coco_masks import merged_masks, placed_mask
from .image_results import ImageResults

AGREEMENT = 0.5  # least IoU, within what two parts share
# A detection that a part's side cuts, and of which so much lies in one that another part shows whole, is a piece of it.
FRAGMENT = 0.7
AT_THE_SIDE = 0.02  # of a part's width or height: a box that ends so near to its side is cut


@dataclass
class Part:
    """What was found in a part of a picture.

    Args:
        place: (left, top, right, bottom) of the part in the picture.
        size: height and width in which its results are given.
        least_side: objects shorter than this, in pixels of the picture, are left to the other parts.
    """

    place: tuple[int, int, int, int]
    size: tuple[int, int]
    results: ImageResults
    least_side: float = 0


class _Found(NamedTuple):
    """Detections of all parts, surest first."""

    boxes: np.ndarray  # (n, 4) xyxy, in pixels of the picture
    places: np.ndarray  # (n, 4), of their parts
    cut: np.ndarray  # (n,) bool: they end at a side of their part that is not the picture's
    of_all: np.ndarray  # (n,) bool: their part is all of the picture
    labels: np.ndarray
    scores: np.ndarray
    parts: np.ndarray  # (n,), number of the part
    rows: np.ndarray  # (n,), number among the part's detections


def merge_parts(parts: Sequence[Part], size: tuple[int, int]) -> ImageResults:
    """The results of a picture from those of its parts; of the first part come the model's logits and boxes.

    A detection that no part's side cuts has the box and mask of the surest part that shows it whole; one that all parts cut, those of
    all of them together. Its score is the highest.

    Args:
        parts: at least one.
        size: height and width of the picture.
    """
    found = _gathered(parts, size)
    free = np.ones(len(found.boxes), dtype=bool)
    objects = [_object_of(i, found, free) for i in range(len(free)) if free[i]]
    boxes = np.stack([box for _, box, _ in objects]) if objects else np.zeros((0, 4), np.float32)
    leaders = [leader for leader, _, _ in objects]
    masks = None
    if parts[0].results.masks is not None:
        masks = [_mask(seen, found, parts, size) for _, _, seen in objects]
    return replace(
        parts[0].results,
        scores=found.scores[leaders],
        labels=found.labels[leaders],
        boxes=boxes,
        best_score=max(part.results.best_score for part in parts),
        queries_used=max(part.results.queries_used for part in parts),
        masks=masks,
    )


def _gathered(parts: Sequence[Part], size: tuple[int, int]) -> _Found:
    columns: list[list[np.ndarray]] = []
    for number, part in enumerate(parts):
        left, top, right, bottom = part.place
        scale = np.array([(right - left) / part.size[1], (bottom - top) / part.size[0]] * 2, np.float32)
        boxes = part.results.boxes * scale + np.array([left, top, left, top], np.float32)
        boxes = boxes.clip([left, top, left, top], [right, bottom, right, bottom]).astype(np.float32)
        near = AT_THE_SIDE * np.array([right - left, bottom - top])
        inner = np.array([left > 0, top > 0, right < size[1], bottom < size[0]])
        at_side = np.abs(boxes - np.array(part.place)) <= np.tile(near, 2)
        rows = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) >= part.least_side)
        columns.append(
            [
                boxes[rows],
                np.tile(np.array(part.place, np.float32), (len(rows), 1)),
                (at_side & inner).any(1)[rows],
                np.full(len(rows), not inner.any()),
                part.results.labels[rows],
                part.results.scores[rows],
                np.full(len(rows), number),
                rows,
            ]
        )
    found = _Found(*(np.concatenate(column) for column in zip(*columns, strict=True)))
    order = np.argsort(-found.scores, kind="stable")
    return _Found(*(column[order] for column in found))


def _object_of(leader: int, found: _Found, free: np.ndarray) -> tuple[int, np.ndarray, list[int]]:
    """The object of a detection, the surest of those that are left: its box, and the detections that show it. These, and
    what says the same of it in other parts, are no longer free."""
    free[leader] = False
    box, place, seen, taken = found.boxes[leader], found.places[leader], [leader], {int(found.parts[leader])}
    cut, of_all = bool(found.cut[leader]), bool(found.of_all[leader])
    while True:
        news = [
            i for i in _same(box, place, cut, of_all, found.labels[leader], found, free) if found.parts[i] not in taken
        ]
        grown = False
        for i in news:
            if int(found.parts[i]) in taken:
                continue  # one of a part: its others are other objects
            taken.add(int(found.parts[i]))
            free[i] = False
            if not cut:
                continue
            grown = True
            if not found.cut[i]:
                box, place, seen, cut, of_all = found.boxes[i], found.places[i], [i], False, bool(found.of_all[i])
            else:
                box, place, seen = _around(box, found.boxes[i]), _around(place, found.places[i]), [*seen, i]
        if not grown:
            return leader, box, seen


def _same(
    box: np.ndarray, place: np.ndarray, cut: bool, of_all: bool, label: Any, found: _Found, free: np.ndarray
) -> list[int]:
    """Which free detections are of the object in this box, seen in this place; surest first."""
    boxes = found.boxes
    touch = (boxes[:, 0] < box[2]) & (boxes[:, 2] > box[0]) & (boxes[:, 1] < box[3]) & (boxes[:, 3] > box[1])
    near = np.flatnonzero(touch & free & (found.labels == label))
    if not len(near):
        return []
    boxes, shared = boxes[near], _within(found.places[near], place)
    ours, theirs = _within(shared, box), _within(shared, boxes)
    both = _area(_within(ours, theirs))
    agree = both >= AGREEMENT * (_area(ours) + _area(theirs) - both)
    overlap = _area(_within(boxes, box))
    # What all of the picture gave has no neighbours: large boxes that it is unsure of would take in all that is near.
    if cut:
        pieces = ~found.cut[near] & ~found.of_all[near] & (overlap >= FRAGMENT * _area(box))
    else:
        pieces = found.cut[near] & (not of_all) & (overlap >= FRAGMENT * _area(boxes))
    return near[(agree & (both > 0)) | pieces].tolist()


def _within(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What two boxes share, (…, 4); empty ones have no area."""
    low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    return np.concatenate([low, high], axis=-1)


def _around(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The smallest box around two."""
    return np.concatenate([np.minimum(first[:2], second[:2]), np.maximum(first[2:], second[2:])])


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1)


def _mask(seen: Sequence[int], found: _Found, parts: Sequence[Part], size: tuple[int, int]) -> dict[str, Any]:
    """The mask of an object, of what the parts that show it say together."""
    placed = []
    for i in seen:
        part = parts[found.parts[i]]
        assert part.results.masks is not None, "all parts are of one model"
        placed.append(placed_mask(part.results.masks[found.rows[i]], part.place, size))
    return merged_masks(placed)
