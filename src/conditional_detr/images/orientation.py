"""Which way up a picture is: EXIF's orientation, 1 (upright) to 8."""

from __future__ import annotations

import os
import struct
from typing import Any

from PIL import ExifTags, Image

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def seen_as(stored: tuple[int, int], orientation: int, expected: tuple[int, int] | None) -> int:
    """How to turn an image: as its EXIF orientation says, unless it is of the expected height and width only as the file
    has it. Those who annotate see one or the other."""
    return 1 if expected is not None and turned(stored, orientation) != expected == stored else orientation


def turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width once turned upright."""
    return (size[1], size[0]) if orientation >= 5 else size


def upright(image: Image.Image, orientation: int, top: int = 0, bottom: int | None = None) -> Image.Image:
    """Some rows of an image, or all of them, counted once it is turned upright."""
    if top or bottom is not None:
        height, width = turned((image.height, image.width), orientation)
        bottom = height if bottom is None else bottom
        first, last = (height - bottom, height - top) if orientation in (3, 4, 7, 8) else (top, bottom)
        image = image.crop((first, 0, last, width) if orientation >= 5 else (0, first, width, last))
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def loaded_orientation(image: Image.Image, load: bool = True) -> int:
    """Decode an image and return its EXIF orientation, 1 (upright) to 8; 1 as well where the EXIF block is damaged, since
    the pixels may still be good."""
    if load:
        image.load()
    try:
        return orientation_of(image.getexif())
    except Exception:
        return 1


def orientation_of(exif: Image.Exif) -> int:
    """1 to 8; 1 as well where EXIF has no orientation, or a wrong one."""
    try:
        orientation = int(exif.get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1
    return orientation if orientation in _UPRIGHT else 1


def has_late_text(file: Any) -> bool:
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
