"""The arguments of an image processor: what they may be, and which names older versions of transformers gave them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

import numpy as np
from PIL import Image

from ..images.sizes import size_dict
from ..messages import shown

# Names that older versions gave to `do_pad` and to `size["longest_edge"]`.
OLDER_NAMES = ("pad_and_return_pixel_mask", "max_size")
FORMATS = ("coco_detection", "coco_panoptic")
# What may be given in a call as in transformers, and changes nothing: images always become RGB, channels first.
WITHOUT_EFFECT = ("data_format", "default_to_square", "disable_grouping", "do_convert_rgb")
# The filters that work on tensors.
RESAMPLING = tuple(Image.Resampling[name] for name in ("NEAREST", "LANCZOS", "BILINEAR", "BICUBIC"))
# No real picture or scale comes near these: what passes them is a slip or a damaged file.
MOST_PIXELS = 1_000_000  # of a side that is asked for, or of its limit; what memory holds is checked with the picture
RESCALE_FACTORS = (1e-12, 1e6)
MEANS = (-1e6, 1e6)
DEVIATIONS = (1e-6, 1e6)


def known_format(format: Any) -> str:
    """The name of an annotations' format, given as text or as transformers' enumeration.

    Raises:
        ValueError: none of `FORMATS`.
    """
    name = getattr(format, "value", format)
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {shown(name)}")
    return name


def pil_resample(resample: Any) -> int:
    """A filter, named in PIL's or torchvision's way, as PIL's number.

    Raises:
        ValueError: none of `RESAMPLING`.
    """
    name = getattr(resample, "name", None)
    names = {filter.name: filter.value for filter in RESAMPLING}
    filter_number = names.get("NEAREST" if name == "NEAREST_EXACT" else str(name), resample)
    if isinstance(filter_number, bool) or filter_number not in RESAMPLING:
        raise ValueError(f"resample must be a PIL filter, one of {names}, got {shown(resample)}")
    return int(filter_number)


def per_channel(
    name: str, values: Any, low: float, high: float, channels: Collection[int] = (3,)
) -> float | tuple[float, ...]:
    """A number, or one a channel, each from `low` to `high`. channels: how many there may be.

    Raises:
        ValueError: it is not; the message names it.
    """
    if isinstance(values, Real):
        return number(name, values, low, high)
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, list | tuple) or len(listed) not in channels:
        counts = " or ".join(map(str, channels))
        raise ValueError(f"{name} must be a number or {counts}, one a channel, got {shown(values)}")
    return tuple(number(name, value, low, high) for value in listed)


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number from `low` to `high`.

    Raises:
        ValueError: it is not; the message names it.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or value < low or not value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {shown(value)}")
    return float(value)


def switch(name: str, value: Any) -> bool:
    """True or false.

    Raises:
        ValueError: neither; the message names it.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
    return bool(value)


def bounded(name: str, size: dict[str, int]) -> dict[str, int]:
    """A size, as it is.

    Raises:
        ValueError: a side is longer than `MOST_PIXELS`; the message names it.
    """
    for side, pixels in size.items():
        if pixels > MOST_PIXELS:
            raise ValueError(f"{name}: {side} must be at most {MOST_PIXELS} pixels, got {shown(pixels)}")
    return size


def replaced(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A processor's arguments, `overrides` in place of `values`: older names there replace newer ones here."""
    given = {**values, **overrides}
    if overrides.get("pad_and_return_pixel_mask") is not None and overrides.get("do_pad") is None:
        given["do_pad"] = given.pop("pad_and_return_pixel_mask")
    if overrides.get("max_size") is not None and overrides.get("size") is None:
        given["size"] = {**size_dict(given.get("size")), "longest_edge": given.pop("max_size")}
    return given
