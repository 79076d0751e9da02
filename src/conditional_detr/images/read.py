"""Images of every kind -> RGB tensors.

Files and PIL images become uint8; arrays and tensors keep float values as they are, since only the caller knows their
range. Decoded images are (3, H, W) views of interleaved memory: resizing is faster on it (measured: 0.5 against 1.4 ms
from 480 x 640 to 800 x 1066), and `pixels.resize` returns planes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .open_file import ImageFile, is_image_file, opened
from .orientation import loaded_orientation, seen_as, turned, upright
from .pixels import resize
from .rgb import BAND, array_to_rgb, peak_of, pil_to_rgb

LARGE = 2**24  # pixels: above, an image is resized in bands as it is converted, `BAND` pixels at a time


def read_image(
    source: ImageFile | Image.Image,
    exif: bool = True,
    least_side: int | None = None,
    expected: tuple[int, int] | None = None,
) -> Tensor:
    """An image file or PIL image as RGB.

    Grey and bilevel images are repeated over the channels, palettes looked up, CMYK converted, alpha dropped.
    16-bit grey becomes 8-bit by /257. PIL's modes `I` and `F` declare no range: up to 255 their values are taken as
    8-bit (`F`: up to 1 as 0..1), above it as 16-bit.

    Args:
        source: path of an image file, its bytes, or an open file (which is read from its beginning); or a PIL image of any
            mode.
        exif: turn the image upright as its EXIF orientation says. Applies to files only: a PIL image is taken as it is.
        least_side: decode a JPEG file at 1/2, 1/4 or 1/8 of its size (sides rounded up), as long as no side gets shorter
            than this: several times faster for large photographs that will be made small anyway.
        expected: height and width that the file should have as it is seen; see `seen_as`.

    Returns:
        uint8 (3, H, W), 0..255; not necessarily contiguous.

    Raises:
        OSError: no such file, not an image, or a damaged one; the message is one line that names the file.
        ValueError: a PIL image of a mode that Pillow cannot convert to RGB (LAB, in older versions).
    """
    if isinstance(source, Image.Image):
        return pil_to_rgb(source)
    with opened(source) as image:
        whole = None
        if least_side is not None and image.format == "JPEG":
            whole = image.height, image.width
            image.draft(image.mode, (least_side, least_side))
        if not exif:
            return _rows(image, 1)
        orientation = loaded_orientation(image)  # which turns a TIFF file, so that its size is known only now
        return _rows(image, seen_as(whole or (image.height, image.width), orientation, expected))


def read_resized(
    source: ImageFile,
    size_of: Callable[[int, int], tuple[int, int]],
    resample: int = Image.Resampling.BILINEAR,
    expected: tuple[int, int] | None = None,
) -> Tensor:
    """`pixels.resize(read_image(source), …)`, in memory that is bounded for large images: beside what Pillow holds (at most
    4 bytes a pixel) there are one band of it and the result.

    In bands the rows are resized first, then the columns, as PyTorch does it too; where its resize of uint8 has no native
    code (x86 before AVX2) the two may differ by 1.

    Args:
        size_of: called with height and width of the image as it is seen, says which it is to have.
        resample: PIL's number of the filter.
        expected: height and width that the image should have as it is seen; see `seen_as`.

    Returns:
        uint8 (3, *size_of(height, width)), contiguous.

    Raises:
        OSError: see `read_image`.
    """
    with opened(source) as image:
        picture = LoadedPicture(image, expected)
        return picture.resized(size_of(*picture.size), resample)


class LoadedPicture:
    """An image file, decoded, of which any rows and any size are made as they are asked for: Pillow holds it (at most 4
    bytes a pixel), and little is held beside.

    Args:
        image: as `opened` gives it; it may be closed once this is made.
        expected: height and width that the image should have as it is seen; see `seen_as`.

    Attributes:
        size: height and width as it is seen.
    """

    def __init__(self, image: Image.Image, expected: tuple[int, int] | None = None) -> None:
        orientation = loaded_orientation(image)  # which turns a TIFF file, so that its size is known only now
        stored = image.height, image.width
        self._image, self._orientation = image, seen_as(stored, orientation, expected)
        self.size = turned(stored, self._orientation)

    def rows(self, top: int, bottom: int) -> Tensor:
        """Some rows as RGB. uint8 (3, bottom - top, width)"""
        return _rows(self._image, self._orientation, top, bottom, self._peak)

    def resized(self, size: tuple[int, int], resample: int = Image.Resampling.BILINEAR) -> Tensor:
        """All of it at another size; see `read_resized`. uint8 (3, *size), contiguous"""
        height, width = self.size
        if height * width <= LARGE:
            return resize(_rows(self._image, self._orientation), size, resample)
        narrow = torch.empty(3, height, size[1], dtype=torch.uint8)
        for top, bottom in self._bands():
            narrow[:, top:bottom] = resize(self.rows(top, bottom), (bottom - top, size[1]), resample)
        return resize(narrow, size, resample)

    def _bands(self) -> list[tuple[int, int]]:
        height, width = self.size
        step = max(1, BAND // width)
        return [(top, min(top + step, height)) for top in range(0, height, step)]

    @cached_property
    def _peak(self) -> float | None:
        """The greatest value, in modes whose range hangs on all of the image."""
        if self._image.mode not in ("I", "F"):
            return None
        bands = (upright(self._image, self._orientation, *band) for band in self._bands())
        return max(peak_of(np.array(band)) for band in bands)


def as_rgb_tensor(image: Any, input_data_format: str | None = None, keep: Collection[int] = ()) -> Tensor:
    """One image of any supported kind as an RGB tensor.

    Args:
        image: a path, the bytes of a file, an open file, a PIL image, or a NumPy array or tensor of shape (H, W), (C, H, W)
            or (H, W, C), C in {1, 3, 4}; a fourth channel is alpha and is dropped. uint16 counts as 16-bit (/257), other integers like PIL's `I`
            (see `read_image`), booleans as black and white; floats are not rescaled.
        input_data_format: "channels_first" or "channels_last" for arrays; None finds out from the shape, channels first
            where both are possible.
        keep: numbers of channels, 1 (grey) or 4 (with alpha), that PIL images, arrays and tensors keep if they have them.

    Returns:
        (3, H, W), or as `keep` says, uint8, or float32 for arrays and tensors of floats; on the tensor's own device.

    Raises:
        OSError: see `read_image`.
        TypeError: none of these kinds.
        ValueError: a shape or a number of channels that is no image; or an address (URL).
    """
    if isinstance(image, Image.Image):
        return pil_to_rgb(image, keep=keep)
    if is_image_file(image):
        return read_image(image)
    if isinstance(image, np.ndarray | Tensor):
        return array_to_rgb(image, input_data_format, keep)
    raise TypeError(
        f"an image must be a path, a PIL image, an array, a tensor, an open file or the bytes of one, got {type(image).__name__}"
    )


def _rows(
    image: Image.Image, orientation: int, top: int = 0, bottom: int | None = None, peak: float | None = None
) -> Tensor:
    """`upright` as RGB. (3, rows, W) uint8"""
    return pil_to_rgb(upright(image, orientation, top, bottom), peak)
