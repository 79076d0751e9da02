"""The pictures of a data set's folders: which there are, and how large they are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

# What people's data sets have; Pillow reads more.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
)


def exist(folder: Path, names: Sequence[str]) -> list[bool]:
    """Which of these files a folder has. Folders are listed once: faster than a look per file. Only what is not listed
    is looked for by itself: file systems that ignore case or spell accents differently open it by this name, too."""
    listed: dict[str, set[str]] = {}
    found = []
    for name in names:  # as text: a `Path` for each would take most of the time
        inner, file = os.path.split(name)
        if inner not in listed:
            listed[inner] = _listed(folder / inner)
        found.append(file in listed[inner] or _is_file(folder / name))
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


def files_with(folder: Path, suffixes: frozenset[str] | tuple[str, ...], below: bool = True) -> list[str]:
    """Names of the files in a folder, and below it, that end so, whatever their case; sorted, relative to it, with "/".
    Hidden ones are passed over: macOS leaves `._a.jpg` beside `a.jpg`."""
    found = [name for name in _walk(os.fspath(folder), "", below) if os.path.splitext(name)[1].lower() in suffixes]
    return sorted(found)


def _walk(folder: str, prefix: str, below: bool) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if below:
                yield from _walk(entry.path, f"{prefix}{entry.name}/", below)
        else:
            yield prefix + entry.name


def has_file_with(folder: Path, suffix: str) -> Path | None:
    """A file in a folder that ends so: the first of them by name."""
    names = files_with(folder, (suffix,), below=False)
    return folder / names[0] if names else None


def by_stem(names: Sequence[str]) -> dict[str, str]:
    """Names of files by what is before their suffix; of two the first."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(os.path.splitext(name)[0], name)
    return found
