"""How much of a figure is chance: images are drawn at random from those that were evaluated, as many as there are and each as
often as it falls (Efron's bootstrap), and the figures of each such set are computed anew from the matches that are known.

The interval says how the figure would vary with other images of the same kind. It says nothing of other seeds in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .matches import AREAS, IOU50, IOU75, ClassMatches, average_precision

CONFIDENCE = 0.95
MOST_RESAMPLES, FEWEST_RESAMPLES = 1000, 100
WORK = 1e10  # detections counted over all resamples and thresholds, half a minute of a core; large sets get fewer resamples


def draw_images(images: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each image is drawn. (R, N) int32; each row sums to N."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.int32)


def affordable_resamples(matches: Mapping[str, Sequence[ClassMatches]]) -> int:
    work = sum(own.counted.size for classes in matches.values() for own in classes)
    return int(np.clip(WORK / max(work, 1), FEWEST_RESAMPLES, MOST_RESAMPLES))


@dataclass
class Resampled:
    """Figures of R sets of images: name -> (R,), and of classes (R, K); nan where a set has nothing to measure."""

    figures: dict[str, np.ndarray]
    classes: dict[str, np.ndarray]  # AP, AP50


def resampled_figures(matches: Mapping[str, Sequence[ClassMatches]], weights: np.ndarray) -> Resampled:
    """COCO's twelve figures, by COCO's names, and the AP and AP50 of each class.

    Args:
        weights: (R, N), see `draw_images`; ones give the figures themselves.
    """
    figures: dict[str, np.ndarray] = {}
    classes: dict[str, np.ndarray] = {}
    for area in AREAS:
        both = [average_precision(own, weights) for own in matches[area]]
        ap, recall = (np.stack([pair[i] for pair in both], axis=1) for i in (0, 1))  # (R, K, T)
        suffix = "" if area == "all" else f"_{area}"
        figures[f"AP{suffix}"], figures[f"AR{suffix or '_100'}"] = _mean(ap), _mean(recall)
        if area == "all":
            figures |= {"AP50": _mean(ap[:, :, IOU50]), "AP75": _mean(ap[:, :, IOU75])}
            classes = {"AP": ap.mean(axis=2), "AP50": ap[:, :, IOU50]}
            for most in (1, 10):
                best = [average_precision(own.first(most), weights)[1] for own in matches[area]]
                figures[f"AR_{most}"] = _mean(np.stack(best, axis=1))
    return Resampled(figures, classes)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over all axes but the first, of what is not nan. (R,)"""
    flat = values.reshape(len(values), -1)
    known = ~np.isnan(flat)
    sums, counts = np.where(known, flat, 0.0).sum(axis=1), known.sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """Between which bounds the middle 95 % lie; None where nothing could be measured."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def chance(differences: np.ndarray) -> float | None:
    """How likely a difference at least as clear would be if there were none: twice the share of resamples that lie on the
    other side of 0, at least 2 / (R + 1). None where nothing could be measured."""
    known = differences[~np.isnan(differences)]
    if not len(known):
        return None
    against = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (against + 1) / (len(known) + 1))
