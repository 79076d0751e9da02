"""The entries of a COCO file, read one by one: each is right, or a ValueError names file, list, position, id, field and
value, and what is expected there.

Ids are whole numbers or strings, of any size; 1 and 1.0 are the same id, as in tables that turn whole numbers into
fractions, "1" and true are not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ...messages import is_text, shown
from ..dataset import Id

NUMBERS = frozenset((int, float))  # types, so that true is none
LARGEST = 1e9  # of a coordinate, in pixels: float32 has no more use for larger ones, and arithmetic stays finite
LARGEST_AREA = 1e18  # in square pixels
LARGEST_SIDE = 2**20  # of a picture, in pixels
LARGEST_PICTURE = 2**32  # in pixels: run lengths are 32-bit numbers

BOX = "four finite numbers x, y, width, height, in pixels"


class Entries:
    """One list of a file, for messages: `path: annotations[3] (id 4): …`."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def fault(self, position: int, entry: Any, what: str) -> NoReturn:
        """Raises ValueError about one entry."""
        number = f" (id {shown(entry['id'])})" if isinstance(entry, Mapping) and "id" in entry else ""
        raise ValueError(f"{self.path}: {self.name}[{position}]{number}: {what}")

    def wrong(self, position: int, entry: Any, field: str, expected: str) -> NoReturn:
        """Raises ValueError about one field."""
        found = f"is {shown(entry[field])}" if field in entry else "is missing"
        self.fault(position, entry, f"{field} {found}; expected {expected}")

    def id(self, position: int, entry: Any, field: str) -> Id:
        """A whole number or a string."""
        value = entry.get(field)
        if type(value) is int or type(value) is str:
            return value
        if type(value) is float and value.is_integer():
            return int(value)
        self.wrong(position, entry, field, "a whole number or a string")

    def check(self, position: int, entry: Any) -> None:
        """Raises ValueError unless the entry is a JSON object."""
        if type(entry) is not dict:
            self.fault(position, entry, f"is {shown(entry)}; expected an object with fields")

    def text(self, position: int, entry: dict[str, Any], field: str) -> str:
        """A string that can be the name of a file."""
        value = entry.get(field)
        if type(value) is not str or not value or "\0" in value or not is_text(value):
            self.wrong(position, entry, field, "the name of a file")
        return value

    def size(self, position: int, entry: dict[str, Any]) -> tuple[int, int]:
        """Height and width."""
        sides = []
        for field in ("height", "width"):
            value: Any = entry.get(field)
            if not (type(value) in NUMBERS and 1 <= value <= LARGEST_SIDE and value == int(value)):
                self.wrong(position, entry, field, f"a whole number of pixels, 1…{LARGEST_SIDE}")
            sides.append(int(value))
        if sides[0] * sides[1] >= LARGEST_PICTURE:
            self.fault(
                position,
                entry,
                f"width × height is {sides[1]} × {sides[0]}; expected less than {LARGEST_PICTURE} pixels",
            )
        return sides[0], sides[1]

    def area_and_crowd(self, position: int, entry: dict[str, Any], default: float) -> tuple[float, bool]:
        """`area`, or the default where it is not given, and `iscrowd`, 0 where it is not given."""
        area, crowd = entry.get("area"), entry.get("iscrowd")
        if area is None:
            area = default
        elif type(area) not in NUMBERS or not -LARGEST_AREA <= area <= LARGEST_AREA:
            self.wrong(position, entry, "area", "a finite number, in square pixels")
        if crowd is not None and crowd != 0 and crowd != 1:
            self.wrong(position, entry, "iscrowd", "0 or 1")
        return area, bool(crowd)

    def flag(self, position: int, entry: dict[str, Any], field: str) -> bool:
        value = entry.get(field)
        if value is None or (value != 0 and value != 1):
            self.wrong(position, entry, field, "0 or 1")
        return bool(value)

    def unknown(self, position: int, entry: dict[str, Any], field: str, known: Collection[Any], where: str) -> NoReturn:
        """Raises ValueError about an id that no entry of another list has."""
        value = entry[field]
        other: Any = int(value) if type(value) is str and re.fullmatch("-?[0-9]{1,999}", value) else str(value)
        hint = ""
        if other in known:
            kinds = ("string", "number") if type(value) is str else ("number", "string")
            hint = f", where it is the {kinds[1]} {shown(other)} and here the {kinds[0]}: write both alike"
        self.fault(position, entry, f"{field} is {shown(value)}, which is not in '{where}'{hint}")


def is_box(box: Any) -> bool:
    """Whether this is x, y, width, height: four finite numbers."""
    if type(box) is not list or len(box) != 4:
        return False
    x, y, w, h = box
    return (
        type(x) in NUMBERS
        and type(y) in NUMBERS
        and type(w) in NUMBERS
        and type(h) in NUMBERS
        and -LARGEST <= x <= LARGEST
        and -LARGEST <= y <= LARGEST
        and -LARGEST <= w <= LARGEST
        and -LARGEST <= h <= LARGEST
    )
