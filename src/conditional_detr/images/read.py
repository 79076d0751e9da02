"""Images of every kind -> RGB tensors.

Files and PIL images become uint8; arrays and tensors keep float values as they are, since only the caller knows their
range. Decoded images are (3, H, W) views of interleaved memory: resizing is faster on it (measured: 0.5 against 1.4 ms
from 480 x 640 to 800 x 1066), and `pixels.resize` returns planes.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from ..messages import one_line, printable
from .pixels import resize

logger = logging.getLogger(__name__)

ImageFile = str | os.PathLike[str] | bytes | IO[bytes]  # what `read_image` opens

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CHANNELS = (1, 3, 4)
# Of 16-bit values their 8 bits: v / 257, rounded. No value lies in the middle between two.
_FROM_16_BIT = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)
LARGE = 2**24  # pixels: above, an image is resized in bands as it is converted, `BAND` pixels at a time
BAND = 2**20
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


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
        expected: height and width that the file should have as it is seen; see `_seen_as`.

    Returns:
        uint8 (3, H, W), 0..255; not necessarily contiguous.

    Raises:
        OSError: no such file, not an image, or a damaged one; the message is one line that names the file.
        ValueError: a PIL image of a mode that Pillow cannot convert to RGB (LAB, in older versions).
    """
    if isinstance(source, Image.Image):
        return _pil_to_tensor(source)
    with _opened(source) as image:
        whole = None
        if least_side is not None and image.format == "JPEG":
            whole = image.height, image.width
            image.draft(image.mode, (least_side, least_side))
        if not exif:
            return _rows(image, 1)
        orientation = _loaded_orientation(image)  # which turns a TIFF file, so that its size is known only now
        return _rows(image, _seen_as(whole or (image.height, image.width), orientation, expected))


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
        expected: height and width that the image should have as it is seen; see `_seen_as`.

    Returns:
        uint8 (3, *size_of(height, width)), contiguous.

    Raises:
        OSError: see `read_image`.
    """
    with _opened(source) as image:
        orientation = _loaded_orientation(image)  # which turns a TIFF file, so that its size is known only now
        stored = image.height, image.width
        orientation = _seen_as(stored, orientation, expected)
        height, width = _turned(stored, orientation)
        size = size_of(height, width)
        if height * width <= LARGE:
            return resize(_rows(image, orientation), size, resample)
        step = max(1, BAND // width)
        bands = [(top, min(top + step, height)) for top in range(0, height, step)]
        peak = None
        if image.mode in ("I", "F"):  # whose range hangs on all of the image
            peak = max(_peak(torch.from_numpy(np.array(_upright(image, orientation, *band)))) for band in bands)
        narrow = torch.empty(3, height, size[1], dtype=torch.uint8)
        for top, bottom in bands:
            rows = _rows(image, orientation, top, bottom, peak)
            narrow[:, top:bottom] = resize(rows, (bottom - top, size[1]), resample)
        return resize(narrow, size, resample)


def image_size(source: ImageFile) -> tuple[int, int]:
    """Height and width of an image file as it is seen, from its header alone; the pixels may be damaged.

    Raises:
        OSError: see `read_image`.
    """
    return image_sizes(source)[0]


def image_sizes(source: ImageFile) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of an image file as its EXIF orientation turns it, and as the file has them, from its header alone.

    Raises:
        OSError: see `read_image`.
    """
    with _opened(source) as image:
        stored = image.height, image.width
        # Pillow would decode all of a PNG to see whether its EXIF block comes after the pixels.
        if image.format == "PNG" and "exif" not in image.info and not _has_late_text(image.fp):  # type: ignore[attr-defined]
            return _turned(stored, _orientation(Image.Image.getexif(image))), stored
        return _turned(stored, _loaded_orientation(image, load=False)), stored


