"""What an exported file computes, compared with its model: on shapes it was not traced with, and on pictures."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .. import __version__
from ..engines.exported import ExportedModel
from ..images.header import image_size
from ..images.prepare import Preprocessing, to_canvas
from ..messages import printable
from ..models.detector import ObjectDetectionModel
from ..models.segmenter import SegmentationModel
from ..results.detections import detections_with_queries
from ..results.image_results import MOST_DETECTIONS

# The largest differences that pass. float16 has 11 bits: a score or a side may be off by some thousandths. In eight bits single
# detections may be off by any amount, what counts is how many are right.
BOUNDS = {"float32": 1e-4, "float16": 2e-2, "int8": math.inf}
LEAST_KEPT = 0.95  # of the model's AP on a data set
# Batch, height and width at stride 32, odd ones among them; less where cells are smaller.
SHAPES = ((1, 480, 640), (5, 97, 131), (2, 256, 192), (1, 333, 500), (3, 224, 161), (1, 800, 1066), (1, 65, 512))
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy")


class Refused(ValueError):
    """An exported file computes something else than its model."""


@dataclass
class Case:
    """What was computed by both, and the largest differences.

    Attributes:
        what: "generated", "padded", or a picture's name.
        shape: batch, height and width of the canvas.
        differences: of `logits`, `pred_boxes` (relative), `scores` and `boxes` (in pixels) of the final detections, and of
            `masks` (probabilities).
        detections: how many were compared.
        unmatched: detections, or masks, that one has and the other has not, though no others score alike.
    """

    what: str
    shape: tuple[int, int, int]
    differences: dict[str, float] = field(default_factory=dict)
    detections: int = 0
    unmatched: int = 0

    def passes(self, bound: float) -> bool:
        pixels = max(self.shape[1:])
        return not self.unmatched and all(
            value <= bound * (pixels if name == "boxes" else 1) for name, value in self.differences.items()
        )  # NaN is not


@dataclass
class Certificate:
    """What was compared, and how large the differences are."""

    format: str
    dtype: str
    engine: str
    bound: float
    cases: list[Case]
    figures: dict[str, dict[str, float]] = field(default_factory=dict)  # "before" and "after", of a data set

    @property
    def largest(self) -> dict[str, float]:
        names = dict.fromkeys(name for case in self.cases for name in case.differences)
        return {name: float(np.max([case.differences.get(name, 0.0) for case in self.cases])) for name in names}

    @property
    def detections(self) -> int:
        return sum(case.detections for case in self.cases)

    def check(self) -> None:
        """Raises Refused where a difference is above the bound; names the first such case and its worst difference."""
        for case in self.cases:
            if not case.passes(self.bound):
                batch, height, width = case.shape
                worst = ", ".join(f"{name} {value:.2g}" for name, value in case.differences.items())
                alone = f", {case.unmatched} detections in one alone" if case.unmatched else ""
                raise Refused(
                    f"the {self.format} file does not compute what the model computes: {case.what}, batch {batch} of "
                    f"{height}×{width}: differences of {worst}{alone}; {self.bound:g} is allowed. Nothing was written"
                )

    def check_figures(self) -> None:
        """Raises Refused where the file scores clearly worse than the model."""
        before, after = (self.figures[when].get("AP", 0.0) for when in ("before", "after"))
        if after < LEAST_KEPT * before:
            raise Refused(
                f"the {self.dtype} file finds less than the model: AP {after:.3f} in place of {before:.3f}; at least "
                f"{LEAST_KEPT:.0%} of it must be kept. Nothing was written"
            )

    def to_dict(self, file: Path) -> dict[str, Any]:
        """As JSON has it; `file` is the exported one, or its folder."""
        return {
            "file": file.name,
            "sha256": {path.name: _sha256(path) for path in ([file] if file.is_file() else sorted(file.iterdir()))},
            "format": self.format,
            "dtype": self.dtype,
            "engine": self.engine,
            "reference": "the PyTorch model, float32",
            "bound": self.bound if math.isfinite(self.bound) else None,  # JSON has no infinity
            "largest_differences": self.largest,
            "detections_compared": self.detections,
            "cases": [
                {"what": case.what, "batch": case.shape[0], "height": case.shape[1], "width": case.shape[2]}
                | {"differences": case.differences, "detections": case.detections}
                for case in self.cases
            ],
            **({"data": self.figures} if self.figures else {}),
            "versions": _versions(),
        }


def certificate_name(output: Path) -> Path:
    """The file in which an exported one's certificate is."""
    return output.with_name(f"{output.name}.certificate.json")


def compare(
    model: ObjectDetectionModel | SegmentationModel,
    exported: ExportedModel,
    preprocessing: Preprocessing,
    pictures: Sequence[Path] = (),
    bound: float = BOUNDS["float32"],
) -> Iterator[Case]:
    """Let both compute the same, a case at a time.

    Args:
        model: in float32, in evaluation mode, as it was loaded.
        exported: the file, behind its engine.
        preprocessing: of the model's image processor.
        pictures: files, to be compared beside what is generated.
        bound: scores that differ by no more may change places.

    Raises:
        OSError: a picture cannot be read.
        Refused: the engine failed on a shape.
    """
    for what, canvas, pixel_mask, sizes in _inputs(model, exported, preprocessing, pictures):
        shape = len(canvas), canvas.shape[2], canvas.shape[3]
        limit = {"mask_limit": MOST_DETECTIONS} if exported.task != "detection" else {}
        with torch.inference_mode():
            expected = model(preprocessing.normalize(canvas), pixel_mask, **limit)
        try:
            found = exported(exported.prepared(canvas, preprocessing), pixel_mask)
        except RuntimeError as error:
            raise Refused(f"{what}, batch {shape[0]} of {shape[1]}×{shape[2]}: {error}. Nothing was written") from None
        yield _compared(Case(what, shape), found, expected, model, sizes, bound)


