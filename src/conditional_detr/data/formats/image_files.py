"""Which of the images that a data set lists are there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def exist(folder: Path, names: Sequence[str]) -> list[bool]:
    """Which of these files a folder has. Folders are listed once: faster than a look per file. Only what is not listed
    is looked for by itself: file systems that ignore case or spell accents differently open it by this name, too."""
    listed: dict[Path, set[str]] = {}
    found = []
    for name in names:
        file = folder / name
        if file.parent not in listed:
            listed[file.parent] = _listed(file.parent)
        found.append(file.name in listed[file.parent] or _is_file(file))
    return found


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):  # a name that the file system cannot have
        return False