@contextmanager
def warnings_of(name: str | os.PathLike[str]) -> Iterator[None]:
    """Log what Python's warnings say within, each once, in a line that names a file. For one thread at a time."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(one_line(warning.message) for warning in caught):
        logger.warning("%s: %s", printable(name), message)


@contextmanager
def _opened(source: ImageFile) -> Iterator[Image.Image]:
    """Open an image file; whatever fails then, and within, becomes an OSError of one line that names the file."""
    file: Any = source
    if isinstance(source, bytes | bytearray | memoryview):
        name, file = "the bytes given", io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        name = printable(source)
        refuse_url(name)
    else:
        name = str(getattr(source, "name", f"the {type(source).__name__} given"))
    try:
        if file is source and isinstance(source, str | os.PathLike):
            check_is_file(source)
        with Image.open(file) as image:
            if 0 in image.size:
                raise ValueError("it has no pixels")
            yield image
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{name}: a folder, not an image") from None
    except PermissionError:
        raise PermissionError(f"{name}: not allowed to read this file") from None
    except NotAFileError:
        raise
    except Image.UnidentifiedImageError:
        reason = "the file is empty" if _is_empty(file) else "not an image of a known format"
        raise OSError(f"{name}: {reason}") from None
    except (
        Exception
    ) as error:  # Pillow's decoders raise nearly everything on damaged files: SyntaxError, struct.error, …
        raise OSError(f"{name}: cannot be decoded: {one_line(error)}") from error


class NotAFileError(OSError):
    """A pipe, a socket or a device: opening it could wait for ever."""


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Raises OSError unless `path` is a regular file, which alone can be opened without waiting."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{printable(path)}: a folder, not a file")
    if not stat.S_ISREG(mode):
        raise NotAFileError(f"{printable(path)}: a pipe or a device, not a file; copy what it gives into one")


def refuse_url(name: str) -> None:
    """Raises ValueError for an address on the network."""
    if _URL.match(name):
        raise ValueError(
            f"{name} is an address, and images are not downloaded here: download it, and give the file or its bytes"
        )


def as_rgb_tensor(image: Any, input_data_format: str | None = None) -> Tensor:
    """One image of any supported kind as an RGB tensor.

    Args:
        image: a path, the bytes of a file, an open file, a PIL image, or a NumPy array or tensor of shape (H, W), (C, H, W)
            or (H, W, C), C in {1, 3, 4}; a fourth channel is alpha and is dropped. uint16 counts as 16-bit (/257), other integers like PIL's `I`
            (see `read_image`), booleans as black and white; floats are not rescaled.
        input_data_format: "channels_first" or "channels_last" for arrays; None finds out from the shape, channels first
            where both are possible.

    Returns:
        (3, H, W), uint8, or float32 for arrays and tensors of floats; on the tensor's own device.

    Raises:
        OSError: see `read_image`.
        TypeError: none of these kinds.
        ValueError: a shape or a number of channels that is no image; or an address (URL).
    """
    if isinstance(image, Image.Image) or is_image_file(image):
        return read_image(image)
    if isinstance(image, np.ndarray):
        # Torch warns about arrays that it could write through but must not, and has no negative strides.
        if not image.flags.writeable or any(stride < 0 for stride in image.strides):
            image = image.copy()
        tensor = torch.from_numpy(image)
    elif isinstance(image, Tensor):
        tensor = image.detach().as_subclass(Tensor)
    else:
        raise TypeError(
            "an image must be a path, a PIL image, an array, a tensor, an open file or the bytes of one, got "
            f"{type(image).__name__}"
        )
    tensor = _to_chw(tensor, input_data_format)
    tensor = tensor[:3] if len(tensor) == 4 else tensor.expand(3, -1, -1)
    if tensor.is_floating_point():
        return tensor.float()
    if tensor.dtype == torch.bool:
        return tensor.to(torch.uint8) * 255
    if tensor.dtype == torch.uint16:
        if tensor.device.type == "cpu":
            return torch.from_numpy(_FROM_16_BIT[tensor.numpy()])
        return _scale_to_uint8(tensor.to(torch.int32), 65535)
    return tensor if tensor.dtype == torch.uint8 else _guess_to_uint8(tensor)


def is_image_file(source: Any) -> bool:
    """Whether this is what `read_image` opens: a path, bytes or an open file."""
    return isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(source, "read")


def image_list(images: Any) -> list[Any]:
    """One image, a batch (an array or tensor of 4 dimensions), a list or a list of lists of images as a flat list."""
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in image_list(item)]
    if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4:
        return list(images)
    return [images]


def _seen_as(stored: tuple[int, int], orientation: int, expected: tuple[int, int] | None) -> int:
    """How to turn an image: as its EXIF orientation says, unless it is of the expected height and width only as the file
    has it. Those who annotate see one or the other."""
    return 1 if expected is not None and _turned(stored, orientation) != expected == stored else orientation


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width once turned upright."""
    return (size[1], size[0]) if orientation >= 5 else size


