"""What runs an exported model: arrays in, arrays out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Protocol

import numpy as np
import psutil

Arrays = Mapping[str, np.ndarray]


class Engine(Protocol):
    """An exported model that is loaded, on the CPU.

    Attributes:
        name: of the engine, with its version.
        inputs, outputs: names of the model's, in its order.
        metadata: what the file says of itself; see `Manifest`.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]

    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Compute all outputs.

        Args:
            arrays: by name, contiguous, of the types that the file asks for.

        Raises:
            RuntimeError: the engine failed; one line says why.
        """
        ...


def threads() -> int:
    """How many threads compute: as many as PyTorch takes where it is loaded; else as OMP_NUM_THREADS says, or one for each core."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(said) if said.isdecimal() and int(said) else psutil.cpu_count(logical=False) or os.cpu_count() or 1


def installed(module: str, extra: str) -> ModuleType:
    """Import an optional library.

    Raises:
        ValueError: it is not installed; says which extra brings it.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise ValueError(
            f"{module} is not installed: pip install 'conditional-detr[{extra}]' brings what exported models need"
        ) from None
