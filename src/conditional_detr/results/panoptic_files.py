"""Panoptic maps as files: COCO's PNG and JSON.

COCO's format is a PNG an image, whose colours are the segments' ids (R + 256 G + 65536 B, 0 = void), and one JSON file,
`{"annotations": rows, "images": [...], "categories": [...]}`, with a row an image:
`{"image_id", "file_name", "segments_info": [{"id", "category_id", "area", "iscrowd"}, ...]}`. `processors.annotations`
reads it.

Segmentations and segments here are those of post-processing: ids int (H, W), 0 or -1 = no segment, and dicts with `id`,
`label_id` (the class) and, optionally, `score`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_ID = 256**3 - 1


def panoptic_png_bytes(segmentation: Tensor | np.ndarray) -> bytes:
    """A segmentation (H, W) as the bytes of a PNG file; negative ids become void.

    Raises:
        ValueError: an id that three bytes do not hold.
    """
    ids = np.maximum(as_array(segmentation), 0)
    if ids.size and ids.max() > LARGEST_ID:
        raise ValueError(f"segment id {ids.max()} does not fit into a panoptic PNG; the largest is {LARGEST_ID}")
    colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).save(file, format="PNG", compress_level=3)
    return file.getvalue()


def write_panoptic_png(path: Path, segmentation: Tensor | np.ndarray) -> None:
    """Write a segmentation (H, W) as a PNG file, whole or not at all; errors as of `panoptic_png_bytes`, and OSError."""
    write_panoptic_png_bytes(path, panoptic_png_bytes(segmentation))


def write_panoptic_png_bytes(path: Path, content: bytes) -> None:
    """Write what `panoptic_png_bytes` gave."""
    write_atomically(path, lambda beside: beside.write_bytes(content))


def panoptic_row(
    image_id: int | str,
    file_name: str,
    segmentation: Tensor | np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    category_ids: Sequence[int] | Mapping[int, int],
) -> dict[str, Any]:
    """One image's row of a panoptic JSON file: the segments that have pixels, with their area and, if known, score.

    Args:
        image_id: the data set's.
        file_name: of the PNG.
        segmentation: int (H, W).
        segments: several of one id (fused ones) must be of one class; the first one's score is taken.
        category_ids: class -> the data set's category id.

    Raises:
        ValueError: a segment of two classes, or of one without a category, or pixels without a segment; the message
            names the file and the id.
    """
    pixels = _areas(segmentation)
    listed: dict[int, dict[str, Any]] = {}
    for segment in segments:
        number, label = segment["id"], segment["label_id"]
        if number not in pixels:
            continue
        try:
            category = category_ids[label]
        except LookupError:
            raise ValueError(f"{file_name}: segment {number} is of class {label}, which has no category id") from None
        score = {"score": segment["score"]} if "score" in segment else {}
        row = {"id": number, "category_id": category, "area": pixels[number], "iscrowd": 0, **score}
        if listed.setdefault(number, row)["category_id"] != category:
            raise ValueError(
                f"{file_name}: segment {number} is of category {listed[number]['category_id']} and of {category}"
            )
    if unlisted := pixels.keys() - listed.keys():
        raise ValueError(f"{file_name}: {pixels[min(unlisted)]} pixels have the id {min(unlisted)}, but no segment has")
    return {"image_id": image_id, "file_name": file_name, "segments_info": list(listed.values())}


def keep_classes(
    segmentation: Tensor | np.ndarray, segments: Sequence[Mapping[str, Any]], classes: Any
) -> tuple[np.ndarray, list[Mapping[str, Any]]]:
    """Turn the segments whose class is not in `classes` (a container) into void: those a data set does not know."""
    kept = [segment for segment in segments if segment["label_id"] in classes]
    ids = as_array(segmentation)
    return np.where(np.isin(ids, [segment["id"] for segment in kept]), ids, 0), kept


def as_array(segmentation: Tensor | np.ndarray) -> np.ndarray:
    """int64 (H, W)"""
    return np.asarray(segmentation if isinstance(segmentation, np.ndarray) else segmentation.cpu()).astype(np.int64)


def _areas(segmentation: Tensor | np.ndarray) -> dict[int, int]:
    """Segment id -> number of pixels, without void."""
    ids, counts = np.unique(as_array(segmentation), return_counts=True)
    return {number: count for number, count in zip(ids.tolist(), counts.tolist(), strict=True) if number > 0}
