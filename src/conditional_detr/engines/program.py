"""Programs that `torch.export` wrote: the model without its code, run by PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ..messages import shown
from .engine import Arrays

ENTRY = "conditional_detr.json"  # the file in the archive that holds the metadata


class ProgramEngine:
    """See `Engine`."""

    def __init__(self, path: Path) -> None:
        files = {ENTRY: ""}
        try:
            program = torch.export.load(path, extra_files=files)
            self.metadata: Mapping[str, str] = json.loads(files[ENTRY] or "{}")
            facts = json.loads(self.metadata.get("tensors", "[[], []]"))
        except Exception as error:  # of a file that is none, errors of many types
            raise ValueError(f"{path} cannot be opened by PyTorch: {shown(str(error))}") from None
        self._module = program.module()
        self.name = f"torch {torch.__version__}"
        self.inputs, self.outputs = (tuple(names) for names in facts)

    @torch.inference_mode()
    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray]:
        values = self._module(*(torch.from_numpy(arrays[name]) for name in self.inputs))
        return {name: value.numpy() for name, value in zip(self.outputs, values, strict=True)}
