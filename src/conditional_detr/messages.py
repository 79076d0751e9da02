"""Values in messages to people: each a short piece of one line, whatever the value is.

No PyTorch here: the command line reads this file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any


def shown(value: Any) -> str:
    """A wrong value for a message: one short line, whatever it is."""
    text = ascii(value) if isinstance(value, str) and not is_text(value) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}…"


def is_text(value: str) -> bool:
    """Whether a string can be written: JSON can hold halves of characters."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str | os.PathLike[str]) -> str:
    r"""A file's name as text that every encoding of Unicode has: what is none in it (bytes that are not UTF-8) as `\udcff`."""
    return os.fspath(name).encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(error: BaseException | str) -> str:
    """What an error or a warning says, or its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def listed_briefly(items: Sequence[Any], most: int = 8) -> str:
    """The first items, and how many there are where that is not all."""
    return ", ".join(str(item) for item in items[:most]) + (f", … ({len(items)} in all)" if len(items) > most else "")
