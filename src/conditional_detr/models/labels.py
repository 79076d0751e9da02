"""What labels say beside classes and boxes: whether they are whole, and how much of the canvas their images fill."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..messages import shown

logger = logging.getLogger(__name__)


def check_labels(labels: list[dict[str, Any]], images: int, names: tuple[str, ...]) -> None:
    """Raises ValueError unless `labels` is one dict with these keys for each image."""
    if len(labels) != images:
        raise ValueError(f"{len(labels)} labels for {images} images")
    for i, label in enumerate(labels):
        missing = [name for name in names if name not in label]
        if missing:
            raise ValueError(f"labels[{i}] lacks {' and '.join(missing)}")


def mask_of_sizes(labels: list[dict[str, Any]], pixel_values: Tensor) -> Tensor | None:
    """The pixel mask that a caller dropped, as far as labels know it.

    An image processor writes the size that it gave an image, before padding, into its labels. Code that passes such
    labels and no mask, as transformers' `run_object_detection.py` does, has boxes relative to images that the model would
    take to be as large as their canvas.

    Args:
        labels: B dicts; `size`, in those that have it, is (height, width) of the image on its canvas, in pixels. An image
            without it is as large as its canvas.
        pixel_values: (B, C, H, W).

    Returns:
        (B, H, W) bool, True where a pixel belongs to the image; None where every image fills its canvas.

    Raises:
        ValueError: a size that is no pair of numbers, or larger than the canvas.
    """
    canvas = (pixel_values.shape[-2], pixel_values.shape[-1])
    sizes = [_size(label["size"], i, canvas) if "size" in label else canvas for i, label in enumerate(labels)]
    if all(size == canvas for size in sizes):
        return None
    _say_once()
    mask = torch.zeros((len(sizes), *canvas), dtype=torch.bool)
    for i, (height, width) in enumerate(sizes):
        mask[i, :height, :width] = True
    return mask.to(pixel_values.device)


def _size(value: Any, i: int, canvas: tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in (value.tolist() if isinstance(value, Tensor) else value))
    except (TypeError, ValueError):
        raise ValueError(f"labels[{i}]['size'] must be (height, width) in pixels, got {shown(value)}") from None
    if not (1 <= height <= canvas[0] and 1 <= width <= canvas[1]):
        raise ValueError(
            f"labels[{i}]['size'] says {height}×{width} pixels, and the canvas has {canvas[0]}×{canvas[1]}: give the size of "
            "the image as the model sees it, before padding, or leave it out"
        )
    return height, width


@cache
def _say_once() -> None:
    logger.warning(
        "no pixel_mask, and labels whose size is smaller than the canvas: what is beyond it is taken for padding. Pass the "
        "pixel_mask in prediction too, where there are no labels to know it from"
    )
