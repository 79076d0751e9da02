"""Where pictures are read: decoded and resized, in batches as one machine makes them, on any machine's cores."""

from __future__ import annotations

import io
import math
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow
import torch

from ..images.header import image_size
from ..images.open_file import ImageFile
from ..images.prepare import Preprocessing
from ..messages import printable
from ..predict.batches import batches_of_canvases, canvas_of
from ..remote import is_remote
from .listing import names_in
from .places import Place

AT_ONCE = 16  # files that are fetched at once from a bucket, which answers slowly and many
KEPT = 2**28  # bytes of fetched files that are kept until they are decoded; those beyond are fetched again


@dataclass(frozen=True)
class Batching:
    """How pictures are prepared and which share a batch: what a model on its device says, see `batches_of_canvases`."""

    preprocessing: Preprocessing
    batch_size: int
    window: int
    canvas_step: int
    few_sizes: bool
    device: str


@dataclass
class Batch:
    """Pictures of one canvas, of one part.

    Attributes:
        part: the name of its file.
        count: pictures in it.
        positions: of the pictures in the part.
        names, sizes: of the pictures; height and width as they are seen.
        shapes: (3, h, w) of each as the model takes it.
        unreadable: position and name of other pictures, and what is wrong with them.
    """

    part: str
    count: int
    positions: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    shapes: list[tuple[int, int, int]] = field(default_factory=list)
    unreadable: list[tuple[int, str, str]] = field(default_factory=list)

    def refuse(self, reason: str) -> None:
        """Let none of the pictures be computed."""
        self.unreadable += [
            (position, name, f"{printable(name)}: {reason}")
            for position, name in zip(self.positions, self.names, strict=True)
        ]
        self.positions, self.names, self.sizes, self.shapes = [], [], [], []


@dataclass(frozen=True)
class Planned:
    """Pictures of a part whose sizes are known beforehand, and which of them share a batch (by position)."""

    names: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    batches: Sequence[Sequence[int]]


class PartReader:
    """Reads parts of a list of pictures, or parts that are planned.

    Args:
        batching: how pictures become batches.
        pictures: the list.
    """

    def __init__(self, batching: Batching, pictures: Place | None = None) -> None:
        self.batching, self.pictures = batching, pictures

    def __call__(self, parts: pyarrow.Table) -> Iterator[pyarrow.Table]:
        """The batches of parts, each a row: what is in it, pickled, and the pixels of all its pictures."""
        torch.set_num_threads(1)
        for row in parts.to_pylist():
            if row["planned"]:
                planned: Planned = pickle.loads(row["planned"])
                files, sizes = _Files(planned.names), dict(enumerate(planned.sizes))
                for indices in planned.batches:
                    yield self._read(Batch(row["name"], row["count"]), 0, indices, files, sizes)
            else:
                assert self.pictures is not None, "a part that is not planned is of a list"
                names = names_in(self.pictures.read(row["offset"], row["length"]))
                for first in range(0, len(names), self.batching.window):
                    window = names[first : first + self.batching.window]
                    yield from self._of_window(row["name"], row["count"], first, window)

    def _of_window(self, part: str, count: int, first: int, names: Sequence[str]) -> Iterator[pyarrow.Table]:
        how = self.batching
        refused = Batch(part, count)
        sizes: dict[int, tuple[int, int]] = {}
        files = _Files(names)
        for i, name in enumerate(names):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    sizes[i] = image_size(files.file(i))
            except (OSError, ValueError) as error:
                refused.unreadable.append((first + i, name, str(error)))
        if refused.unreadable:
            yield _row(refused, [])
        readable = list(sizes)
        canvases = [canvas_of(sizes[i], how.preprocessing, how.canvas_step) for i in readable]
        for batch in batches_of_canvases(canvases, how.batch_size, torch.device(how.device), how.few_sizes):
            yield self._read(Batch(part, count), first, [readable[i] for i in batch], files, sizes)

    def _read(
        self, batch: Batch, first: int, indices: Sequence[int], files: _Files, sizes: Mapping[int, tuple[int, int]]
    ) -> pyarrow.Table:
        pixels = []
        for i in indices:
            name = files.names[i]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # which nobody would hear
                    image = self.batching.preprocessing.read(files.file(i), sizes[i])
            except (OSError, ValueError) as error:
                batch.unreadable.append((first + i, name, str(error)))
                continue
            finally:
                files.forget(i)
            batch.positions.append(first + i)
            batch.names.append(name)
            batch.sizes.append(sizes[i])
            batch.shapes.append((image.shape[0], image.shape[1], image.shape[2]))
            pixels.append(image.numpy().tobytes())
        return _row(batch, pixels)


def _row(batch: Batch, pixels: Sequence[bytes]) -> pyarrow.Table:
    return pyarrow.table({"batch": [pickle.dumps(batch)], "pixels": pyarrow.array([b"".join(pixels)], "large_binary")})


def images_of(batch: Batch, pixels: pyarrow.Buffer) -> list[torch.Tensor]:
    """The images that `PartReader` read, uint8 (3, h, w) each."""
    images, offset = [], 0
    for shape in batch.shapes:
        values = np.frombuffer(pixels, np.uint8, math.prod(shape), offset)
        images.append(torch.from_numpy(values.reshape(shape).copy()))  # Ray's memory cannot be written to
        offset += values.size
    return images


class _Fetched(io.BytesIO):
    """A file's contents, which messages call by its name."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name = printable(name)


class _Files:
    """The files of some pictures; those that are not on a disk are fetched, many at once."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._kept: dict[int, bytes | OSError] = {}
        remote = [i for i, name in enumerate(names) if is_remote(name)]
        size = 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for first in range(0, len(remote), AT_ONCE):
                if size >= KEPT:
                    break
                some = remote[first : first + AT_ONCE]
                for i, content in zip(some, pool.map(self._fetch, some), strict=True):
                    self._kept[i] = content
                    size += 0 if isinstance(content, OSError) else len(content)

    def _fetch(self, i: int) -> bytes | OSError:
        try:
            return Place(self.names[i]).read()
        except OSError as error:
            return error

    def file(self, i: int) -> ImageFile:
        """A path, or an open file. Raises OSError: it cannot be fetched."""
        if not is_remote(self.names[i]):
            return Path(self.names[i])
        content = self._kept[i] if i in self._kept else self._fetch(i)
        if isinstance(content, OSError):
            raise content
        return _Fetched(self.names[i], content)

    def forget(self, i: int) -> None:
        """Which will not be asked for again."""
        self._kept.pop(i, None)
