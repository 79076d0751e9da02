"""An ONNX file in eight bits: the backbone and the MLPs computed in integers, all else in float32.

What that is was measured (docs/export.md): attention in eight bits costs points of AP, the backbone a tenth of one, and it is where the
time goes. Scales are those of the least and the greatest value that each tensor has on pictures of the user's.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.engine import installed

PICTURES = 64  # that scales are taken from, at most
SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter writes which module a node comes from
# Of the backbone; sums and pooling with the convolutions, so that values stay integers from one to the next.
IN_BACKBONE = frozenset({"Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool"})
IN_MLP = frozenset({"MatMul", "Gemm"})


def quantize(file: Path, arrays: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Quantise an ONNX file that `formats.write_onnx` wrote, in place: activations to uint8, weights to int8 with a scale a channel.

    Args:
        arrays: inputs of the file, by name, a picture each; at least one.

    Raises:
        ValueError: a library is not installed, or the file has nothing that could be quantised.
    """
    onnx, quantization = installed("onnx", "onnx"), installed("onnxruntime.quantization", "onnx")
    model = onnx.load(file)
    nodes = _in_eight_bits(model.graph)
    if not nodes:
        raise ValueError("nothing in this model could be computed in eight bits: its backbone has no convolutions")
    with _quiet():
        quantization.quantize_static(
            model,
            file,
            _Pictures(arrays),
            quant_format=quantization.QuantFormat.QDQ,  # which OpenVINO reads as well
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            nodes_to_quantize=nodes,
        )


class _Pictures:
    """What ONNX Runtime asks for arrays, one after another."""

    def __init__(self, arrays: Iterable[Mapping[str, np.ndarray]]) -> None:
        self._coming = iter(arrays)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self._coming, None)


def _in_eight_bits(graph: Any) -> list[str]:
    """The names of the nodes that are computed in integers."""
    constants = {one.name for one in graph.initializer}
    chosen = []
    for node in graph.node:
        entries = (ast.literal_eval(entry.value) for entry in node.metadata_props if entry.key == SCOPES)
        scopes: list[str] = next(entries, [])
        if any(scope.endswith(".backbone") for scope in scopes):
            kinds = IN_BACKBONE
        elif any(scope.endswith(".mlp") for scope in scopes):
            kinds = IN_MLP
        else:
            continue
        is_product = node.op_type in ("Conv", "Gemm", "MatMul")  # of weights: attention's are of two activations
        if node.op_type in kinds and (not is_product or node.input[1] in constants):
            chosen.append(node.name)
    return chosen


@contextmanager
def _quiet() -> Iterator[None]:
    """Without advice on preparing the file, which folds nothing that PyTorch's exporter has not folded."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
