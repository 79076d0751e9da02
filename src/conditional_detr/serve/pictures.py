"""Picture files from strangers: their headers are looked at before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..images.header import image_size
from ..images.open_file import opened
from ..predict.batches import canvas_of
from ..predict.detector import Detector
from ..predict.memory import free_memory, too_large
from .refusal import Refusal

# Formats that Pillow decodes by itself: others call other programs (EPS) or hold no pictures of cameras.
FORMATS = frozenset({"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"})


@dataclass(frozen=True)
class Picture:
    """A picture file whose header is good; its pixels may be damaged."""

    data: bytes = field(repr=False)
    size: tuple[int, int]  # height and width, turned upright
    canvas: tuple[int, int]  # height and width of what the model will see


def check_picture(data: bytes, detector: Detector, most_pixels: int) -> Picture:
    """Look at a picture file's header.

    Raises:
        Refusal: it is not a picture, of a format that is not taken, or too large.
    """
    try:
        with opened(data) as image:
            kind, width, height = image.format, image.width, image.height
        if kind not in FORMATS:
            raise Refusal(415, f"pictures of the format {kind} are not taken; send JPEG or PNG")
        if width * height > most_pixels:
            raise Refusal(413, f"a picture of {width}×{height} pixels is too large; {most_pixels} are taken")
        size = image_size(data)  # of a PNG whose EXIF comes last, this decodes it: not before the check above
    except OSError as error:
        raise Refusal(422, reason_of(error)) from None
    model = detector.model
    canvas = canvas_of(size, detector.processor.preprocessing, model.canvas_step)
    if reason := too_large(canvas, model.device, model.dtype, free_memory(model.device)):
        raise Refusal(413, reason)
    return Picture(data, size, canvas)


def reason_of(error: Exception) -> str:
    """What is wrong with a picture, without the name that bytes have not."""
    return str(error).removeprefix("the bytes given: ")
