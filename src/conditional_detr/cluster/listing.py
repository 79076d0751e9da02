"""Which pictures there are, in what order: one name after another, so that a list of any length is never held."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from ..images.find import SUFFIXES
from ..images.open_file import check_is_file
from ..messages import printable
from .places import Place

COLUMNS = (
    "path",
    "file",
    "uri",
    "url",
    "file_name",
    "image",
)  # of Parquet files, in which names of pictures are looked for
_WILD = frozenset("*?[")


def pictures_of(images: Sequence[str]) -> Iterator[str]:
    """The pictures that these name: absolute paths, and addresses.

    Args:
        images: pictures, folders (searched through), glob patterns; text files with a name a line, and Parquet files with a
            column of names (see `COLUMNS`). Relative names are of the current folder, wherever they stand.

    Raises:
        OSError: one of them is not there, names no picture, or cannot be read.
        ValueError: a Parquet file has no such column.
    """
    for name in images:
        found = False
        for picture in _named_by(name):
            found = True
            yield picture
        if not found:
            raise FileNotFoundError(f"{printable(name)} names no pictures")


def _named_by(name: str) -> Iterator[str]:
    place = Place.of(name)
    kind = place.kind() if place.path is None or os.path.exists(name) else ""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".parquet" and kind:
        return _of_parquet(place)
    if kind == "folder":
        return _of_folder(place)
    if kind and suffix == ".txt":
        return _of_text(place)
    if kind:
        if place.path is not None:
            check_is_file(place.path)
        return iter([place.name])
    if _WILD & set(name):
        return _of_pattern(place)
    raise FileNotFoundError(f"{printable(name)} is neither a file, a folder nor a pattern that matches any")


def _of_text(place: Place) -> Iterator[str]:
    for line in place.lines():
        if name := os.fsdecode(line.rstrip(b"\r\n")):
            yield Place.of(name).name


def _of_parquet(place: Place) -> Iterator[str]:
    from pyarrow import dataset, types

    system, path = place.opened()
    table = dataset.dataset(path, filesystem=system, format="parquet")
    texts = [field.name for field in table.schema if types.is_string(field.type) or types.is_large_string(field.type)]
    column = next((name for name in COLUMNS if name in texts), texts[0] if len(texts) == 1 else None)
    if column is None:
        raise ValueError(
            f"{place}: which column names pictures? It has {', '.join(table.schema.names)}; call it {COLUMNS[0]!r}"
        )
    for batch in table.to_batches(columns=[column], batch_size=10_000):
        for name in batch.column(0).to_pylist():
            if name:
                yield Place.of(name).name


def _of_folder(place: Place) -> Iterator[str]:
    """As `images.find` sorts them; the names of one folder at a time are held, and of those above it."""
    for name, is_folder in place.entries():
        if is_folder:
            yield from _of_folder(place / name)
        elif PurePosixPath(name).suffix.lower() in SUFFIXES:
            yield (place / name).name


def _of_pattern(place: Place) -> Iterator[str]:
    if place.path is not None:
        yield from (path for path in sorted(glob.glob(place.name, recursive=True)) if os.path.isfile(path))
        return
    fixed = place.name[: min(place.name.index(sign) for sign in _WILD if sign in place.name)].rpartition("/")[0]
    yield from (name for name in _of_folder(Place(fixed)) if fnmatch.fnmatchcase(name, place.name))


def line_of(name: str) -> bytes:
    """A picture in a list of pictures that is kept: JSON, in which any name is one line of ASCII."""
    return json.dumps(name).encode() + b"\n"


def names_in(lines: bytes) -> list[str]:
    """What `line_of` wrote."""
    return [json.loads(line) for line in lines.splitlines()]
