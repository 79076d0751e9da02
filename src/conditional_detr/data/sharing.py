"""Data sets in the memory that processes share: workers that are spawned, not forked, get handles instead of copies. What is
mapped from a file (`formats/index.py`) they map, too; the rest goes into shared memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

LONG = 1000  # items; shorter lists are sent as they are
LOOKED_AT = 2**16  # bytes of an array's beginning and end, by which a file is known again


class Mapped(NamedTuple):
    """Where the bytes of an array are in a file, in the place of these bytes."""

    path: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    check: int

    @classmethod
    def of(cls, array: np.ndarray) -> Mapped | None:
        """None for an array that is not mapped from a file, or not in one piece."""
        owner: Any = array
        while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
            owner = owner.base
        if not isinstance(owner, np.memmap) or owner.filename is None or not array.flags.c_contiguous:
            return None
        start = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        return cls(str(owner.filename), owner.offset + start, array.dtype.str, array.shape, _ends(array))

    def array(self) -> np.ndarray:
        """The array. It can be written to, which changes the file for nobody.

        Raises:
            OSError, ValueError: the file is another one now.
        """
        array = np.asarray(np.memmap(self.path, np.dtype(self.dtype), "c", self.offset, self.shape))
        if _ends(array) != self.check:
            raise ValueError(f"{self.path} was written anew while a process started that reads it; start again")
        return array


def _ends(array: np.ndarray) -> int:
    content = array.reshape(-1).view(np.uint8)
    return zlib.crc32(content[-LOOKED_AT:].data, zlib.crc32(content[:LOOKED_AT].data))


class Shared:
    """Pickled without its arrays and long lists: these are moved once into shared memory, where every worker process of a
    `DataLoader` finds them, so that memory does not grow with the number of workers.

    Where there is no shared memory left (a container's small /dev/shm), each worker gets a copy.
    """

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_moved" and not self._is_cached(name)}
        moved = self.__dict__.setdefault("_moved", {})  # name -> the array or list as it was found, and what is sent
        for name, value in state.items():
            if name in moved and moved[name][0] is value:
                state[name] = moved[name][1]
            elif isinstance(value, np.ndarray):
                if (place := Mapped.of(value) if value.size else None) is not None:
                    state[name] = place
                    continue
                try:
                    tensor = torch.from_numpy(value.copy()).share_memory_()
                except RuntimeError:
                    continue
                self.__dict__[name] = tensor.numpy()  # the same memory: no second copy here either
                moved[name] = self.__dict__[name], tensor
                state[name] = tensor
            elif isinstance(value, list) and len(value) > LONG:
                moved[name] = value, SharedList(value)
                state[name] = moved[name][1]
        return state

    def _is_cached(self, name: str) -> bool:
        """Whether a `cached_property` keeps this: whoever needs it there makes it anew."""
        return isinstance(getattr(type(self), name, None), cached_property)

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = {name: value.numpy() for name, value in state.items() if isinstance(value, torch.Tensor)}
        arrays |= {name: value.array() for name, value in state.items() if isinstance(value, Mapped)}
        self.__dict__.update({**state, **arrays})


class SharedList(Shared, Sequence):
    """A list of strings and numbers in two arrays: the processes that a process forks would copy a list's items by merely
    reading them, as Python counts who uses each.

    Attributes:
        texts: uint8, the items as JSON, each with a comma behind.
        first: (n + 1,) int64: item i and its comma have the bytes first[i]:first[i + 1].
    """

    def __init__(self, items: Sequence[Any]) -> None:
        texts = [f"{json.dumps(item)},".encode() for item in items]
        self.texts = np.frombuffer(b"".join(texts), dtype=np.uint8)
        self.first = np.concatenate(([0], np.cumsum([len(text) for text in texts], dtype=np.int64)))

    @classmethod
    def of(cls, texts: np.ndarray, first: np.ndarray) -> SharedList:
        made = cls.__new__(cls)
        made.texts, made.first = texts, first
        return made

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return json.loads(self.texts[self.first[index] : self.first[index + 1] - 1].tobytes())

    def __iter__(self) -> Iterator[Any]:
        return iter(json.loads(b"[" + self.texts[:-1].tobytes() + b"]"))  # all at once, which takes a tenth

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))
