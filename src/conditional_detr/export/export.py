"""A saved model to a file that other programs run, with its certificate: `cdetr export`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..checkpoints.card import license_of
from ..data.dataset import DetectionDataset
from ..engines.exported import ExportedModel, input_arrays
from ..engines.files import open_engine
from ..engines.formats import OPSET, OPSETS, SUFFIXES, WRITERS
from ..engines.graph import Graph, Interface
from ..engines.manifest import Manifest
from ..evaluate.evaluation import evaluate
from ..files import write_json
from ..images.prepare import Preprocessing
from ..messages import printable
from ..models.detector import ObjectDetectionModel
from ..models.segmenter import SegmentationModel
from ..predict.detector import model_and_processor
from ..processors.image_processor import DetectionImageProcessor
from .certificate import BOUNDS, Certificate, certificate_name, compare
from .eight_bits import PICTURES, quantize

if TYPE_CHECKING:
    from ..engines.exported import AnyModel

# Of weights and computation; what int8 leaves in floats is float32.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.float32}


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
    calibration: Sequence[Path] = (),
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
        dtype: "float32", "float16" or "int8" (see `eight_bits`); inputs, heads and outputs are float32 always.
        mask, normalize, top_k: see `graph.Interface`.
        opset: of ONNX.
        images: pictures to compare on, too.
        data: a data set to score the model on, before and after; int8 needs one.
        calibration: pictures that int8's scales are taken from, `eight_bits.PICTURES` of them; none: those of `data`.
        progress: called with what is done next, in a few words.
        options: of the models' `from_pretrained`.

    Raises:
        OSError: no such model, or the output cannot be written.
        ValueError: an argument of no meaning, a library that is not installed, a model that cannot be exported.
        Refused: the file computes something else, or scores worse; a ValueError.
    """
    _check(Path(output), format, dtype, top_k, opset)
    if dtype == "int8" and data is None:  # said before the model is loaded
        raise ValueError(_NEEDS_DATA)
    model, processor = model_and_processor(name, **options)
    interface = Interface(mask, normalize, top_k)
    return export_model(
        model, processor, Path(output), format=format, dtype=dtype, interface=interface, opset=opset, images=images,
        data=data, calibration=calibration, license=license_of(name), progress=progress,
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
    calibration: Sequence[Path] = (),
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
    if dtype == "int8" and (data is None or not before.get("AP", 0) > 0):
        raise ValueError(_NEEDS_DATA if data is None else f"{_NEEDS_DATA}; on this one the model itself finds nothing")
    manifest = Manifest(model.config, model.task, processor.to_dict(), license, f"conditional-detr {__version__}")
    graph = Graph(model, processor.preprocessing, interface, DTYPES[dtype])
    finish = None
    if dtype == "int8" and data is not None:
        pictures = list(calibration) or [data.image_path(i) for i in range(len(data))]
        some = pictures[:: -(-len(pictures) // PICTURES)]
        finish = partial(_quantize, pictures=some, interface=interface, preprocessing=processor.preprocessing)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".part", dir=output.parent) as beside:
        say(f"writing {format}")
        folder = Path(beside) / "model"
        folder.mkdir()
        with torch.no_grad():
            file = WRITERS[format](graph, manifest.to_strings(), folder, opset, finish)
        say("comparing it with the model")
        engine = open_engine(file)
        exported = ExportedModel(engine, Manifest.from_strings(engine.metadata, file))
        bound = BOUNDS[dtype]
        cases = list(compare(model, exported, processor.preprocessing, images, bound))
        certificate = Certificate(format, dtype, engine.name, bound, cases)
        certificate.check()
        if data is not None:
            say("scoring it")
            certificate.figures = {"before": before, "after": _figures(exported, processor, data)}
            certificate.check_figures()
        _put(file if SUFFIXES[format] else folder, output, Path(beside))
    write_json(certificate_name(output), certificate.to_dict(output))
    return certificate


_NEEDS_DATA = (
    "int8 is calibrated on your pictures and kept only if it finds what the model finds: give a data set (--data) that the "
    "model is good at"
)


def _quantize(file: Path, pictures: Sequence[Path], interface: Interface, preprocessing: Preprocessing) -> None:
    """Quantise an ONNX file by what it computes on pictures, which are read one after another."""
    canvases = (preprocessing.read_array(path)[None] for path in pictures)
    prepared = canvases if interface.normalize else map(preprocessing.normalize_array, canvases)
    quantize(file, (input_arrays(interface.inputs, pixels) for pixels in prepared))


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
    if dtype == "int8" and format == "torch":
        raise ValueError("dtype is 'int8'; that is for onnx and openvino")
    suffix = SUFFIXES[format]
    if output.suffix != suffix and suffix:
        raise ValueError(f"output is {printable(output)}; a file of {format} ends in {suffix}")
    if not suffix and (output.is_file() or output.suffix in (".onnx", ".xml", ".pt2")):
        raise ValueError(f"output is {printable(output)}; {format} has two files, so give a folder")
    if suffix and output.is_dir():
        raise ValueError(f"output is {printable(output)}, which is a folder; it is a file")
    if not suffix and output.is_dir() and any(path.suffix not in (".xml", ".bin") for path in output.iterdir()):
        raise ValueError(f"output is {printable(output)}, a folder with other files in it: give a new one")
