"""Opening image files: what is none, or damaged, becomes an error of one line that names it."""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image

from ..messages import one_line, printable

logger = logging.getLogger(__name__)

ImageFile = str | os.PathLike[str] | bytes | IO[bytes]  # what `read_image` opens
# What to do about an image that cannot be read, in commands that can go on without it.
REPAIR = "Repair or remove it, or leave such images out with --skip_bad_images true"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@contextmanager
def opened(source: ImageFile) -> Iterator[Image.Image]:
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


def is_image_file(source: Any) -> bool:
    """Whether this is what `read_image` opens: a path, bytes or an open file."""
    return isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(source, "read")


@contextmanager
def warnings_of(name: str | os.PathLike[str]) -> Iterator[None]:
    """Log what Python's warnings say within, each once, in a line that names a file. For one thread at a time."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(one_line(warning.message) for warning in caught):
        logger.warning("%s: %s", printable(name), message)


def _is_empty(file: Any) -> bool:
    if isinstance(file, str | os.PathLike):
        return os.stat(file).st_size == 0
    file.seek(0)
    return not file.read(1)
