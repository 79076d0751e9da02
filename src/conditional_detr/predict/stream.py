"""From image files to detections, many at a time: what evaluation and prediction share."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..classes import ClassReading
from ..config import Task
from ..images.pixels import normalize, pad, resize
from ..images.read import ImageFile, read_resized, warnings_of
from ..messages import printable
from ..models.outputs import DetectionOutput
from ..precision import at_least_float32
from ..results.segments import instance_masks, merge_panoptic
from ..transformers.image_processor import DetectionImageProcessor
from ..workers import InSharedMemory, batches_of, leave_signals_to_the_parent
from .batches import _rounded_up, batches_of_canvases, canvas_of
from .memory import enough_memory, free_memory, too_large

REPAIR = "Repair or remove it, or leave such images out with --skip_bad_images true"
MOST_DETECTIONS = 100  # of an image: as many as COCO's evaluation takes
# Least score of a panoptic segment: the paper's for softmax scores; sigmoid scores trained by focal loss are lower.
PANOPTIC_THRESHOLD = {"detr": 0.85, "conditional_detr": 0.3}
# Shapes of batches for which a GPU records a graph each; batches of further shapes are computed without.
MOST_GRAPHS = 128
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def worker_count(workers: int, predicting_on: torch.device | None = None) -> int:
    """The number of loading processes: as said, or (-1) one for each core, at most 8; none where a CPU predicts, which
    needs its cores more (measured: 289 against 337 ms for an image of a mixed folder)."""
    if workers < 0 and predicting_on is not None and predicting_on.type == "cpu":
        return 0
    return workers if workers >= 0 else min(8, os.cpu_count() or 1)


@dataclass
class Source:
    """An image to detect in."""

    path: Path
    size: tuple[int, int]  # height and width of the picture as it is meant to be seen; boxes are given in it


class PreparedImages(Dataset):
    """Images as the model wants them, but for normalisation: decoded, turned, resized, uint8."""

    def __init__(self, sources: Sequence[Source], processor: DetectionImageProcessor) -> None:
        self.sources, self.processor = sources, processor

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        """Index, and the image (3, h, w) uint8 or what is wrong with it."""
        source = self.sources[index]
        try:
            with warnings_of(source.path):
                return index, read_prepared(source.path, self.processor, source.size)
        except (OSError, ValueError) as error:
            return index, str(error)


def prepare(image: Tensor, processor: DetectionImageProcessor) -> Tensor:
    """Resize an image as the processor says. (3, H, W) -> (3, h, w) uint8."""
    return resize(image, canvas_of((image.shape[-2], image.shape[-1]), processor), processor.resample)


def read_prepared(
    source: ImageFile, processor: DetectionImageProcessor, expected: tuple[int, int] | None = None
) -> Tensor:
    """An image file, prepared; `expected` as in `read_resized`, which keeps memory small for large images."""
    return read_resized(source, lambda *size: canvas_of(size, processor), processor.resample, expected)


def detect(
    model: Any,
    processor: DetectionImageProcessor,
    sources: Sequence[Source],
    *,
    threshold: float,
    batch_size: int,
    workers: int,
    skip_bad: bool = False,
    share: tuple[int, int] = (0, 1),
    precision: torch.dtype | None = None,
    task: Task = "detection",
    panoptic_threshold: float | None = None,
    window: int | None = None,
    raw: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> Generator[tuple[int, dict[str, Any] | str]]:
    """Detect in many images, batched by shape so that nothing is padded (or little; see `DetectionBase.canvas_step`).

    While a GPU computes a batch, the one before it becomes detections here, and workers decode the next ones.

    Args:
        model: a detector in evaluation mode.
        processor: the preprocessing that belongs to the model.
        sources: the images.
        threshold: least score.
        batch_size: at most so many at once; see `batches_of_canvases`.
        workers: processes that decode; 0 decodes here, which is faster where the CPU detects too.
        skip_bad: yield what is wrong with an image that cannot be read, or that memory would not hold, instead of raising.
        share: (i, n) takes every n-th batch from the i-th on: together the n shares are every image once.
        precision: computes under autocast in this type.
        task, panoptic_threshold: see `detect_batch`.
        window: only so many images that follow one another may share batches, so that results come about in order.
        raw: also give each image's `logits` and `pred_boxes`.
        progress: called with the number of images done after each batch.

    Yields:
        The image's index, and `scores` (n,), `labels` (n,) and `boxes` (n, 4) xyxy in pixels of its size, on the CPU,
        best first, and what else `detect_batch` gives; or what is wrong with the image.

    Raises:
        OSError: an image cannot be read, and `skip_bad` is not set.
        ValueError: memory would not hold an image; said before any is read.
        RuntimeError: memory ran out; the message says what to do.
    """
    canvases = [canvas_of(source.size, processor, model.canvas_step) for source in sources]
    batches: list[list[int]] = []
    step = window or max(1, len(sources))
    for first in range(0, len(sources), step):
        near = range(first, min(first + step, len(sources)))
        split = batches_of_canvases([canvases[i] for i in near], batch_size, model.device, _records(model))
        batches += [[near[i] for i in batch] for batch in split]
    own = batches[share[0] :: share[1]]  # of what all processes split alike, whatever memory each of them has
    free = free_memory(model.device)
    refused: dict[int, str] = {}
    for i in sorted(i for batch in own for i in batch):
        if (reason := too_large(canvases[i], model.device, model.dtype, free)) is not None:
            refused[i] = f"{printable(sources[i].path)}: {reason}"
            if not skip_bad:
                raise ValueError(refused[i])
    batches = [kept for batch in own if (kept := [i for i in batch if i not in refused])]
    loader = DataLoader(
        PreparedImages(sources, processor),
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=InSharedMemory(list),
        pin_memory=model.device.type == "cuda",
        worker_init_fn=leave_signals_to_the_parent,
        generator=torch.Generator(),  # its own, so that evaluation in the middle of training draws nothing from it
    )

    def results(
        samples: list[tuple[int, Tensor | str]], begun: Begun | None
    ) -> Iterator[tuple[int, dict[str, Any] | str]]:
        if begun is not None:
            good = [index for index, image in samples if not isinstance(image, str)]
            sizes = [sources[index].size for index in good]
            yield from zip(good, finish(model, processor, begun, sizes, wanted), strict=True)
        for index, message in samples:
            if isinstance(message, str):
                if not skip_bad:
                    raise OSError(f"{message}. {REPAIR}")
                yield index, message
        if progress is not None:
            progress(len(samples))

    wanted = Wanted(threshold, task, panoptic_threshold, raw)
    if refused:
        yield from refused.items()
        if progress is not None:
            progress(len(refused))
    before: tuple[list[tuple[int, Tensor | str]], Begun | None] | None = None
    with batches_of(loader) as prepared:
        for samples in prepared:
            images = [image for _, image in samples if not isinstance(image, str)]
            now = samples, start(model, processor, images, wanted, precision) if images else None
            if before is not None:
                yield from results(*before)
            before = now
        if before is not None:
            yield from results(*before)


class Wanted(NamedTuple):
    """What to look for; see `detect_batch`."""

    threshold: float
    task: Task = "detection"
    panoptic_threshold: float | None = None
    raw: bool = False  # also give each image's `logits` (Q, C) and `pred_boxes` (Q, 4), as the model does

    def segment_threshold(self, family: str) -> float:
        return PANOPTIC_THRESHOLD[family] if self.panoptic_threshold is None else self.panoptic_threshold


def detect_batch(
    model: Any,
    processor: DetectionImageProcessor,
    images: list[Tensor],
    sizes: Sequence[tuple[int, int]],
    threshold: float,
    precision: torch.dtype | None = None,
    task: Task = "detection",
    panoptic_threshold: float | None = None,
) -> list[dict[str, Any]]:
    """Detect in prepared images.

    Args:
        images: (3, h, w) uint8 each.
        sizes: (height, width) in which results are given.
        threshold: least score of a detection.
        precision: computes under autocast in this type.
        task: "instance" and "panoptic" need a segmentation model; "detection" takes its detector alone.
        panoptic_threshold: least score of a segment, of the 100 best queries; None is `PANOPTIC_THRESHOLD` of the model's family.

    Returns:
        For each image, on the CPU, `scores`, `labels` and `boxes` of at most 100 detections, best first; `best_score`,
        whether or not above the threshold, and `queries_used`, how many queries score above it; for "instance"
        and "panoptic" also `masks`, their COCO run lengths; for "panoptic" also the map, `segmentation` (height, width)
        int32 and `segments_info`, of `merge_panoptic`.
    """
    wanted = Wanted(threshold, task, panoptic_threshold)
    return finish(model, processor, start(model, processor, images, wanted, precision), sizes, wanted)


class Begun(NamedTuple):
    """A batch that the device works on."""

    output: Any  # for detection logits and boxes beside each other, (B, Q, C + 4), else the model's output
    done: torch.cuda.Event | None  # of a GPU: when `output` is there, for detection in the host's memory


@torch.inference_mode()
def start(
    model: Any,
    processor: DetectionImageProcessor,
    images: list[Tensor],
    wanted: Wanted,
    precision: torch.dtype | None = None,
) -> Begun:
    """Set the device to work on a batch, and to copy what it gives; for detection, nothing here waits for a GPU."""
    device, dtype = model.device, model.dtype
    largest = max(image.shape[-2] for image in images), max(image.shape[-1] for image in images)
    size, mask = _rounded_up(largest, model.canvas_step), None
    moved = [image.to(device, non_blocking=True) for image in images]
    if all(image.shape[-2:] == size for image in moved):
        canvas = torch.stack(moved)
    else:
        canvas, mask = pad(moved, size)
    pixels = normalize(
        canvas,
        processor.image_mean if processor.do_normalize else None,
        processor.image_std if processor.do_normalize else None,
        processor.rescale_factor if processor.do_rescale else None,
    ).to(dtype, memory_format=torch.channels_last)
    options: dict[str, Any] = {}
    detector = getattr(model, "detector", model) if wanted.task == "detection" else model
    if wanted.task != "detection":
        least = wanted.threshold
        if wanted.task == "panoptic":
            least = min(least, wanted.segment_threshold(model.config.model_type))
        options = {"mask_score_threshold": least, "mask_limit": MOST_DETECTIONS}
    with enough_memory(device), _autocast(device, precision), _bounded_graphs(model, (*pixels.shape, mask is None)):
        output = detector(pixels, mask, **options)
    if wanted.task == "detection":
        output = torch.cat((at_least_float32(output.logits), at_least_float32(output.pred_boxes)), dim=-1)
    if device.type != "cuda":
        return Begun(output, None)
    if wanted.task == "detection":
        pinned = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
        output = pinned.copy_(output, non_blocking=True)
    return Begun(output, torch.cuda.current_stream(device).record_event())


@torch.inference_mode()
def finish(
    model: Any, processor: DetectionImageProcessor, begun: Begun, sizes: Sequence[tuple[int, int]], wanted: Wanted
) -> list[dict[str, Any]]:
    """Turn what `start` began into what `detect_batch` returns. Waits for that batch alone, not for one started since."""
    output, classes = begun.output, processor.classes
    if wanted.task == "detection":
        if begun.done is not None:
            begun.done.synchronize()
        both = output.cpu()
        output = DetectionOutput(logits=both[..., :-4], pred_boxes=both[..., -4:])
        found = processor.post_process_object_detection(
            output, threshold=wanted.threshold, target_sizes=sizes, top_k=MOST_DETECTIONS
        )
        return _with_facts(found, output.logits, output.pred_boxes, classes, wanted)
    with _after(begun.done, model.device):
        found = instance_masks(output, classes, sizes, wanted.threshold, MOST_DETECTIONS)
        if wanted.task == "panoptic":
            least = wanted.segment_threshold(model.config.model_type)
            maps = merge_panoptic(output, classes, sizes, model.config.is_thing, least)
            found = [{**one, **drawn} for one, drawn in zip(found, maps, strict=True)]
        logits, boxes = (at_least_float32(part).cpu() for part in (output.logits, output.pred_boxes))
        found = _with_facts(found, logits, boxes, classes, wanted)
        return [{k: v.cpu() if isinstance(v, Tensor) else v for k, v in one.items()} for one in found]


def _autocast(device: torch.device, precision: torch.dtype | None) -> AbstractContextManager[None]:
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, precision or torch.float32, enabled=precision is not None)


def _with_facts(
    found: list[dict[str, Any]], logits: Tensor, boxes: Tensor, classes: ClassReading, wanted: Wanted
) -> list[dict[str, Any]]:
    """Add what `detect_batch` says of the queries' best scores, and what the model gave where that is wanted too. logits:
    (B, Q, C), boxes: (B, Q, 4), on the CPU."""
    scores = classes.scores(logits).amax(-1)  # (B, Q)
    best, used = scores.amax(1).tolist(), (scores > wanted.threshold).sum(1).tolist()
    found = [{**one, "best_score": b, "queries_used": u} for one, b, u in zip(found, best, used, strict=True)]
    if not wanted.raw:
        return found
    return [{**one, "logits": x, "pred_boxes": b} for one, x, b in zip(found, logits, boxes, strict=True)]


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


def _records(model: Any) -> bool:
    return getattr(model, "recorded_shapes", None) is not None


@contextmanager
def _bounded_graphs(model: Any, shape: tuple[Any, ...]) -> Iterator[None]:
    """Compute within without recorded graphs where those of `MOST_GRAPHS` other shapes are held already."""
    if not _records(model) or shape in model.recorded_shapes:
        yield
    elif len(model.recorded_shapes) < MOST_GRAPHS:
        yield
        model.recorded_shapes.add(shape)
    else:
        with torch.compiler.set_stance("force_eager"):
            yield
