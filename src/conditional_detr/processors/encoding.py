"""Decoded images and labels in pixels -> what a model is given: the steps of every image processor here, in their order."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..images.pixels import pad
from ..images.prepare import Preprocessing
from .annotations import Labels, pad_labels, relative_labels, resize_labels


def encode(
    images: Sequence[Tensor],
    labels: Sequence[Labels] | None,
    preprocessing: Preprocessing,
    *,
    padded: bool = True,
    canvas: Mapping[str, int] | None = None,
    relative: bool = True,
) -> dict[str, Any]:
    """A batch.

    Args:
        images: each (C, H_i, W_i), uint8 or float, all on one device.
        labels: of each image, in its pixels (see annotations.py); None: there are none.
        preprocessing: what is done to each image.
        padded: pad images to one canvas.
        canvas: its `height` and `width`; None for the greatest of the batch.
        relative: boxes become (cx, cy, w, h) relative to the image; else they stay (x0, y0, x1, y1) in pixels.

    Returns:
        `pixel_values` float32 (B, C, H, W); where `padded`, `pixel_mask` int64 (B, H, W), 1 = real, 0 = padding; with labels,
        `labels`, a list of dicts, on the images' device. Boxes and `size` in them are those of the resized image without
        its padding (docs/correctness.md, trap 7); masks have the padded size.

    Raises:
        ValueError: no images; one that is larger than the canvas; or different sizes without padding.
    """
    if not images:
        raise ValueError("no images given")
    if preprocessing.rescale_factor is not None and any(_looks_rescaled(image) for image in images):
        factor = "1/255" if preprocessing.rescale_factor == 1 / 255 else f"{preprocessing.rescale_factor:g}"
        warnings.warn(f"pixels from 0 to 1 are rescaled by {factor} once more; pass do_rescale=False", stacklevel=3)

    # Normalised before they are padded: in a batch some may be uint8 and others float, and padding is 0 in transformers.
    pixels = [preprocessing.normalize(preprocessing.resize(image)) for image in images]
    sizes = [(image.shape[-2], image.shape[-1]) for image in pixels]
    if labels is not None and preprocessing.size is not None:
        labels = [resize_labels(item, *size) for item, size in zip(labels, sizes, strict=True)]

    batch: dict[str, Any] = {}
    if padded:
        batch["pixel_values"], mask = pad(pixels, (canvas["height"], canvas["width"]) if canvas else None)
        batch["pixel_mask"] = mask.to(torch.int64)  # as transformers has it
        if labels is not None:
            labels = [pad_labels(item, *mask.shape[1:]) for item in labels]
    elif len(set(sizes)) > 1:
        raise ValueError(f"images of different sizes, {sorted(set(sizes))}, make a batch only with do_pad=True")
    else:
        batch["pixel_values"] = torch.stack(pixels)
    if labels is not None:
        converted = [relative_labels(item) if relative else item for item in labels]
        device = batch["pixel_values"].device
        batch["labels"] = [{name: value.to(device) for name, value in item.items()} for item in converted]
    return batch


def _looks_rescaled(image: Tensor) -> bool:
    # On an accelerator, looking would wait for it.
    return image.is_floating_point() and image.device.type == "cpu" and 0 < image.max().item() <= 1
