"""Images of a data set with their objects, and with what was found in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import DetectionDataset
from ..data.splits import find_data, read_all, read_split_files
from ..files import write_atomically
from ..images.read import read_resized
from ..predict.draw import TILE, contact_sheet, draw_comparison
from ..results.named import Detection

SHOWN = 6  # validation images


def draw_validation(path: Path, results: Sequence[dict[str, Any]], dataset: DetectionDataset) -> None:
    """Write validation images with their objects on the left, and on the right as many of the best detections.

    Args:
        results: COCO results of the data set, sorted by image and score, best first.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, SHOWN).round().astype(int)).tolist()
    own: dict[Any, list[dict[str, Any]]] = {dataset.image_ids[i]: [] for i in chosen}
    for row in results:
        if row["image_id"] in own:
            own[row["image_id"]].append(row)
    class_of = {number: i for i, number in enumerate(dataset.category_ids)}
    tiles = []
    for i in chosen:
        size = (int(dataset.sizes[i][0]), int(dataset.sizes[i][1]))
        try:
            image = read_resized(dataset.image_path(i), tile_size, expected=size)
        except (OSError, ValueError):
            continue  # it has been reported already
        truth = objects_of(dataset, i)
        found = []
        for row in own[dataset.image_ids[i]][: max(1, len(truth))]:
            x, y, width, height = row["bbox"]
            number = class_of[row["category_id"]]
            box = (x, y, x + width, y + height)
            found.append(Detection(dataset.category_names[number], row["score"], box, number, row.get("segmentation")))
        tiles.append(draw_comparison(image, found, truth, size=size))
    if tiles:
        sheet = contact_sheet(tiles, columns=2, side=2 * TILE)
        write_atomically(path, lambda beside: sheet.save(beside, format="JPEG", quality=90))


def tile_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which an image is drawn: no side much longer than its place on the sheet."""
    factor = min(1.0, 2 * TILE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def objects_of(dataset: DetectionDataset, image: int) -> list[Detection]:
    """The annotated objects of an image of a data set, with score 1."""
    rows = slice(dataset.first[image], dataset.first[image + 1])
    return [
        Detection(dataset.category_names[number], 1.0, (box[0], box[1], box[2], box[3]), number)
        for box, number in zip(dataset.boxes[rows].tolist(), dataset.classes[rows].tolist(), strict=True)
    ]


def truth_of(annotations: str | Path, images: Sequence[Path]) -> dict[str, list[Detection]]:
    """The annotated objects of pictures, by their real paths.

    Args:
        annotations: the folder of a data set; or one file or folder of annotations, whose file names count from the folder
            that all the pictures are in.

    Raises:
        OSError, ValueError: no annotations that can be read, or they know none of the pictures.
    """
    if Path(annotations).is_dir() and find_data(annotations) is not None:
        sets = read_all(annotations, skip_bad=True)
    else:
        folder = os.path.commonpath([os.path.abspath(path.parent) for path in images])
        sets = [read_split_files(annotations, folder, "detection", skip_bad=True)]
    return {os.path.realpath(own.image_path(i)): objects_of(own, i) for own in sets for i in range(len(own))}
