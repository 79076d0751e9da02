"""A graph as a file: a function a format."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..messages import one_line, shown
from .engine import installed
from .files import ONNX, OPENVINO, TORCH
from .graph import Graph
from .openvino import ENTRY as OPENVINO_ENTRY
from .program import ENTRY as PROGRAM_ENTRY

OPSETS = range(20, 24)
OPSET = 20  # 23 has an operator for attention, which few engines know yet
SUFFIXES = {"onnx": ONNX, "openvino": "", "torch": TORCH}  # OpenVINO's two files lie in a folder

Finish = Callable[[Path], None]  # changes an ONNX file in place
Write = Callable[[Graph, Mapping[str, str], Path, int, Finish | None], Path]


def write_onnx(
    graph: Graph, metadata: Mapping[str, str], folder: Path, opset: int, finish: Finish | None = None
) -> Path:
    """An ONNX file in `folder`, weights within.

    Args:
        finish: what is done to the file last, such as quantising it.

    Raises:
        ValueError: a library is not installed, or the model holds something that ONNX has no operator for.
    """
    for library in ("onnx", "onnxscript"):
        installed(library, "onnx")
    examples, shapes = _examples(graph)
    interface = graph.interface
    path = folder / f"model{ONNX}"
    with _quiet(), _exportable("ONNX"):
        program = torch.onnx.export(
            graph,
            examples,
            dynamo=True,
            opset_version=opset,
            dynamic_shapes={"tensors": shapes},
            input_names=list(interface.inputs),
            output_names=list(interface.outputs(graph.has_masks)),
            external_data=False,
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(metadata)
        program.save(path)
    if finish is not None:
        finish(path)
    return path


def write_openvino(
    graph: Graph, metadata: Mapping[str, str], folder: Path, opset: int, finish: Finish | None = None
) -> Path:
    """OpenVINO's two files in `folder`, made from ONNX. It keeps float16 weights, and computes with them in float32.

    Raises:
        ValueError: see `write_onnx`.
    """
    installed("openvino", "openvino")
    between = write_onnx(graph, {}, folder, opset, finish)
    path = openvino_of_onnx(between, metadata, folder)
    between.unlink()
    return path


def openvino_of_onnx(file: Path, metadata: Mapping[str, str], folder: Path) -> Path:
    """OpenVINO's two files of an ONNX file."""
    openvino = installed("openvino", "openvino")
    model = openvino.convert_model(file)
    for name, value in metadata.items():
        model.set_rt_info(value, [OPENVINO_ENTRY, name])
    path = folder / f"model{OPENVINO}"
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def write_torch(
    graph: Graph, metadata: Mapping[str, str], folder: Path, opset: int, finish: Finish | None = None
) -> Path:
    """A program of `torch.export` in `folder`; no ONNX file comes before it.

    Raises:
        ValueError: the model holds something that cannot be traced.
    """
    examples, shapes = _examples(graph)
    names = graph.interface.inputs, graph.interface.outputs(graph.has_masks)
    path = folder / f"model{TORCH}"
    with _quiet(), _exportable("torch.export"):
        program = torch.export.export(graph, examples, dynamic_shapes={"tensors": shapes})
        content = json.dumps({**metadata, "tensors": json.dumps(names)})
        torch.export.save(program, path, extra_files={PROGRAM_ENTRY: content})
    return path


WRITERS: dict[str, Write] = {"onnx": write_onnx, "openvino": write_openvino, "torch": write_torch}


def _examples(graph: Graph) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """What the graph is traced with, and which of its dimensions vary: no two that do are alike, nor 0 or 1, since what is
    alike may be taken for the same."""
    batch, height, width = 2, 96, 160
    dynamic = torch.export.Dim.DYNAMIC
    pixels = torch.rand(batch, 3, height, width)
    mask = torch.ones(batch, height, width, dtype=torch.bool)
    mask[0, height - 20 :] = False
    mask[0, :, width - 30 :] = False
    known: dict[str, tuple[Tensor, dict[int, Any]]] = {
        "pixel_values": (pixels, {0: dynamic, 2: dynamic, 3: dynamic}),
        "images": ((pixels * 255).to(torch.uint8), {0: dynamic, 2: dynamic, 3: dynamic}),
        "pixel_mask": (mask, {0: dynamic, 1: dynamic, 2: dynamic}),
        "target_sizes": (torch.tensor([[height, width]] * batch), {0: dynamic}),
    }
    chosen = [known[name] for name in graph.interface.inputs]
    return tuple(tensor for tensor, _ in chosen), tuple(shape for _, shape in chosen)


@contextmanager
def _exportable(target: str) -> Any:
    """Errors of an exporter, which run over pages, as one line that names what it failed at."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of many types, tracing runs all of the model
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ValueError(
            f"this model cannot be exported to {target} with sizes that vary: {_culprit(cause)}. Of another backbone it may "
            "be: every ResNet can"
        ) from error


def _culprit(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "operator" in line.lower() or "aten." in line or "specialized" in line]
    return shown((named or lines or [one_line(error)])[0])


@contextmanager
def _quiet() -> Any:
    """Without the exporters' remarks on their own insides."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch._export")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