def _upright(image: Image.Image, orientation: int, top: int = 0, bottom: int | None = None) -> Image.Image:
    """Some rows of an image, or all of them, counted once it is turned upright."""
    if top or bottom is not None:
        height, width = _turned((image.height, image.width), orientation)
        bottom = height if bottom is None else bottom
        first, last = (height - bottom, height - top) if orientation in (3, 4, 7, 8) else (top, bottom)
        image = image.crop((first, 0, last, width) if orientation >= 5 else (0, first, width, last))
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rows(
    image: Image.Image, orientation: int, top: int = 0, bottom: int | None = None, peak: float | None = None
) -> Tensor:
    """`_upright` as RGB. (3, rows, W) uint8"""
    return _pil_to_tensor(_upright(image, orientation, top, bottom), peak)


def _pil_to_tensor(image: Image.Image, peak: float | None = None) -> Tensor:
    """peak: see `_guess_to_uint8`."""
    if image.mode.startswith("I;16"):
        return torch.from_numpy(_FROM_16_BIT[np.asarray(image)]).expand(3, -1, -1)
    if image.mode in ("I", "F"):
        return _guess_to_uint8(torch.from_numpy(np.array(image)), peak).expand(3, -1, -1)
    if image.mode == "RGBa" or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")  # from "P" Pillow would warn, from premultiplied alpha it has no other way
    elif image.mode == "La":
        image = image.convert("LA")
    if image.mode != "RGB":
        image = image.convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _guess_to_uint8(values: Tensor, peak: float | None = None) -> Tensor:
    """Numbers of a type that declares no range, as `read_image` says for PIL's `I` and `F`, to uint8.

    Args:
        peak: the greatest of the whole image, where these are some rows of it.
    """
    peak = _peak(values) if peak is None else peak
    if values.is_floating_point() and peak <= 1:
        return _scale_to_uint8(values, 1)
    return _scale_to_uint8(values, 255 if peak <= 255 else 65535)


def _peak(values: Tensor) -> float:
    return values.nan_to_num(nan=0.0).max().item() if values.numel() else 0


def _scale_to_uint8(values: Tensor, full_scale: int) -> Tensor:
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


def _loaded_orientation(image: Image.Image, load: bool = True) -> int:
    """Decode an image and return its EXIF orientation, 1 (upright) to 8; 1 as well where the EXIF block is damaged, since
    the pixels may still be good."""
    if load:
        image.load()
    try:
        return _orientation(image.getexif())
    except Exception:
        return 1


def _orientation(exif: Image.Exif) -> int:
    try:
        orientation = int(exif.get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _has_late_text(file: Any) -> bool:
    """Whether a PNG file has, after its pixels, a block in which an orientation may stand. Leaves the file's position."""
    position = file.tell()
    try:
        file.seek(8)
        seen_pixels = False
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            seen_pixels |= kind == b"IDAT"
            if seen_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(length + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(position)


def _is_empty(file: Any) -> bool:
    if isinstance(file, str | os.PathLike):
        return os.stat(file).st_size == 0
    file.seek(0)
    return not file.read(1)
