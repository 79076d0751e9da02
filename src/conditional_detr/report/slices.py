"""Figures of some of the objects and of some of the images: by size, and by how crowded an image is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluate.coco_metrics import CocoEvaluation

SIDES = (0, 8, 16, 32, 64, 96, 192, 384)  # pixels: the root of an object's area; COCO's bounds 32 and 96 are among them
COUNTS = (0, 1, 2, 4, 8, 16, 32, 64)  # objects of an image


def by_size(truth: Mapping[str, Any], found: np.ndarray) -> list[dict[str, Any]]:
    """Of the objects of each size, how many are found.

    Args:
        found: (A,) see `ImageErrors.found`.
    """
    own = [a for a in truth["annotations"] if not a.get("iscrowd")]
    sides = np.sqrt([a["area"] for a in own]) if own else np.zeros(0)
    place = np.searchsorted(SIDES, sides, side="right") - 1
    return [
        {"size": _span(i, SIDES), "objects": int(own_place.sum()), "recall": float(found[own_place].mean())}
        for i in range(len(SIDES))
        if (own_place := place == i).any()
    ]


def by_objects(
    truth: Mapping[str, Any], image_ids: Sequence[Any], done: CocoEvaluation, mistakes: np.ndarray
) -> list[dict[str, Any]]:
    """Of the images with so many objects, AP and what is wrong in each on average.

    Args:
        image_ids: in the data set's order, which `mistakes` has.
        mistakes: (N,) of each image.
    """
    place = {image_id: i for i, image_id in enumerate(image_ids)}
    objects = np.zeros(len(place), np.int64)
    for annotation in truth["annotations"]:
        objects[place[annotation["image_id"]]] += not annotation.get("iscrowd")
    group = np.searchsorted(COUNTS, objects, side="right") - 1
    number = np.array([done.images[image_id] for image_id in image_ids])
    names = {i: _span(i, COUNTS, whole=True) for i in sorted(set(group.tolist()))}
    figures = done.evaluation.slice_by({name: number[group == i].tolist() for i, name in names.items()})
    rows = []
    for i, name in names.items():
        own = group == i
        row = {"objects": name, "images": int(own.sum()), "mistakes_per_image": float(mistakes[own].mean())}
        rows.append({**row, **{figure: float(figures[name][figure]) for figure in ("AP", "AP50")}})
    return rows


def _span(place: int, bounds: tuple[int, ...], whole: bool = False) -> str:
    low = bounds[place]
    if place + 1 == len(bounds):
        return f"{low} and more"
    high = bounds[place + 1] - whole
    return str(low) if whole and low == high else f"{low}–{high}"
