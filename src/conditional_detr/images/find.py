"""Picture files by path, folder or pattern."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..messages import printable
from .open_file import check_is_file, refuse_url

# Formats that Pillow knows by name and that hold no picture, or one that other programs must draw.
NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name not in NOT_PICTURES and name in Image.OPEN
) | {".mpo"}  # opened as JPEG


def find_images(patterns: Sequence[str]) -> list[Path]:
    """The image files that paths, folders (searched through) and glob patterns name; sorted, each once.

    Raises:
        FileNotFoundError: one of them names nothing.
        OSError: one is a pipe or a device.
        ValueError: one is an address on the network.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        refuse_url(pattern)
        path = Path(pattern)
        is_folder = os.path.isdir(path)
        if is_folder:
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        elif os.path.exists(path):
            check_is_file(path)
            files = [path]
        else:
            files = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if os.path.isfile(p))
        if not files:
            what = "holds no images" if is_folder else "is neither a file, a folder nor a pattern that matches any"
            raise FileNotFoundError(f"{printable(pattern)} {what}")
        found.update(dict.fromkeys(files))
    return list(found)
