"""Predictions of exported detectors -> results, by NumPy alone: as `image_results` makes them of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..config import DetectionConfig
from .image_results import MOST_DETECTIONS, ImageResults


def array_results(
    outputs: Mapping[str, np.ndarray], config: DetectionConfig, sizes: Sequence[tuple[int, int]], threshold: float
) -> list[ImageResults]:
    """The results of a batch, of each image at most `MOST_DETECTIONS` detections.

    Args:
        outputs: `logits` (B, Q, C), or (B, Q, C + 1) where the last class is "no object", and `pred_boxes` (B, Q, 4)
            cxcywh, relative; float32.
        config: of the model.
        sizes: (height, width) of each image, in which boxes are given.
        threshold: least score of a detection.
    """
    rows = zip(outputs["logits"], outputs["pred_boxes"], sizes, strict=True)
    return [_results(logits, boxes, config.num_labels, size, threshold) for logits, boxes, size in rows]


def _results(
    logits: np.ndarray, pred_boxes: np.ndarray, classes: int, size: tuple[int, int], threshold: float
) -> ImageResults:
    if logits.shape[1] == classes:  # each class for itself: candidates are pairs of query and class
        probabilities = _sigmoid(logits)
        best = probabilities.max(1)
        pairs = _best(probabilities.ravel(), threshold)
        scores, labels, queries = probabilities.ravel()[pairs], pairs % classes, pairs // classes
    else:  # one class or none: candidates are the queries
        probabilities = _softmax(logits)[:, :classes]
        best = probabilities.max(1)
        queries = _best(best, threshold)
        scores, labels = best[queries], probabilities[queries].argmax(1)
    centre, half = pred_boxes[queries, :2], np.float32(0.5) * pred_boxes[queries, 2:]
    corners = np.concatenate([centre - half, centre + half], axis=1)
    return ImageResults(
        scores=scores,
        labels=labels,
        boxes=corners * np.array([size[1], size[0]] * 2, np.float32),
        best_score=float(best.max()),
        queries_used=int((best > threshold).sum()),
        logits=logits,
        pred_boxes=pred_boxes,
    )


def _best(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Which of them (n,) are above the threshold, highest first, `MOST_DETECTIONS` at most."""
    above = np.flatnonzero(scores > threshold)
    return above[np.argsort(-scores[above], kind="stable")][:MOST_DETECTIONS]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(logits))  # never overflows
    return np.where(logits >= 0, 1, small) / (1 + small)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
