"""The steps from decoded images to the model's input, each usable alone: resize, normalize, pad.

Training pads uint8 images in the workers and normalises the batch on the device; the image processor does all of it on
the CPU. Both get the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvF

from .arrays import IMAGENET_MEAN, IMAGENET_STD


def resize(image: Tensor, size: tuple[int, int], resample: int = Image.Resampling.BILINEAR) -> Tensor:
    """An image at another size, antialiased.

    Args:
        image: (..., H, W), uint8 or float; uint8 is resized as uint8, rounded once.
        size: (height, width) in pixels.
        resample: PIL's number of the filter (2 = bilinear). Nearest takes the pixel whose centre is nearest.

    Returns:
        (..., height, width) of the same type, contiguous.
    """
    if image.dim() >= 3 and image.shape[-3] > 1 and image.stride(-3) == 0:  # grey: one channel is enough work
        return resize(image[..., :1, :, :], size, resample).expand(*image.shape[:-2], *size).contiguous()
    mode = interpolation_mode(resample)
    if mode == InterpolationMode.LANCZOS and image.device.type != "cpu":
        mode = InterpolationMode.BICUBIC  # torchvision has Lanczos on the CPU only
    return tvF.resize(image, list(size), interpolation=mode, antialias=True).contiguous()


def interpolation_mode(resample: int) -> InterpolationMode:
    """torchvision's name of PIL's resampling filter; nearest is the one that PIL computes, `NEAREST_EXACT`.

    Raises:
        ValueError: no such filter.
    """
    name = Image.Resampling(resample).name
    return InterpolationMode.NEAREST_EXACT if name == "NEAREST" else InterpolationMode[name]


def normalize(
    images: Tensor,
    mean: float | Sequence[float] | None = IMAGENET_MEAN,
    std: float | Sequence[float] | None = IMAGENET_STD,
    rescale_factor: float | None = 1 / 255,
    pixel_mask: Tensor | None = None,
) -> Tensor:
    """(images * rescale_factor - mean) / std, a channel at a time, on the images' device.

    Args:
        images: (..., 3, H, W), uint8 or float.
        mean, std: of the rescaled values; both None leaves them out.
        rescale_factor: None leaves it out.
        pixel_mask: (..., H, W), bool or numbers, 1 = real; padded cells come out as 0, as if padded after normalising.

    Returns:
        float32, of the shape of `images`.
    """
    pixel_values = images.to(torch.float32, copy=True)
    if mean is not None and std is not None:
        # Scaling the two constants instead of every pixel saves a pass.
        scale = 1.0 if rescale_factor is None else 1.0 / rescale_factor
        pixel_values.sub_(_constants(_hashable(mean), scale, images.device))
        pixel_values.div_(_constants(_hashable(std), scale, images.device))
    elif rescale_factor is not None:
        pixel_values.mul_(rescale_factor)
    if pixel_mask is not None:
        pixel_values.mul_(pixel_mask.unsqueeze(-3))
    return pixel_values


def pad(images: Sequence[Tensor], size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Images of different sizes on one canvas, each in its top left corner, the rest 0.

    Args:
        images: at least one, each (C, H_i, W_i), of one type, on one device.
        size: (height, width) of the canvas; None for the greatest height and the greatest width.

    Returns:
        the canvases, (B, C, H, W), of the images' type, and the pixel mask, bool (B, H, W), True = real, False = padding;
        both on the images' device.

    Raises:
        ValueError: no images, or one larger than the canvas.
    """
    if not images:
        raise ValueError("no images to pad")
    if size is None:
        size = max(image.shape[-2] for image in images), max(image.shape[-1] for image in images)
    canvas = images[0].new_zeros((len(images), images[0].shape[0], *size))
    pixel_mask = torch.zeros((len(images), *size), dtype=torch.bool, device=canvas.device)
    for index, image in enumerate(images):
        height, width = image.shape[-2:]
        if height > size[0] or width > size[1]:
            raise ValueError(f"image {index} is {height} x {width}, larger than the canvas of {size[0]} x {size[1]}")
        canvas[index, :, :height, :width] = image
        pixel_mask[index, :height, :width] = True
    return canvas, pixel_mask


def _hashable(values: float | Sequence[float]) -> float | tuple[float, ...]:
    return values if isinstance(values, int | float) else tuple(values)


@lru_cache(maxsize=64)
def _constants(values: float | tuple[float, ...], scale: float, device: torch.device) -> Tensor:
    """values * scale, a number or one a channel, to be spread over (..., C, H, W). Made once for a device, since each copy
    to it would make the host wait. Shared, so not to be changed."""
    with torch.inference_mode(False):  # training may be the next to use them
        return (torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1) * scale).to(device)
