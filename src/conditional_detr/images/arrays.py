"""Pictures to pixels by Pillow and NumPy alone: what exported models are given, so that their users need no PyTorch.

Pillow resizes as PyTorch does but for rounding: of photographs at usual sizes at most 3 of a thousand values differ, by 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .open_file import ImageFile, is_image_file, opened
from .orientation import loaded_orientation, seen_as, turned, upright
from .rgb import numbers_to_rgb, pil_as_rgb

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def read_array(
    source: ImageFile,
    size_of: Callable[[int, int], tuple[int, int]],
    resample: int = Image.Resampling.BILINEAR,
    expected: tuple[int, int] | None = None,
) -> np.ndarray:
    """An image file decoded, turned upright and resized; arguments and errors as of `read.read_resized`. uint8 (3, h, w)"""
    with opened(source) as image:
        orientation = loaded_orientation(image)  # which turns a TIFF file, so that its size is known only now
        stored = image.height, image.width
        orientation = seen_as(stored, orientation, expected)
        height, width = size_of(*turned(stored, orientation))
        return _planes(upright(pil_as_rgb(image), orientation), (height, width), resample)


def resize_array(image: np.ndarray, size: tuple[int, int], resample: int = Image.Resampling.BILINEAR) -> np.ndarray:
    """uint8 (3, H, W) at another size, (height, width)."""
    if image.shape[1:] == size:
        return np.ascontiguousarray(image)
    return _planes(Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))), size, resample)


def normalize_array(
    images: np.ndarray,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    rescale_factor: float | None,
) -> np.ndarray:
    """As `pixels.normalize`: (…, 3, H, W), uint8 or float -> float32."""
    values = images.astype(np.float32)
    if mean is not None and std is not None:
        scale = 1.0 if rescale_factor is None else 1.0 / rescale_factor
        values -= np.reshape(np.asarray(mean, np.float32), (-1, 1, 1)) * np.float32(scale)
        values /= np.reshape(np.asarray(std, np.float32), (-1, 1, 1)) * np.float32(scale)
    elif rescale_factor is not None:
        values *= np.float32(rescale_factor)
    return values


def as_rgb_array(image: Any) -> np.ndarray:
    """One image that is no file, of any kind that `read.as_rgb_tensor` takes, as RGB: uint8 or float32 (3, H, W).

    Raises:
        TypeError: none of these kinds.
        ValueError: a shape or a number of channels that is no image.
    """
    if isinstance(image, Image.Image):
        return np.asarray(pil_as_rgb(image)).transpose(2, 0, 1)
    if is_tensor(image):
        image = image.detach().cpu().numpy()
    if isinstance(image, np.ndarray):
        return numbers_to_rgb(image)
    if is_image_file(image):
        return read_array(image, lambda height, width: (height, width))
    raise TypeError(
        f"an image must be a path, a PIL image, an array, a tensor, an open file or the bytes of one, got {type(image).__name__}"
    )


def image_list(images: Any) -> list[Any]:
    """One image, a batch (an array or tensor of 4 dimensions), a list or a list of lists of images as a flat list."""
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in image_list(item)]
    return list(images) if is_array(images) and images.ndim == 4 else [images]


def is_array(value: Any) -> bool:
    """Whether this is an array or a tensor."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def is_tensor(value: Any) -> bool:
    """Whether this is PyTorch's; asks without loading it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _planes(image: Image.Image, size: tuple[int, int], resample: int) -> np.ndarray:
    """An RGB image at a size, (height, width), as uint8 (3, height, width)."""
    if (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling(resample))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
