"""What a picture becomes before a model sees it, the same in training, evaluation and prediction: read and resized, put on
a canvas, normalised. Each step can be called alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .arrays import IMAGENET_MEAN, IMAGENET_STD, normalize_array, read_array, resize_array
from .open_file import ImageFile
from .sizes import size_after_resize, size_dict

# What makes tensors needs PyTorch, and imports it then.
if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """What is done to pictures.

    Args:
        size: how large they become, in a form of `sizes.size_dict`; None leaves them as they are.
        resample: PIL's number of the filter.
        rescale_factor: what pixels are multiplied by; None: nothing.
        mean, std: of the rescaled pixels, a number or one a channel; both None: not normalised.
    """

    size: Mapping[str, int] | None = field(default_factory=size_dict)
    resample: int = Image.Resampling.BILINEAR
    rescale_factor: float | None = 1 / 255
    mean: float | Sequence[float] | None = IMAGENET_MEAN
    std: float | Sequence[float] | None = IMAGENET_STD

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """From the arguments of an image processor, all of them, as its file has them."""
        normalized = values["do_normalize"]
        return cls(
            size=values["size"] if values["do_resize"] else None,
            resample=values["resample"],
            rescale_factor=values["rescale_factor"] if values["do_rescale"] else None,
            mean=values["image_mean"] if normalized else None,
            std=values["image_std"] if normalized else None,
        )

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that a picture of this height and width is given."""
        return (height, width) if self.size is None else size_after_resize(height, width, self.size)

    def resize(self, image: Tensor) -> Tensor:
        """(3, H, W), uint8 or float -> (3, *size_of(H, W)) of the same type, contiguous."""
        from .pixels import resize

        if self.size is None:
            return image.contiguous()
        return resize(image, self.size_of(image.shape[-2], image.shape[-1]), self.resample)

    def read(self, file: ImageFile, expected: tuple[int, int] | None = None) -> Tensor:
        """An image file, decoded, turned upright and resized, in memory that is bounded for large images.

        Args:
            expected: height and width that it should have, see `read.read_resized`.

        Returns:
            uint8 (3, h, w)

        Raises:
            OSError: see `read.read_image`.
        """
        from .read import read_resized

        return read_resized(file, self.size_of, self.resample, expected)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(…, 3, H, W), uint8 or float -> float32, rescaled and normalised, on the same device; padding like any pixel."""
        from .pixels import normalize

        return normalize(pixels, self.mean, self.std, self.rescale_factor)

    def resize_array(self, image: np.ndarray) -> np.ndarray:
        """`resize` without PyTorch, of uint8 (3, H, W)."""
        return resize_array(image, self.size_of(*image.shape[1:]), self.resample)

    def read_array(self, file: ImageFile, expected: tuple[int, int] | None = None) -> np.ndarray:
        """`read` without PyTorch."""
        return read_array(file, self.size_of, self.resample, expected)

    def normalize_array(self, pixels: np.ndarray) -> np.ndarray:
        """`normalize` without PyTorch."""
        return normalize_array(pixels, self.mean, self.std, self.rescale_factor)


def to_canvas(images: Sequence[Tensor], size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor | None]:
    """Images as one tensor, each in the top left corner of a canvas.

    Args:
        images: at least one, each (C, H_i, W_i), of one type, on one device.
        size: (height, width) of the canvas; None for the greatest height and the greatest width.

    Returns:
        the canvases (B, C, H, W), and the pixel mask, bool (B, H, W), True = real, False = padding; None where nothing is
        padded, which models compute faster.

    Raises:
        ValueError: no images, or one larger than the canvas.
    """
    import torch

    from .pixels import pad

    shapes = {tuple(image.shape[-2:]) for image in images}
    if len(shapes) == 1 and (size is None or shapes == {size}):
        return torch.stack(list(images)), None
    return pad(images, size)
