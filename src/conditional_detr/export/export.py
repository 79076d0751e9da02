"""A saved model to a file that other programs run, with its certificate: `cdetr export`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checkpoints.card import license_of
from ..data.dataset import DetectionDataset
from ..engines.exported import AnyModel, ExportedModel
from ..engines.files import open_engine
from ..engines.manifest import Manifest
from ..evaluate.evaluation import evaluate
from ..files import write_json
from ..messages import printable
from ..models.detector import ObjectDetectionModel
from ..models.segmenter import SegmentationModel
from ..predict.detector import model_and_processor
from ..processors.image_processor import DetectionImageProcessor
from .certificate import BOUNDS, Certificate, certificate_name, compare
from .formats import OPSET, OPSETS, SUFFIXES, WRITERS
from .graph import Graph, Interface

DTYPES = {"float32": torch.float32, "float16": torch.float16}


def export(
    name: str | Path,
    output: str | Path,
    *,
    format: str = "onnx",
    dtype: str = "float32",
    mask: bool = False,
    normalize: bool = False,
    top_k: int | None = None,
    opset: int = OPSET,
    images: Sequence[Path] = (),
    data: DetectionDataset | None = None,
    progress: Callable[[str], Any] | None = None,
    **options: Any,
) -> Certificate:
    """Write a detector or segmentation model as a file of another program's, once it computes what the model computes.

    Beside `output` lies `output` + `.certificate.json`. Where the file differs from the model by more than the bound,
    nothing is left.

    Args:
        name: a saved model's folder, an original `.pth` file, or a hub name.
        output: an .onnx file, for OpenVINO a folder, for PyTorch a .pt2 file; what is there is replaced.
        format: "onnx", "openvino" or "torch".
        dtype: "float32" or "float16"; inputs, heads and outputs are float32 always.
        mask, normalize, top_k: see `graph.Interface`.
        opset: of ONNX.
        images: pictures to compare on, too.
        data: a data set to score the model on, before and after.
        progress: called with what is done next, in a few words.
        options: of the models' `from_pretrained`.

    Raises:
        OSError: no such model, or the output cannot be written.
        ValueError: an argument of no meaning, a library that is not installed, a model that cannot be exported.
        Refused: the file computes something else; a ValueError.
    """
    _check(Path(output), format, dtype, top_k, opset)
    model, processor = model_and_processor(name, **options)
    interface = Interface(mask, normalize, top_k)
    return export_model(
        model, processor, Path(output), format=format, dtype=dtype, interface=interface, opset=opset, images=images,
        data=data, license=license_of(name), progress=progress,
    )  # fmt: skip


def export_model(
    model: ObjectDetectionModel | SegmentationModel,
    processor: DetectionImageProcessor,
    output: Path,
    *,
    format: str = "onnx",
    dtype: str = "float32",
    interface: Interface | None = None,
    opset: int = OPSET,
    images: Sequence[Path] = (),
    data: DetectionDataset | None = None,
    license: str = "",
    progress: Callable[[str], Any] | None = None,
) -> Certificate:
    """`export` of a model in memory, which stays as it is, in evaluation mode.

    Args:
        model: on the CPU, in float32, as its own class loads it.
        license: of its weights.

    Raises:
        OSError, ValueError, Refused: see `export`.
    """
    interface = interface or Interface()
    _check(output, format, dtype, interface.top_k, opset)
    say = progress or (lambda text: None)
    model.eval()
    before: dict[str, float] = {}
    if data is not None:  # first, since it may not be of the model's classes
        say("scoring the model")
        before = _figures(model, processor, data)
    manifest = Manifest(model.config, model.task, processor.to_dict(), license, f"conditional-detr {__version__}")
    graph = Graph(model, processor.preprocessing, interface, DTYPES[dtype])
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".part", dir=output.parent) as beside:
        say(f"writing {format}")
        folder = Path(beside) / "model"
        folder.mkdir()
        with torch.no_grad():
            file = WRITERS[format](graph, manifest.to_strings(), folder, opset)
        say("comparing it with the model")
        engine = open_engine(file)
        exported = ExportedModel(engine, Manifest.from_strings(engine.metadata, file))
        bound = BOUNDS[DTYPES[dtype]]
        cases = list(compare(model, exported, processor.preprocessing, images, bound))
        certificate = Certificate(format, dtype, engine.name, bound, cases)
        certificate.check()
        if data is not None:
            say("scoring it")
            certificate.figures = {"before": before, "after": _figures(exported, processor, data)}
        _put(file if SUFFIXES[format] else folder, output, Path(beside))
    write_json(certificate_name(output), certificate.to_dict(output))
    return certificate


def _figures(model: AnyModel, processor: DetectionImageProcessor, data: DetectionDataset) -> dict[str, float]:
    metrics = evaluate(model, processor, data, workers=0)
    return {} if metrics is None else metrics.summary


def _put(made: Path, output: Path, spare: Path) -> None:
    """Move a file or a folder into place; the old certificate goes first, so that none stands beside another file."""
    certificate_name(output).unlink(missing_ok=True)
    if output.is_dir():  # no folder can be renamed over another
        os.replace(output, spare / "old")
    os.replace(made, output)
    shutil.rmtree(spare / "old", ignore_errors=True)


def _check(output: Path, format: str, dtype: str, top_k: int | None, opset: int) -> None:
    """Raises ValueError where the arguments mean nothing, before anything is loaded."""
    for what, value, choices in (("format", format, WRITERS), ("dtype", dtype, DTYPES)):
        if value not in choices:
            raise ValueError(f"{what} is {value!r}; it is {', '.join(choices)}")
    if opset not in OPSETS:
        raise ValueError(f"opset is {opset}; it is {OPSETS[0]} to {OPSETS[-1]}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it is a number of detections")
    suffix = SUFFIXES[format]
    if output.suffix != suffix and suffix:
        raise ValueError(f"output is {printable(output)}; a file of {format} ends in {suffix}")
    if not suffix and (output.is_file() or output.suffix in (".onnx", ".xml", ".pt2")):
        raise ValueError(f"output is {printable(output)}; {format} has two files, so give a folder")
    if suffix and output.is_dir():
        raise ValueError(f"output is {printable(output)}, which is a folder; it is a file")
    if not suffix and output.is_dir() and any(path.suffix not in (".xml", ".bin") for path in output.iterdir()):
        raise ValueError(f"output is {printable(output)}, a folder with other files in it: give a new one")
