"""ONNX files, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..messages import one_line
from .engine import Arrays, installed, threads


class OnnxRuntimeEngine:
    """See `Engine`."""

    def __init__(self, path: Path) -> None:
        runtime = installed("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors alone: what it warns of is said in its errors again
        options.intra_op_num_threads = threads()
        # Between two pictures there is other work for the cores than waiting for the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have types of their own, none of Python's
            raise ValueError(f"{path} cannot be opened by ONNX Runtime: {_reason(error)}") from None
        self.name = f"onnxruntime {runtime.__version__}"
        self.inputs = tuple(one.name for one in self._session.get_inputs())
        self.outputs = tuple(one.name for one in self._session.get_outputs())
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray]:
        try:
            values = self._session.run(None, dict(arrays))
        except Exception as error:
            raise RuntimeError(f"ONNX Runtime: {_reason(error)}") from None
        return dict(zip(self.outputs, values, strict=True))


def _reason(error: Exception) -> str:
    """Its message without its codes, "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : "."""
    return one_line(str(error).rpartition(" : ")[2])[:200]
