"""Pixels of every kind -> RGB. PyTorch is needed for tensors alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

BAND = 2**20  # pixels that are converted at a time: copies of all of a large image would fill memory
_CHANNELS = (1, 3, 4)
_GREY = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # PIL's modes of one channel
# Of 16-bit values their 8 bits: v / 257, rounded. No value lies in the middle between two.
FROM_16_BIT = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)


def pil_to_rgb(image: Image.Image, peak: float | None = None, keep: Collection[int] = ()) -> Tensor:
    """A PIL image as RGB, uint8 (3, H, W); see `read.read_image`. peak: see `guess_to_uint8`; keep: see `read.as_rgb_tensor`."""
    import torch

    if 4 in keep and image.mode == "RGBA":
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    values = torch.from_numpy(pil_to_array(image, peak))
    if values.ndim == 3:
        values = values.permute(2, 0, 1)
        return values[:1] if 1 in keep and image.mode in _GREY else values
    return values[None] if 1 in keep else values.expand(3, -1, -1)


def pil_to_array(image: Image.Image, peak: float | None = None) -> np.ndarray:
    """A PIL image as RGB, uint8 (H, W, 3), or (H, W) of grey modes with more than eight bits. peak: see `guess_to_uint8`."""
    if image.mode.startswith("I;16"):
        return FROM_16_BIT[np.asarray(image)]
    if image.mode in ("I", "F"):
        return guess_to_uint8(np.array(image), peak)
    return np.array(_plain_rgb(image))


def pil_as_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of mode RGB, of the pixels that `pil_to_array` gives."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(pil_to_array(image)).convert("RGB")
    return _plain_rgb(image)


def _plain_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGBa" or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")  # from "P" Pillow would warn, from premultiplied alpha it has no other way
    elif image.mode == "La":
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")


def array_to_rgb(
    image: np.ndarray | Tensor, input_data_format: str | None = None, keep: Collection[int] = ()
) -> Tensor:
    """An array or tensor as RGB; see `read.as_rgb_tensor`.

    Raises:
        ValueError: a shape or a number of channels that is no image.
    """
    import torch

    if isinstance(image, np.ndarray):
        values = numbers_to_rgb(image, input_data_format, keep)
        # Torch warns about arrays that it could write through but must not, and has no negative strides.
        if not values.flags.writeable or any(stride < 0 for stride in values.strides):
            values = values.copy()
        return torch.from_numpy(values)
    tensor = image.detach().as_subclass(torch.Tensor)
    layout = _layout(tuple(tensor.shape), input_data_format)
    tensor = tensor[None] if layout == "hw" else tensor.permute(2, 0, 1) if layout == "hwc" else tensor
    if tensor.dtype not in (torch.uint8, torch.bool) and not tensor.is_floating_point():
        return torch.from_numpy(numbers_to_rgb(tensor.cpu().numpy(), "channels_first", keep).copy()).to(tensor.device)
    if len(tensor) not in keep:
        tensor = tensor[:3] if len(tensor) == 4 else tensor.expand(3, -1, -1)
    if tensor.is_floating_point():
        return tensor.float()
    return tensor.to(torch.uint8) * 255 if tensor.dtype == torch.bool else tensor


def numbers_to_rgb(image: np.ndarray, input_data_format: str | None = None, keep: Collection[int] = ()) -> np.ndarray:
    """An array of any layout and type as RGB, uint8 or float32 (3, H, W); see `read.as_rgb_tensor`.

    Raises:
        ValueError: a shape or a number of channels that is no image.
    """
    layout = _layout(image.shape, input_data_format)
    values = image[None] if layout == "hw" else image.transpose(2, 0, 1) if layout == "hwc" else image
    if len(values) not in keep:
        values = values[:3] if len(values) == 4 else np.broadcast_to(values, (3, *values.shape[1:]))
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return FROM_16_BIT[values]
    return values if values.dtype == np.uint8 else guess_to_uint8(values)


def guess_to_uint8(values: np.ndarray, peak: float | None = None) -> np.ndarray:
    """Numbers of a type that declares no range, as `read_image` says for PIL's `I` and `F`, to uint8.

    Args:
        peak: the greatest of the whole image, where these are some rows of it.
    """
    peak = peak_of(values) if peak is None else peak
    if values.dtype.kind == "f" and peak <= 1:
        return scale_to_uint8(values, 1)
    return scale_to_uint8(values, 255 if peak <= 255 else 65535)


def peak_of(values: np.ndarray) -> float:
    """The greatest value that is a number; 0 where there are none."""
    return float(np.nan_to_num(values, nan=0.0).max()) if values.size else 0


def scale_to_uint8(values: np.ndarray, full_scale: int) -> np.ndarray:
    """Values from 0 to `full_scale` to 0..255, rounded; what lies outside is clipped, NaN is 0."""
    if values.dtype.kind != "f" and full_scale == 255:
        return values.clip(0, 255).astype(np.uint8)
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, BAND * values.shape[-2] // max(1, values.size))  # at a time: float64 takes eight times the memory
    for top in range(0, values.shape[-2], rows):
        exact = values[..., top : top + rows, :].astype(np.float64) * (255 / full_scale)
        scaled[..., top : top + rows, :] = np.rint(np.nan_to_num(exact, nan=0.0)).clip(0, 255)
    return scaled


def _layout(shape: tuple[int, ...], input_data_format: str | None) -> Literal["hw", "chw", "hwc"]:
    """Which axes are channels (1, 3 or 4), height and width."""
    layout = getattr(input_data_format, "value", input_data_format)
    if layout not in (None, "none", "channels_first", "channels_last"):
        raise ValueError(f"input_data_format must be 'channels_first' or 'channels_last', got {layout!r}")
    found: Literal["hw", "chw", "hwc"] = "chw"
    if len(shape) == 2:
        found = "hw"
    elif len(shape) != 3:
        raise ValueError(f"an image must have 2 or 3 dimensions, got the shape {shape}")
    elif layout == "channels_last" or (layout != "channels_first" and shape[0] not in _CHANNELS):
        found = "hwc"
    channels = {"hw": 1, "chw": shape[0], "hwc": shape[-1]}[found]
    if channels not in _CHANNELS:
        raise ValueError(f"an image must have 1, 3 or 4 channels, first or last, got the shape {shape}")
    if 0 in shape:
        raise ValueError(f"an image must have pixels, got the shape {shape}")
    return found
