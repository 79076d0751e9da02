"""Files on this machine, on a shared disk, or in a bucket: all by pyarrow's file systems."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO

from pyarrow import ArrowInvalid, fs

from ..files import write_atomically
from ..messages import one_line, printable
from ..remote import ADDRESS, is_remote

# What is written there becomes visible once it is whole.
WHOLE_OR_ABSENT = ("s3", "gcs", "abfs")


@dataclass(frozen=True)
class Place:
    """A file or folder, somewhere. It is opened where it is used, so that any machine can be told of it.

    Args:
        name: a path, made absolute; or an address, such as s3://bucket/folder.
    """

    name: str

    @classmethod
    def of(cls, name: str | os.PathLike[str]) -> Place:
        text = os.fspath(name)
        return cls(text.rstrip("/") if is_remote(text) else os.path.abspath(text))

    def __str__(self) -> str:
        return printable(self.name)

    def __truediv__(self, below: str) -> Place:
        return Place(f"{self.name.rstrip('/')}/{below}")

    @property
    def parent(self) -> Place:
        return Place(self.name.rpartition("/")[0]) if self.path is None else Place(str(self.path.parent))

    @property
    def path(self) -> Path | None:
        """Of what is on a disk."""
        return None if is_remote(self.name) else Path(self.name)

    def opened(self) -> tuple[fs.FileSystem, str]:
        """The file system, and the path in it.

        Raises:
            OSError: it cannot be reached, or there is no such kind of file system here.
        """
        found = ADDRESS.match(self.name)
        if found is None:
            return fs.LocalFileSystem(), self.name
        root = found[0] + self.name[found.end() :].partition("/")[0]
        with _in_one_line(self):
            system, base = _file_system(root if root != found[0] else f"{root}/")
        return system, base.rstrip("/") + self.name[len(root) :]

    def kind(self) -> str:
        """`file`, `folder` or nothing, where it is neither."""
        system, path = self.opened()
        with _in_one_line(self):
            found = system.get_file_info(path)
        return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found.type, "")

    def entries(self) -> list[tuple[str, bool]]:
        """Of a folder, sorted: the name of each file and folder in it, and whether it is a folder. Empty where there is none."""
        if self.path is not None:  # by bytes: names on a disk need not be Unicode
            if not self.path.is_dir():
                return []
            with _in_one_line(self), os.scandir(self.path) as found:
                return sorted(
                    (entry.name, is_folder)
                    for entry in found
                    if (is_folder := entry.is_dir(follow_symlinks=False)) or entry.is_file()
                )
        system, path = self.opened()
        with _in_one_line(self):
            infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted((info.base_name, info.type == fs.FileType.Directory) for info in infos)

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file, or some of them."""
        system, path = self.opened()
        with _in_one_line(self):
            if length is None:
                with system.open_input_stream(path, compression=None) as file:
                    return file.read()
            with system.open_input_file(path) as file:
                return file.read_at(length, offset)

    def lines(self) -> Iterator[bytes]:
        """Of a file, each with its end."""
        system, path = self.opened()
        with _in_one_line(self), system.open_input_stream(path, compression=None) as file:
            yield from io.BufferedReader(file)

    def write(self, content: bytes) -> None:
        """Write a file; see `write_from`."""
        self.write_from(io.BytesIO(content))

    def write_from(self, content: IO[bytes]) -> None:
        """Write what is left of an open file as a file, whole or not at all.

        Raises:
            OSError: it cannot be written; one line.
        """
        if self.path is not None:
            write_atomically(self.path, partial(_copy, content))
            return
        system, path = self.opened()
        with _in_one_line(self):
            if system.type_name in WHOLE_OR_ABSENT:
                _send(content, system, path)
                return
            folder, _, name = path.rpartition("/")
            if folder:
                system.create_dir(folder)
            beside = f"{folder}/.{name}.{os.getpid()}.part"
            _send(content, system, beside)
            system.move(beside, path)


def _copy(content: IO[bytes], path: Path) -> None:
    with open(path, "wb") as file:
        shutil.copyfileobj(content, file)


def _send(content: IO[bytes], system: fs.FileSystem, path: str) -> None:
    with system.open_output_stream(path, compression=None) as file:
        shutil.copyfileobj(content, file)


@cache
def _file_system(root: str) -> tuple[fs.FileSystem, str]:
    """Of a bucket; once a process, since the region of one in S3 is asked for over the network."""
    try:
        return fs.FileSystem.from_uri(root)
    except ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
    from fsspec.core import url_to_fs  # knows more kinds

    try:
        system, path = url_to_fs(root)
    except (ImportError, ValueError) as error:
        raise OSError(one_line(error)) from None
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


@contextmanager
def _in_one_line(place: Place) -> Iterator[None]:
    """Errors of file systems become OSError of one line that names the place."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{place}: no such file or folder") from None
    except (OSError, ArrowInvalid, NotImplementedError) as error:
        raise OSError(f"{place}: {one_line(error)}") from None
