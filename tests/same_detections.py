"""Comparing detections whatever their order: ranks of nearly equal scores hang on rounding."""

from collections import Counter

import numpy as np
from scipy.optimize import linear_sum_assignment


def rows(detections):
    """(label, score, box) of each: of `Detection`s, of `predictions.jsonl` or COCO results, or of post-processing."""
    if isinstance(detections, dict):
        return list(zip(*(detections[name].tolist() for name in ("labels", "scores", "boxes")), strict=True))
    if detections and isinstance(detections[0], dict):
        return [(d.get("label", d.get("category_id")), d["score"], d.get("box", d.get("bbox"))) for d in detections]
    return [(d.label, d.score, d.box) for d in detections]


def assert_same_detections(found, expected, score, box):
    """Each of one is one of the other: of its label, its score within `score` and its box within `box` pixels.

    Returns:
        for each of `found` the index of the one in `expected` that it is.
    """
    a, b = rows(found), rows(expected)
    assert Counter(label for label, *_ in a) == Counter(label for label, *_ in b)
    if not a:
        return []
    other_label = np.array([[x[0] != y[0] for y in b] for x in a])
    scores, boxes = (tuple(np.array([row[i] for row in r], dtype=np.float64) for r in (a, b)) for i in (1, 2))
    score_gaps = np.abs(scores[0][:, None] - scores[1])
    box_gaps = np.abs(boxes[0][:, None] - boxes[1]).max(-1)
    # In units of what is allowed; the assignment that leaves the fewest over it, and of those the nearest.
    gaps = np.where(other_label, np.inf, np.maximum(score_gaps / score, box_gaps / box))
    _, chosen = linear_sum_assignment(np.minimum(gaps, 2) + 1e4 * (gaps > 1))
    worst = gaps[range(len(a)), chosen].argmax()
    assert gaps[worst, chosen[worst]] <= 1, f"{a[worst]} has no partner; the nearest is {b[chosen[worst]]}"
    return chosen.tolist()


def threshold_between(scores):
    """A threshold in the middle of the widest gap between scores: on both sides of it rounding changes nothing."""
    ordered = np.sort(scores)
    middle = slice(len(ordered) // 4, -(len(ordered) // 4))  # some above and some below
    ordered = ordered[middle]
    widest = np.diff(ordered).argmax()
    assert ordered[widest + 1] - ordered[widest] > 1e-4
    return float(ordered[widest : widest + 2].mean())
