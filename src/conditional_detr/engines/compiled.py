"""A model handed to an engine in memory: as if it had been exported and opened."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..images.prepare import Preprocessing
from ..models.detector import ObjectDetectionModel
from ..models.segmenter import SegmentationModel
from .exported import ExportedModel
from .formats import OPSET, WRITERS
from .graph import Graph, Interface
from .manifest import Manifest

FORMATS = {"openvino": "openvino", "onnxruntime": "onnx"}  # engine -> the format that it runs


def compiled_by(
    engine: str,
    model: ObjectDetectionModel | SegmentationModel,
    preprocessing: Mapping[str, Any],
    dtype: str = "float32",
) -> ExportedModel:
    """A model as an engine computes it, for pictures of any size. Takes half a minute; nothing is left on the disk.

    Args:
        engine: of `FORMATS`.
        model: on the CPU, in float32, as its own class loads it.
        preprocessing: of its image processor, as `preprocessor_config.json` has it.
        dtype: what is computed in; "bfloat16" with OpenVINO.

    Raises:
        ValueError: an engine that is not known or not installed, or of another type; or a model that cannot be exported.
    """
    if engine not in FORMATS:
        raise ValueError(f"engine is {engine!r}; it is {', '.join(FORMATS)}, or none for PyTorch")
    manifest = Manifest(model.config, model.task, preprocessing, producer="conditional-detr, in memory")
    graph = Graph(model.eval(), Preprocessing.from_dict(preprocessing), Interface())
    # OpenVINO reads weights from its files for as long as it uses them; where open files cannot be removed, they stay.
    with tempfile.TemporaryDirectory(prefix="cdetr-", ignore_cleanup_errors=True) as folder, torch.no_grad():
        file = WRITERS[FORMATS[engine]](graph, manifest.to_strings(), Path(folder), OPSET, None)
        return ExportedModel.open(file, dtype)
