"""Rows of JSON in the order of the images, whatever order they are made in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any


class RowFile:
    """A new file of JSON lines, one an image; each is in it, whole, when it is written, or not at all.

    Raises:
        OSError: the file cannot be written; one line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = 0
        self._waiting: dict[int, dict[str, Any]] = {}  # rows that come after one that is not there yet
        self._file = self._open()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, position: int, row: dict[str, Any]) -> None:
        """Keep a row until those of all positions before it are written."""
        self._waiting[position] = row

    def write_ready(self) -> Iterator[dict[str, Any]]:
        """Write the rows whose turn it is, and yield each once it is written."""
        while self._next in self._waiting:
            row = self._waiting.pop(self._next)
            self._write(row)
            self._next += 1
            yield row

    def _open(self) -> IO[bytes]:
        try:
            return open(self.path, "wb", buffering=0)  # so that a line is in it when it is written
        except OSError as error:
            raise OSError(f"cannot write {self.path}: {error.strerror}; choose another folder (--output)") from None

    def _write(self, row: dict[str, Any]) -> None:
        line = json_line(row)
        before = self._file.tell()
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            self._file.truncate(before)
            raise OSError(
                f"cannot write {self.path}: {error.strerror}; it holds what was found before. Free some "
                "space or choose another folder (--output)"
            ) from None


def json_line(row: dict[str, Any]) -> bytes:
    """A row as a line of UTF-8."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
