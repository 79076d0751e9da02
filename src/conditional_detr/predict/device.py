"""A PyTorch model at work on a device: a batch is begun, and finished later, so that a GPU never waits for what is made of results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..classes import ClassReading
from ..engines.exported import ExportedModel
from ..images.prepare import Preprocessing, to_canvas
from ..models.detector import ObjectDetectionModel
from ..models.outputs import SegmentationOutput
from ..precision import at_least_float32
from ..results.image_results import MOST_DETECTIONS, ImageResults, image_results
from ..results.segments import MaskPredictions
from .batches import rounded_up
from .memory import enough_memory

if TYPE_CHECKING:
    from ..engines.exported import AnyModel

# Shapes of batches for which a GPU records a graph each; batches of further shapes are computed without.
MOST_GRAPHS = 128


class Started(NamedTuple):
    """A batch that the device works on."""

    output: Tensor | SegmentationOutput  # without masks, logits and boxes beside each other, (B, Q, C + 4)
    device: torch.device
    done: torch.cuda.Event | None  # of a GPU: when `output` is there, a tensor in the host's memory


@torch.inference_mode()
def start(
    model: AnyModel,
    preprocessing: Preprocessing,
    images: Sequence[Tensor] | Sequence[np.ndarray],
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
    device = torch.device(str(model.device))
    largest = max(image.shape[-2] for image in images), max(image.shape[-1] for image in images)
    moved = [torch.as_tensor(image).to(device, non_blocking=True) for image in images]
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
