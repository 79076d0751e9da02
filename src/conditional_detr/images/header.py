"""What the header of an image file says, without its pixels."""

from __future__ import annotations

from PIL import Image

from .open_file import ImageFile, opened
from .orientation import has_late_text, loaded_orientation, orientation_of, turned


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
    with opened(source) as image:
        stored = image.height, image.width
        # Pillow would decode all of a PNG to see whether its EXIF block comes after the pixels.
        if image.format == "PNG" and "exif" not in image.info and not has_late_text(image.fp):  # type: ignore[attr-defined]
            return turned(stored, orientation_of(Image.Image.getexif(image))), stored
        return turned(stored, loaded_orientation(image, load=False)), stored
