"""Which detections match which objects, as hotcoco found it, in arrays that can be counted again: for some images, or for
images drawn at random.

A detection of a class is right at an IoU threshold where it is matched with an object of the class. Precision and recall
follow from counting, the best scores first; COCO's rules are those of pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hotcoco import COCOeval

from ..evaluate.coco_metrics import CocoEvaluation

IOU50, IOU75 = 0, 5  # places among COCO's ten thresholds, 0.5, 0.55, …, 0.95
AREAS = ("all", "small", "medium", "large")
RECALLS = np.linspace(0.0, 1.0, 101)
IMAGES_AT_ONCE = 100  # the evaluator's own lists take hundreds of bytes a detection
MOST_AT_ONCE = 4_000_000  # numbers of an array: resamples are counted in parts


@dataclass
class ClassMatches:
    """The detections of one class in all images, best first: D of them, N images, T IoU thresholds.

    Attributes:
        scores: (D,) float64.
        image: (D,) which image, 0…N-1.
        rank: (D,) place among the detections of its class in its image, from 0.
        right: (T, D) bool: matched with an object.
        counted: (T, D) bool: neither matched with a crowd, nor of another size than is asked for.
        objects: (N,) objects to be found in each image.
    """

    scores: np.ndarray
    image: np.ndarray
    rank: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    objects: np.ndarray

    def first(self, most: int) -> ClassMatches:
        """With the best `most` detections of each image."""
        kept = self.rank < most
        return ClassMatches(
            self.scores[kept],
            self.image[kept],
            self.rank[kept],
            self.right[:, kept],
            self.counted[:, kept],
            self.objects,
        )


def class_matches(done: CocoEvaluation) -> dict[str, list[ClassMatches]]:
    """Area (`AREAS`) -> the matches of each class, in the order of their ids."""
    evaluation, images = done.evaluation, len(done.images)
    thresholds, numbers = len(evaluation.params.iou_thrs), list(done.categories.values())
    parts: dict[tuple[str, int], list[ClassMatches]] = {(area, n): [] for area in AREAS for n in numbers}
    for start in range(0, images, IMAGES_AT_ONCE):
        some = COCOeval(evaluation.coco_gt, evaluation.coco_dt, evaluation.params.iou_type)
        some.params.img_ids = list(range(start + 1, min(images, start + IMAGES_AT_ONCE) + 1))
        with contextlib.redirect_stdout(io.StringIO()):
            some.evaluate()
        bounds = {tuple(bound): name for name, bound in zip(AREAS, some.params.area_rng, strict=True)}
        rows: dict[tuple[str, int], list[dict]] = {}
        for row in some.eval_imgs:
            if row is not None:
                rows.setdefault((bounds[tuple(row["aRng"])], row["category_id"]), []).append(row)
        for place, own in rows.items():
            parts[place].append(_of_images(own, thresholds))
    return {area: [_joined(parts[area, n], thresholds, images) for n in numbers] for area in AREAS}


def _of_images(rows: Sequence[dict], thresholds: int) -> ClassMatches:
    """The matches of a class as the evaluator has them, image by image; `objects` of the images in `rows` alone."""
    rows = sorted(rows, key=lambda row: row["image_id"])
    counts = [len(row["dtScores"]) for row in rows]
    counted = ~_side_by_side([row["dtIgnore"] for row in rows], thresholds)
    return ClassMatches(
        np.concatenate([np.asarray(row["dtScores"], float) for row in rows]),
        np.repeat(np.array([row["image_id"] - 1 for row in rows], np.int64), counts),
        np.concatenate([np.arange(count) for count in counts]),
        _side_by_side([row["dtMatched"] for row in rows], thresholds) & counted,
        counted,
        np.array([(row["image_id"] - 1, sum(row["gtInDenominator"])) for row in rows], np.int64),
    )


def _joined(parts: Sequence[ClassMatches], thresholds: int, images: int) -> ClassMatches:
    """The matches of all images, best first."""
    objects = np.zeros(images, np.int64)
    if not parts:
        none = np.zeros(0, np.int64)
        nothing = np.zeros((thresholds, 0), bool)
        return ClassMatches(np.zeros(0), none, none, nothing, nothing, objects)
    for part in parts:
        objects[part.objects[:, 0]] = part.objects[:, 1]
    scores = np.concatenate([part.scores for part in parts])
    order = np.argsort(-scores, kind="stable")
    return ClassMatches(
        scores[order],
        np.concatenate([part.image for part in parts])[order],
        np.concatenate([part.rank for part in parts])[order],
        np.concatenate([part.right for part in parts], axis=1)[:, order],
        np.concatenate([part.counted for part in parts], axis=1)[:, order],
        objects,
    )


def _side_by_side(parts: Sequence[Sequence[Sequence[bool]]], thresholds: int) -> np.ndarray:
    arrays = [np.asarray(part, bool).reshape(thresholds, -1) for part in parts]
    return np.concatenate(arrays, axis=1) if arrays else np.zeros((thresholds, 0), bool)


def average_precision(matches: ClassMatches, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and the greatest recall at each threshold, each image counted as often as `weights` says.

    Args:
        weights: (R, N) whole numbers: R resamples of N images.

    Returns:
        Two arrays (R, T) in 0…1, nan where there is no object to be found.
    """
    thresholds = len(matches.right)
    objects = (weights @ matches.objects).astype(float)  # (R,)
    ap = np.full((len(weights), thresholds), np.nan)
    recall = np.full((len(weights), thresholds), np.nan)
    step = max(1, MOST_AT_ONCE // max(1, len(matches.scores)))
    for start in range(0, len(weights), step):
        part = slice(start, start + step)
        drawn = weights[part][:, matches.image].astype(np.float64)  # (r, D)
        known = objects[part] > 0
        for t in range(thresholds):
            own = _one_threshold(drawn, objects[part], matches.right[t], matches.counted[t])
            ap[part, t], recall[part, t] = (np.where(known, values, np.nan) for values in own)
    return ap, recall


def _one_threshold(
    drawn: np.ndarray, objects: np.ndarray, right: np.ndarray, counted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """AP and greatest recall, (r,) each. Recall grows, and precision has its peaks, at right detections alone: the others
    are counted and left out."""
    places = np.flatnonzero(right)
    if not len(places):
        return np.zeros(len(drawn)), np.zeros(len(drawn))
    end = places[-1] + 1
    found = drawn[:, places].cumsum(axis=1)  # (r, P)
    claimed = (drawn[:, :end] * counted[:end]).cumsum(axis=1)[:, places]
    precision = found / np.maximum(claimed, 1e-12)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = found / np.maximum(objects, 1)[:, None]
    reached = np.searchsorted(RECALLS, recall, side="right")  # how many of the 101 recalls each place reaches
    new = np.diff(reached, axis=1, prepend=0)
    return (envelope * new).sum(axis=1) / len(RECALLS), recall[:, -1]
