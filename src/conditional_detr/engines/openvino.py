"""OpenVINO's files, an .xml with its .bin beside it, run by OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..messages import shown
from .engine import Arrays, installed, threads

ENTRY = "conditional_detr"  # under which the metadata stands in the model's rt_info


class OpenVinoEngine:
    """See `Engine`. Sizes are dynamic: one compiled model serves all.

    Args:
        dtype: what it computes in, "float32" or "bfloat16". OpenVINO would take bfloat16 by itself where the processor has units for it.
    """

    def __init__(self, path: Path, dtype: str) -> None:
        openvino = installed("openvino", "openvino")
        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            model = core.read_model(path)
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ValueError(f"{path} cannot be opened by OpenVINO: {_reason(error)}") from None
        self.name = f"openvino {openvino.__version__}"
        self.inputs = tuple(one.any_name for one in self._compiled.inputs)
        self.outputs = tuple(one.any_name for one in self._compiled.outputs)
        entries = model.get_rt_info([ENTRY]).astype(dict) if model.has_rt_info([ENTRY]) else {}
        self.metadata: Mapping[str, str] = {name: value.astype(str) for name, value in entries.items()}

    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray]:
        try:
            values = self._compiled(dict(arrays), share_inputs=True)
        except RuntimeError as error:
            raise RuntimeError(f"OpenVINO: {_reason(error)}") from None
        return {name: values[name] for name in self.outputs}


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[-1] if lines else "it does not say why")
