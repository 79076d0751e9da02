"""Pixels of every kind -> RGB."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from PIL import Image
from torch import Tensor

BAND = 2**20  # pixels that are converted at a time: copies of all of a large image would fill memory
_CHANNELS = (1, 3, 4)
_GREY = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # PIL's modes of one channel
# Of 16-bit values their 8 bits: v / 257, rounded. No value lies in the middle between two.
FROM_16_BIT = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)


def pil_to_rgb(image: Image.Image, peak: float | None = None, keep: Collection[int] = ()) -> Tensor:
    """A PIL image as RGB, uint8 (3, H, W); see `read.read_image`. peak: see `guess_to_uint8`; keep: see `read.as_rgb_tensor`."""
    if 4 in keep and image.mode == "RGBA":
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if 1 in keep and image.mode in _GREY:
        return pil_to_rgb(image, peak)[:1]
    if image.mode.startswith("I;16"):
        return torch.from_numpy(FROM_16_BIT[np.asarray(image)]).expand(3, -1, -1)
    if image.mode in ("I", "F"):
        return guess_to_uint8(torch.from_numpy(np.array(image)), peak).expand(3, -1, -1)
    if image.mode == "RGBa" or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")  # from "P" Pillow would warn, from premultiplied alpha it has no other way
    elif image.mode == "La":
        image = image.convert("LA")
    if image.mode != "RGB":
        image = image.convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def array_to_rgb(
    image: np.ndarray | Tensor, input_data_format: str | None = None, keep: Collection[int] = ()
) -> Tensor:
    """An array or tensor as RGB; see `read.as_rgb_tensor`.

    Raises:
        ValueError: a shape or a number of channels that is no image.
    """
    if isinstance(image, Tensor):
        tensor = image.detach().as_subclass(Tensor)
    else:
        # Torch warns about arrays that it could write through but must not, and has no negative strides.
        if not image.flags.writeable or any(stride < 0 for stride in image.strides):
            image = image.copy()
        tensor = torch.from_numpy(image)
    tensor = _to_chw(tensor, input_data_format)
    if len(tensor) not in keep:
        tensor = tensor[:3] if len(tensor) == 4 else tensor.expand(3, -1, -1)
    if tensor.is_floating_point():
        return tensor.float()
    if tensor.dtype == torch.bool:
        return tensor.to(torch.uint8) * 255
    if tensor.dtype == torch.uint16:
        if tensor.device.type == "cpu":
            return torch.from_numpy(FROM_16_BIT[tensor.numpy()])
        return scale_to_uint8(tensor.to(torch.int32), 65535)
    return tensor if tensor.dtype == torch.uint8 else guess_to_uint8(tensor)


def guess_to_uint8(values: Tensor, peak: float | None = None) -> Tensor:
    """Numbers of a type that declares no range, as `read_image` says for PIL's `I` and `F`, to uint8.

    Args:
        peak: the greatest of the whole image, where these are some rows of it.
    """
    peak = peak_of(values) if peak is None else peak
    if values.is_floating_point() and peak <= 1:
        return scale_to_uint8(values, 1)
    return scale_to_uint8(values, 255 if peak <= 255 else 65535)


def peak_of(values: Tensor) -> float:
    """The greatest value that is a number; 0 where there are none."""
    return values.nan_to_num(nan=0.0).max().item() if values.numel() else 0


def scale_to_uint8(values: Tensor, full_scale: int) -> Tensor:
    """Values from 0 to `full_scale` to 0..255, rounded; what lies outside is clipped, NaN is 0."""
    if not values.is_floating_point() and full_scale == 255:
        return values.clamp(0, 255).to(torch.uint8)
    scaled = torch.empty_like(values, dtype=torch.uint8)
    rows = max(1, BAND * values.shape[-2] // max(1, values.numel()))  # at a time: float64 takes eight times the memory
    for part, result in zip(values.split(rows, dim=-2), scaled.split(rows, dim=-2), strict=True):
        exact = torch.nan_to_num(part.double() * (255 / full_scale), nan=0.0)
        result.copy_(exact.round_().clamp_(0, 255))
    return scaled


def _to_chw(tensor: Tensor, input_data_format: str | None) -> Tensor:
    """(C, H, W), C in {1, 3, 4}, from any of the three layouts."""
    shape = tuple(tensor.shape)
    layout = getattr(input_data_format, "value", input_data_format)
    if layout not in (None, "none", "channels_first", "channels_last"):
        raise ValueError(f"input_data_format must be 'channels_first' or 'channels_last', got {layout!r}")
    if tensor.ndim == 2:
        tensor = tensor[None]
    elif tensor.ndim != 3:
        raise ValueError(f"an image must have 2 or 3 dimensions, got the shape {shape}")
    elif layout == "channels_last" or (layout != "channels_first" and shape[0] not in _CHANNELS):
        tensor = tensor.permute(2, 0, 1)
    if tensor.shape[0] not in _CHANNELS:
        raise ValueError(f"an image must have 1, 3 or 4 channels, first or last, got the shape {shape}")
    if 0 in shape:
        raise ValueError(f"an image must have pixels, got the shape {shape}")
    return tensor
