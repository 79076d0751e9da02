"""What a run is, and what of it is there: an output folder holds `run.json` (what was asked), `pictures.jsonl` (of which
pictures, in order), and a file a part, named by what is in it. So what is missing is seen from names alone.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..files import remove_leftovers
from ..messages import listed_briefly, shown
from .listing import line_of
from .places import Place

RUN, PICTURES, PART = "run.json", "pictures.jsonl", "part-"


@dataclass(frozen=True)
class Part:
    """Pictures that follow one another in the list, and the file that holds what is found in them.

    Attributes:
        number: counted from 0.
        offset, length: in bytes, of its lines in `pictures.jsonl`.
        count: pictures in it.
        name: of its file: the number, and a digest of what was asked and of the pictures' names.
    """

    number: int
    offset: int
    length: int
    count: int
    name: str


@dataclass(frozen=True)
class Output:
    """A folder that a run writes to, or has written to.

    Args:
        folder: where.
        asked: what decides the results: options, and a digest of the model. JSON values.
        part_size: pictures a part.
        form: how the parts' names end.
    """

    folder: Place
    asked: Mapping[str, Any]
    part_size: int
    form: str

    def begin(self, pictures: Callable[[], Iterator[str]]) -> None:
        """Make a run of this folder, or go on with the one that is there, if it is the same.

        Args:
            pictures: lists them; called for a new run only.

        Raises:
            OSError: the folder cannot be written to, or pictures not be listed.
            ValueError: the folder holds parts of another run; the message says what differs.
        """
        names = [name for name, _ in self.folder.entries()]
        if RUN in names:
            self._check_same()
            if self.folder.path is not None:
                remove_leftovers(self.folder.path)
        elif parts := [name for name in names if name.startswith(PART)]:
            raise ValueError(
                f"{self.folder} holds parts of another run ({listed_briefly(parts, 2)}) without its {RUN}: choose another --output"
            )
        else:
            self._write_list(pictures())
            (self.folder / RUN).write(json.dumps(self._as_json(), indent=2).encode() + b"\n")

    def _as_json(self) -> dict[str, Any]:
        return {**self.asked, "part_size": self.part_size, "form": self.form}

    def _check_same(self) -> None:
        before = json.loads((self.folder / RUN).read())
        now = json.loads(json.dumps(self._as_json()))
        other = [name for name in {**now, **before} if now.get(name) != before.get(name)]
        if other:
            differences = "; ".join(
                f"{name} was {shown(before.get(name))}, is {shown(now.get(name))}" for name in other
            )
            raise ValueError(f"{self.folder} holds another run's parts ({differences}): choose another --output")

    def _write_list(self, pictures: Iterator[str]) -> None:
        with tempfile.TemporaryFile() as file:
            for name in pictures:
                file.write(line_of(name))
            file.seek(0)
            (self.folder / PICTURES).write_from(file)

    def parts(self) -> Iterator[Part]:
        """All of them, in order. Reads the list; holds the lines of one part at a time."""
        salt = json.dumps(self._as_json(), sort_keys=True).encode()
        number, offset, lines = 0, 0, list[bytes]()
        for line in (self.folder / PICTURES).lines():
            lines.append(line)
            if len(lines) == self.part_size:
                yield self._part(number, offset, lines, salt)
                number, offset, lines = number + 1, offset + sum(map(len, lines)), []
        if lines:
            yield self._part(number, offset, lines, salt)

    def _part(self, number: int, offset: int, lines: list[bytes], salt: bytes) -> Part:
        digest = hashlib.sha256(salt + b"".join(lines)).hexdigest()[:12]
        name = f"{PART}{number:08d}-{digest}.{self.form}"
        return Part(number, offset, sum(map(len, lines)), len(lines), name)

    def missing(self) -> tuple[list[Part], int]:
        """The parts that are not there, and how many pictures there are in those that are.

        Raises:
            ValueError: the folder holds parts that are not of this run.
        """
        there = {name for name, _ in self.folder.entries() if name.startswith(PART)}
        missing, done = [], 0
        for part in self.parts():
            if part.name in there:
                there.remove(part.name)
                done += part.count
            else:
                missing.append(part)
        if there:
            raise ValueError(
                f"{self.folder} holds parts that are not of this run ({listed_briefly(sorted(there), 2)}): choose another --output"
            )
        return missing, done
