"""A model at work: batches of prepared images in, results of each image out.

While a GPU computes a batch, the one before it becomes results here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..classes import ClassReading
from ..config import Task
from ..engines.exported import AnyModel, ExportedModel
from ..images.prepare import Preprocessing, to_canvas
from ..models.detector import ObjectDetectionModel
from ..models.outputs import SegmentationOutput
from ..precision import at_least_float32
from ..results.image_results import MOST_DETECTIONS, ImageResults, image_results
from ..results.segments import MaskPredictions
from .batches import rounded_up
from .memory import enough_memory

# Shapes of batches for which a GPU records a graph each; batches of further shapes are computed without.
MOST_GRAPHS = 128


@dataclass
class PreparedBatch:
    """Images of one canvas, or little less, as `Preprocessing` resizes them."""

    images: list[Tensor]  # (3, h, w) uint8 each
    sizes: list[tuple[int, int]]  # (height, width) in which the results of each are given
    indices: list[int]  # of the images among those that were asked for
    unreadable: list[tuple[int, str]] = field(default_factory=list)  # other images, and what is wrong with them


def run_batches(
    model: AnyModel,
    preprocessing: Preprocessing,
    batches: Iterable[PreparedBatch],
    *,
    threshold: float,
    task: Task = "detection",
    panoptic_threshold: float | None = None,
    precision: torch.dtype | None = None,
) -> Iterator[tuple[PreparedBatch, list[ImageResults]]]:
    """Run a model on batches; the next one is taken and begun before a batch's results are made.

    Args:
        model: in evaluation mode.
        preprocessing: says how pixels are normalised.
        batches: may be without images.
        threshold: least score of a detection.
        task: "instance" and "panoptic" need a segmentation model; "detection" takes its detector alone.
        panoptic_threshold: least score of a segment; None is the family's, `DetectionConfig.panoptic_threshold`.
        precision: computes under autocast in this type.

    Yields:
        Each batch, and the results of its images.

    Raises:
        RuntimeError: memory ran out; the message says what to do.
    """
    config = model.config
    is_thing = config.is_thing if task == "panoptic" else None
    if panoptic_threshold is None:
        panoptic_threshold = config.panoptic_threshold
    masks_above = None if task == "detection" else threshold
    if task == "panoptic":
        masks_above = min(threshold, panoptic_threshold)

    def results(batch: PreparedBatch, started: Started | None) -> list[ImageResults]:
        if started is None:
            return []
        return finish(started, config.classes, batch.sizes, threshold, is_thing, panoptic_threshold)

    before: tuple[PreparedBatch, Started | None] | None = None
    for batch in batches:
        started = start(model, preprocessing, batch.images, masks_above, precision) if batch.images else None
        if before is not None:
            yield before[0], results(*before)
        before = batch, started
    if before is not None:
        yield before[0], results(*before)


class Started(NamedTuple):
    """A batch that the device works on."""

    output: Tensor | SegmentationOutput  # without masks, logits and boxes beside each other, (B, Q, C + 4)
    device: torch.device
    done: torch.cuda.Event | None  # of a GPU: when `output` is there, a tensor in the host's memory


@torch.inference_mode()
def start(
    model: AnyModel,
    preprocessing: Preprocessing,
    images: Sequence[Tensor],
    masks_above: float | None = None,
    precision: torch.dtype | None = None,
) -> Started:
    """Set the device to work on a batch, and to copy what it gives; without masks, nothing here waits for a GPU.

    Args:
        images: (3, h, w) uint8 each, prepared.
        masks_above: of a segmentation model, the least score of a query whose mask is drawn, of the `MOST_DETECTIONS` best;
            None draws none.
        precision: see `run_batches`.
    """
    device = model.device
    largest = max(image.shape[-2] for image in images), max(image.shape[-1] for image in images)
    moved = [image.to(device, non_blocking=True) for image in images]
    canvas, pixel_mask = to_canvas(moved, rounded_up(largest, model.canvas_step))
    if isinstance(model, ExportedModel):
        pixels = model.prepared(canvas, preprocessing)
    else:
        pixels = preprocessing.normalize(canvas).to(model.dtype, memory_format=torch.channels_last)
    shape = (*pixels.shape, pixel_mask is None)
    with enough_memory(device), _autocast(device, precision), _bounded_graphs(model, shape):
        if masks_above is not None:
            output: Any = model(pixels, pixel_mask, mask_score_threshold=masks_above, mask_limit=MOST_DETECTIONS)
        else:
            output = (model if isinstance(model, ObjectDetectionModel) else model.detector)(pixels, pixel_mask)
    if masks_above is None:
        output = torch.cat((at_least_float32(output.logits), at_least_float32(output.pred_boxes)), dim=-1)
    if device.type != "cuda":
        return Started(output, device, None)
    if isinstance(output, Tensor):
        pinned = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
        output = pinned.copy_(output, non_blocking=True)
    return Started(output, device, torch.cuda.current_stream(device).record_event())


@torch.inference_mode()
def finish(
    started: Started,
    classes: ClassReading,
    sizes: Sequence[tuple[int, int]],
    threshold: float,
    is_thing: Sequence[bool] | None,
    segment_threshold: float,
) -> list[ImageResults]:
    """Make the results of a batch that was started; see `image_results`. Waits for that batch alone, not for one started
    since."""
    output, device, done = started
    if isinstance(output, Tensor):
        if done is not None:
            done.synchronize()
        both = output.cpu()
        return image_results(both[..., :-4], both[..., -4:], classes, sizes, threshold)
    with _after(done, device):
        masks = MaskPredictions(output.logits, output.pred_masks, output.mask_query_indices, output.mask_sizes)
        return image_results(
            output.logits, output.pred_boxes, classes, sizes, threshold, masks, is_thing, segment_threshold
        )


def _autocast(device: torch.device, precision: torch.dtype | None) -> AbstractContextManager[None]:
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, precision or torch.float32, enabled=precision is not None)


@contextmanager
def _after(done: torch.cuda.Event | None, device: torch.device) -> Iterator[None]:
    """On a GPU, what is computed within waits for `done` alone, not for what was queued since; and is done at the end."""
    if done is None:
        yield
        return
    stream = _second_stream(device)
    stream.wait_event(done)
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


@lru_cache(maxsize=16)
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def _bounded_graphs(model: AnyModel, shape: tuple[Any, ...]) -> Iterator[None]:
    """Compute within without recorded graphs where those of `MOST_GRAPHS` other shapes are held already."""
    recorded = model.recorded_shapes
    if recorded is None or shape in recorded:
        yield
    elif len(recorded) < MOST_GRAPHS:
        yield
        recorded.add(shape)
    else:
        with torch.compiler.set_stance("force_eager"):
            yield
