"""Data sets in the memory that processes share: workers that are spawned, not forked, get handles instead of copies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

LONG = 1000  # items; shorter lists are sent as they are


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
        self.__dict__.update({**state, **arrays})


class SharedList(Shared, Sequence):
    """A list of strings and numbers in two arrays."""

    def __init__(self, items: Sequence[Any]) -> None:
        texts = [json.dumps(item).encode() for item in items]
        self.texts = np.frombuffer(b"".join(texts), dtype=np.uint8)
        self.first = np.concatenate(([0], np.cumsum([len(text) for text in texts], dtype=np.int64)))

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return json.loads(self.texts[self.first[index] : self.first[index + 1]].tobytes())
