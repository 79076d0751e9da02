"""How large a model is, and how fast it was on this machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from ..engines.exported import ExportedModel
from ..predict.detector import Detector


def size_of(detector: Detector) -> dict[str, Any]:
    """What the model is, its parameters, and the MB that they take as they are loaded.

    Raises:
        ValueError: it is an exported model, whose weights are its engine's.
    """
    model, config = detector.model, detector.model.config
    if isinstance(model, ExportedModel):
        raise ValueError("a report is of a model's folder; an exported model's figures are cdetr eval's")
    tensors = list(model.parameters()) + list(model.buffers())
    return {
        "family": config.model_type,
        "backbone": config.backbone,
        "queries": config.num_queries,
        "classes": config.num_labels,
        "image_size": dict(detector.processor.size),
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "megabytes": round(sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6, 1),
    }


def machine_of(device: torch.device) -> str:
    """The processor that computes, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''} of {os.cpu_count()}"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