def _inputs(
    model: ObjectDetectionModel | SegmentationModel,
    exported: ExportedModel,
    preprocessing: Preprocessing,
    pictures: Sequence[Path],
) -> Iterator[tuple[str, Tensor, Tensor | None, list[tuple[int, int]]]]:
    """What both are given: its name, canvases uint8, their mask, and the sizes that boxes are given in."""
    detector = model.detector if isinstance(model, SegmentationModel) else model
    generator = torch.Generator().manual_seed(0)
    for batch, *sides in SHAPES:
        stride = min(detector.model.backbone.stride, 32)
        height, width = (max(33, side * stride // 32 | side % 2) for side in sides)  # odd ones stay odd
        canvas = _scene(batch, height, width, generator)
        yield "generated", canvas, None, [(height, width)] * batch
    if "pixel_mask" in exported.engine.inputs:
        sizes = [(70, 120), (101, 64), (64, 131)]
        canvas, pixel_mask = to_canvas([_scene(1, *size, generator)[0] for size in sizes])
        yield "padded", canvas, pixel_mask, sizes
    for path in pictures:
        canvas = preprocessing.read(path)[None]
        yield printable(path.name), canvas, None, [image_size(path)]


def _scene(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Clouds with some noise, uint8 (B, 3, H, W): smooth places and edges, as pictures have them."""
    coarse = torch.rand(batch, 3, 6, 6, generator=generator)
    clouds = functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    noise = torch.rand(batch, 3, height, width, generator=generator)
    return ((0.85 * clouds + 0.15 * noise) * 255).to(torch.uint8)


def _compared(
    case: Case,
    found: Any,
    expected: Any,
    model: ObjectDetectionModel | SegmentationModel,
    sizes: list[tuple[int, int]],
    bound: float,
) -> Case:
    for name in ("logits", "pred_boxes"):
        case.differences[name] = _largest(found[name], expected[name])
    classes = model.config.classes
    both = [
        detections_with_queries(one["logits"], one["pred_boxes"], classes, sizes, -1.0, MOST_DETECTIONS)
        for one in (found, expected)
    ]
    scores, boxes = [0.0], [0.0]
    for ours, theirs in zip(*both, strict=True):
        pairs, alone = _pairs(_keys(ours), _keys(theirs), ours["scores"], theirs["scores"], bound)
        case.detections, case.unmatched = case.detections + len(pairs), case.unmatched + alone
        mine, other = (
            (torch.tensor(rows, dtype=torch.int64) for rows in zip(*pairs, strict=True)) if pairs else ([], [])
        )
        scores.append(_largest(ours["scores"][mine], theirs["scores"][other]))
        boxes.append(_largest(ours["boxes"][mine], theirs["boxes"][other]))
    case.differences.update(scores=float(np.max(scores)), boxes=float(np.max(boxes)))
    if "pred_masks" in found:
        case.differences["masks"] = _mask_difference(found, expected)
    return case


def _keys(found: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    return list(zip(found["queries"].tolist(), found["labels"].tolist(), strict=True))


def _pairs(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]], own: Tensor, other: Tensor, bound: float
) -> tuple[list[tuple[int, int]], int]:
    """The rows of the same query and class in both; and how many are in one alone though they score clearly better than
    the last of the other, so that no tie at the end of the list explains it."""
    rows = {key: row for row, key in enumerate(theirs)}
    pairs = [(row, rows[key]) for row, key in enumerate(ours) if key in rows]
    matched = {row for row, _ in pairs}, {row for _, row in pairs}
    alone = 0
    for scores, kept, last in ((own, matched[0], other), (other, matched[1], own)):
        clear = float(last[-1]) + bound if len(last) else 0.0
        alone += sum(row not in kept and score > clear for row, score in enumerate(scores.tolist()))
    return pairs, alone


def _mask_difference(found: Any, expected: Any) -> float:
    """The largest difference of mask probabilities, of queries that both drew."""
    worst = [0.0]
    for ours, theirs, own, other in zip(
        found["mask_query_indices"].tolist(),
        expected["mask_query_indices"].tolist(),
        found["pred_masks"],
        expected["pred_masks"],
        strict=True,
    ):
        rows = {query: row for row, query in enumerate(theirs)}
        pairs = [(row, rows[query]) for row, query in enumerate(ours) if query in rows]
        mine, others = zip(*pairs, strict=True)
        worst.append(_largest(own[list(mine)].sigmoid(), other[list(others)].sigmoid()))
    return float(np.max(worst))


def _largest(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; infinite where shapes differ, NaN where a value is none."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours.double() - theirs.double()).abs().amax()) if ours.numel() else 0.0


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {"conditional-detr": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
