"""Where pictures are detected in: a model on a GPU, or on some threads of a CPU, which keeps it from batch to batch."""

from __future__ import annotations

import base64
import dataclasses
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow
import torch

from .. import __version__
from ..config import Task
from ..predict.batches import PreparedBatch, canvas_of
from ..predict.image_files import detections_row, error_row
from ..predict.memory import free_memory, too_large
from ..predict.row_file import json_line
from ..predict.run import run_batches
from ..results.image_results import ImageResults
from ..results.named import named_detections, named_map
from ..results.panoptic_files import panoptic_png_bytes
from .model_files import ModelFiles
from .read import Batch, Batching, images_of


@dataclass(frozen=True)
class Detecting:
    """What is asked of a model; see `run_batches`.

    Args:
        model: what to open.
        options: of `Detector.from_pretrained`.
        threads: that compute, on a CPU.
        for_scores: results as evaluation takes them, pickled `ImageResults`, not rows.
    """

    model: ModelFiles
    options: Mapping[str, Any]
    threads: int
    threshold: float
    task: Task | None = None  # None: the most that the model can
    panoptic_threshold: float | None = None
    for_scores: bool = False


def batching_of(asked: Detecting, version: str, batch_size: int, window: int) -> Batching:
    """How pictures must be prepared for a model; opened for that where it will be used, so that what is wrong with it there
    is said before any picture is read.

    Raises:
        OSError, ValueError: see `Detector.from_pretrained`.
        RuntimeError: this package is of another version than `version`, the caller's.
    """
    if version != __version__:
        raise RuntimeError(
            f"the cluster's machines have conditional-detr {__version__}, and this one {version}: install the same on all"
        )
    detector = asked.model.detector(**asked.options)
    model = detector.model
    return Batching(
        detector.processor.preprocessing, batch_size, window, model.canvas_step, model.recorded_shapes is not None, model.device.type
    )  # fmt: skip


class BatchDetector:
    """Detects in batches that `PartReader` made.

    Args:
        asked: what is asked, or Ray's reference to it, by which machines keep one copy each.
    """

    def __init__(self, asked: Any) -> None:
        if not isinstance(asked, Detecting):
            import ray

            asked = ray.get(asked)
        torch.set_num_threads(asked.threads)
        self.asked: Detecting = asked
        self.detector = asked.model.detector(**asked.options)

    def __call__(self, rows: pyarrow.Table) -> pyarrow.Table:
        """A row a picture: the file of its part, how many pictures that has, its position in the part, and what is found in it."""
        found = [
            (batch.part, batch.count, position, row)
            for batch, results in self._run(rows)
            for position, row in self._rows(batch, results)
        ]
        columns = zip(*found, strict=True)
        return pyarrow.table(dict(zip(("part", "count", "position", "row"), columns, strict=True)))

    def _run(self, rows: pyarrow.Table) -> Iterator[tuple[Batch, list[ImageResults]]]:
        model, asked = self.detector.model, self.asked
        preprocessing = self.detector.processor.preprocessing
        batches = [pickle.loads(value.as_py()) for value in rows["batch"]]
        prepared = (self._prepared(*one) for one in zip(batches, rows["pixels"], strict=True))
        found = run_batches(
            model, preprocessing, prepared, threshold=asked.threshold, task=asked.task or model.task,
            panoptic_threshold=asked.panoptic_threshold,
        )  # fmt: skip
        for batch, (_, results) in zip(batches, found, strict=True):
            yield batch, results

    def _prepared(self, batch: Batch, pixels: pyarrow.Scalar) -> PreparedBatch:
        """A batch, without pictures that memory would not hold."""
        model = self.detector.model
        images = images_of(batch, pixels.as_buffer())
        if images:
            canvas = canvas_of(batch.sizes[0], self.detector.processor.preprocessing, model.canvas_step)
            reason = too_large(canvas, model.device, model.dtype, free_memory(model.device))
            if reason is not None:
                batch.refuse(reason)
                images = []
        return PreparedBatch(images, batch.sizes, batch.positions)

    def _rows(self, batch: Batch, results: list[ImageResults]) -> Iterator[tuple[int, bytes]]:
        for position, name, message in batch.unreadable:
            yield position, pickle.dumps(message) if self.asked.for_scores else json_line(error_row(name, message))
        for position, name, size, found in zip(batch.positions, batch.names, batch.sizes, results, strict=True):
            yield position, _for_scores(found) if self.asked.for_scores else json_line(self._row(name, size, found))

    def _row(self, name: str, size: tuple[int, int], found: ImageResults) -> dict[str, Any]:
        """As `cdetr predict` writes it; of a panoptic model with the map itself."""
        names = self.detector.model.config.id2label
        row = detections_row(name, size, named_detections(found, names))
        if found.segmentation is not None:
            named = named_map(found, names)
            row["panoptic_png"] = base64.b64encode(panoptic_png_bytes(named.ids)).decode("ascii")
            row["segments"] = [asdict(segment) for segment in named.segments]
        return row


def _for_scores(found: ImageResults) -> bytes:
    """Without what evaluation does not look at."""
    nothing = np.empty(0)
    return pickle.dumps(dataclasses.replace(found, logits=nothing, pred_boxes=nothing))
