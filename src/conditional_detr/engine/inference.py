"""From image files to detections, many at a time: what evaluation and prediction share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config import Task
from ..data.loading import batches_by_shape, read_sized_image
from ..data.workers import batches_of, leave_signals_to_the_parent
from ..models.outputs import DetectionOutput
from ..precision import at_least_float32
from ..processing.image_processor import DetectionImageProcessor
from ..processing.pixels import normalize, pad, resize
from ..processing.segmentation import instance_masks, merge_panoptic
from ..processing.sizes import size_after_resize
from .memory import check_size, enough_memory

REPAIR = "Repair or remove it, or leave such images out with --skip_bad_images true"
MOST_DETECTIONS = 100  # of an image: as many as COCO's evaluation takes
# Least score of a panoptic segment: the paper's for softmax scores; sigmoid scores trained by focal loss are lower.
PANOPTIC_THRESHOLD = {"detr": 0.85, "conditional_detr": 0.3}
# Pixels of a batch on a CPU: above, feature maps leave the caches (measured on R50 at 800×1066: an image takes 20 % longer
# in a batch of 8 than alone).
CPU_BATCH = 1_000_000
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
            image = read_sized_image(source.path, *source.size)
        except (OSError, ValueError) as error:
            return index, str(error)
        return index, prepare(image, self.processor)


def prepare(image: Tensor, processor: DetectionImageProcessor) -> Tensor:
    """Resize an image as the processor says. (3, H, W) -> (3, h, w) uint8."""
    if not processor.do_resize:
        return image
    return resize(image, size_after_resize(image.shape[-2], image.shape[-1], processor.size), processor.resample)


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
    progress: Callable[[int], Any] | None = None,
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Detect in many images, batched by shape so that nothing is padded (or little; see `DetectionBase.canvas_step`).

    While a GPU computes a batch, the one before it becomes detections here, and workers decode the next ones.

    Args:
        model: a detector in evaluation mode.
        processor: the preprocessing that belongs to the model.
        sources: the images.
        threshold: least score.
        batch_size: at most so many at once; see `batches_of_canvases`.
        workers: processes that decode; 0 decodes here, which is faster where the CPU detects too.
        skip_bad: yield what is wrong with an unreadable image instead of raising.
        share: (i, n) takes every n-th batch from the i-th on: together the n shares are every image once.
        precision: computes under autocast in this type.
        task, panoptic_threshold: see `detect_batch`.
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
    if canvases:
        largest = max(range(len(canvases)), key=lambda i: canvases[i][0] * canvases[i][1])
        check_size(canvases[largest], model.device, model.dtype, f"{sources[largest].path}: ")
    batches = batches_of_canvases(canvases, batch_size, model.device)[share[0] :: share[1]]
    loader = DataLoader(
        PreparedImages(sources, processor),
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=list,
        pin_memory=model.device.type == "cuda",
        worker_init_fn=leave_signals_to_the_parent,
        generator=torch.Generator(),  # its own, so that evaluation in the middle of training draws nothing from it
    )

    def results(samples: list[tuple[int, Tensor | str]], output: Any) -> Iterator[tuple[int, dict[str, Any] | str]]:
        good = [index for index, image in samples if not isinstance(image, str)]
        if good:
            sizes = [sources[index].size for index in good]
            yield from zip(good, finish(model, processor, output, sizes, wanted), strict=True)
        for index, message in samples:
            if isinstance(message, str):
                if not skip_bad:
                    raise OSError(f"{message}. {REPAIR}")
                yield index, message
        if progress is not None:
            progress(len(samples))

    wanted = Wanted(threshold, task, panoptic_threshold)
    before: tuple[list[tuple[int, Tensor | str]], Any] | None = None
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
        For each image, on the CPU, `scores`, `labels` and `boxes` of at most 100 detections, best first; for "instance"
        and "panoptic" also `masks`, their COCO run lengths; for "panoptic" also the map, `segmentation` (height, width)
        int32 and `segments_info`, of `merge_panoptic`.
    """
    wanted = Wanted(threshold, task, panoptic_threshold)
    return finish(model, processor, start(model, processor, images, wanted, precision), sizes, wanted)


