"""Which file is opened by which engine."""

from __future__ import annotations

from pathlib import Path

from .engine import Engine
from .onnx_runtime import OnnxRuntimeEngine
from .openvino import OpenVinoEngine

ONNX, OPENVINO, TORCH = ".onnx", ".xml", ".pt2"  # how the files' names end


def exported_file(name: str | Path) -> Path | None:
    """The file to open where `name` is an exported model: an .onnx or .xml file, or a folder with one .xml (and no model
    of transformers' layout); None where it is none of these.

    Raises:
        ValueError: it is a program of `torch.export`, which PyTorch opens by unpickling.
    """
    path = Path(name)
    if path.suffix == TORCH:
        raise ValueError(
            f"{path} is a program of torch.export: PyTorch opens it (torch.export.load), and may run code that is in it. "
            "Nothing here does that with files: give the model's folder, or a file of ONNX or OpenVINO"
        )
    if path.suffix in (ONNX, OPENVINO):
        return path
    if path.is_dir() and not (path / "config.json").exists():
        found = sorted(path.glob(f"*{OPENVINO}"))
        if len(found) == 1:
            return found[0]
    return None


def open_engine(path: Path, dtype: str = "float32") -> Engine:
    """Load an exported file, with as many threads as PyTorch would take.

    Args:
        path: see `exported_file`; or a .pt2 file that is known to be harmless, as the one that was just written is.
        dtype: "float32"; "bfloat16" with OpenVINO, which then computes in it.

    Raises:
        OSError: no such file.
        ValueError: the file is damaged, the engine does not compute in this type, or it is not installed; says which extra.
    """
    if not path.is_file():
        raise OSError(f"{path} does not exist: an exported model is an .onnx file, or a folder of OpenVINO's")
    if dtype != "float32" and not (path.suffix == OPENVINO and dtype == "bfloat16"):
        raise ValueError(
            f"{path} computes in the type that it was exported with, not in {dtype}: leave the "
            "precision at fp32 (files of OpenVINO take bf16, too)"
        )
    if path.suffix == ONNX:
        return OnnxRuntimeEngine(path)
    if path.suffix == OPENVINO:
        return OpenVinoEngine(path, dtype)
    from .program import ProgramEngine  # which needs PyTorch

    return ProgramEngine(path)