@torch.inference_mode()
def start(
    model: Any,
    processor: DetectionImageProcessor,
    images: list[Tensor],
    wanted: Wanted,
    precision: torch.dtype | None = None,
) -> Any:
    """Set the device to work on a batch; for detection, nothing here waits for a GPU. Gives the model's output."""
    device, dtype = model.device, model.dtype
    largest = max(image.shape[-2] for image in images), max(image.shape[-1] for image in images)
    size, mask = _rounded_up(largest, model.canvas_step), None
    if all(image.shape[-2:] == size for image in images):
        canvas = torch.stack([image.to(device, non_blocking=True) for image in images])
    else:
        canvas, mask = (part.to(device, non_blocking=True) for part in pad(images, size))
    pixels = normalize(
        canvas,
        processor.image_mean if processor.do_normalize else None,
        processor.image_std if processor.do_normalize else None,
        processor.rescale_factor if processor.do_rescale else None,
    ).to(dtype, memory_format=torch.channels_last)
    options: dict[str, Any] = {}
    if wanted.task == "detection":
        model = getattr(model, "detector", model)
    else:
        least = wanted.threshold
        if wanted.task == "panoptic":
            least = min(least, wanted.segment_threshold(model.config.model_type))
        options = {"mask_score_threshold": least, "mask_limit": MOST_DETECTIONS}
    with enough_memory(device), torch.autocast(device.type, precision or torch.float32, enabled=precision is not None):
        return model(pixels, mask, **options)


@torch.inference_mode()
def finish(
    model: Any, processor: DetectionImageProcessor, output: Any, sizes: Sequence[tuple[int, int]], wanted: Wanted
) -> list[dict[str, Any]]:
    """Turn what `start` gave into what `detect_batch` returns."""
    if wanted.task == "detection":  # one copy, so one wait for the device
        both = torch.cat((at_least_float32(output.logits), at_least_float32(output.pred_boxes)), dim=-1).cpu()
        output = DetectionOutput(logits=both[..., :-4], pred_boxes=both[..., -4:])
        return processor.post_process_object_detection(
            output, threshold=wanted.threshold, target_sizes=sizes, top_k=MOST_DETECTIONS
        )
    sigmoid, config = processor.sigmoid_classes, model.config
    found = instance_masks(output, sigmoid, sizes, wanted.threshold, MOST_DETECTIONS)
    if wanted.task == "panoptic":
        least = wanted.segment_threshold(config.model_type)
        maps = merge_panoptic(output, sigmoid, sizes, config.is_thing, least)
        found = [{**one, **drawn} for one, drawn in zip(found, maps, strict=True)]
    return [{k: v.cpu() if isinstance(v, Tensor) else v for k, v in one.items()} for one in found]


def canvas_of(size: tuple[int, int], processor: DetectionImageProcessor, step: int = 1) -> tuple[int, int]:
    """Height and width of the canvas of an image of this size: resized, its sides rounded up to multiples of `step`."""
    return _rounded_up(size_after_resize(*size, processor.size) if processor.do_resize else size, step)


def batches_of_canvases(canvases: Sequence[tuple[int, int]], batch_size: int, device: torch.device) -> list[list[int]]:
    """Indices of images in batches of one canvas, at most `batch_size` each; on a CPU, of at most `CPU_BATCH` pixels."""
    batches = batches_by_shape(np.array(canvases).reshape(-1, 2), batch_size)
    if device.type != "cpu":
        return batches
    fewer = [max(1, CPU_BATCH // (canvases[batch[0]][0] * canvases[batch[0]][1])) for batch in batches]
    return [batch[i : i + n] for batch, n in zip(batches, fewer, strict=True) for i in range(0, len(batch), n)]


def _rounded_up(size: tuple[int, int], step: int) -> tuple[int, int]:
    return -(-size[0] // step) * step, -(-size[1] // step) * step
