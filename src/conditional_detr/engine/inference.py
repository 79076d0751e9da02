"""From image files to detections, many at a time: what evaluation and prediction share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config import Task
from ..data.loading import batches_by_shape, read_sized_image
from ..processing.image_processor import DetectionImageProcessor
from ..processing.pixels import normalize, pad, resize
from ..processing.segmentation import instance_masks, merge_panoptic
from ..processing.sizes import size_after_resize

REPAIR = "Repair or remove it, or leave such images out with --skip_bad_images true"
MOST_DETECTIONS = 100  # of an image: as many as COCO's evaluation takes
# Least score of a panoptic segment: the paper's for softmax scores; sigmoid scores trained by focal loss are lower.
PANOPTIC_THRESHOLD = {"detr": 0.85, "conditional_detr": 0.3}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def worker_count(workers: int) -> int:
    """The number of loading processes: as said, or (-1) one for each core, at most 8."""
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
    """Detect in many images, batched by shape so that nothing is padded.

    Args:
        model: a detector in evaluation mode.
        processor: the preprocessing that belongs to the model.
        sources: the images.
        threshold: least score.
        workers: processes that decode; 0 decodes here.
        skip_bad: yield what is wrong with an unreadable image instead of raising.
        share: (i, n) takes every n-th batch from the i-th on: together the n shares are every image once.
        precision: computes under autocast in this type.
        task, panoptic_threshold: see `detect_batch`.
        progress: called with the number of images done after each batch.

    Yields:
        The image's index, and `scores` (n,), `labels` (n,) and `boxes` (n, 4) xyxy in pixels of its size, on the CPU,
        best first, and what else `detect_batch` gives; or what is wrong with the image.
    """
    shapes = np.array([size_after_resize(*s.size, processor.size) if processor.do_resize else s.size for s in sources])
    batches = batches_by_shape(shapes.reshape(-1, 2), batch_size)[share[0] :: share[1]]
    loader = DataLoader(
        PreparedImages(sources, processor),
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=list,
        generator=torch.Generator(),  # its own, so that evaluation in the middle of training draws nothing from it
    )
    for samples in loader:
        good = [(index, image) for index, image in samples if not isinstance(image, str)]
        if good:
            indices, images = zip(*good, strict=True)
            sizes = [sources[index].size for index in indices]
            results = detect_batch(
                model, processor, list(images), sizes, threshold, precision, task, panoptic_threshold
            )
            yield from zip(indices, results, strict=True)
        for index, message in samples:
            if isinstance(message, str):
                if not skip_bad:
                    raise OSError(f"{message}. {REPAIR}")
                yield index, message
        if progress is not None:
            progress(len(samples))


@torch.inference_mode()
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
        panoptic_threshold: least score of a segment; None is `PANOPTIC_THRESHOLD` of the model's family.

    Returns:
        For each image, on the CPU, `scores`, `labels` and `boxes` of at most 100 detections, best first; for "instance"
        and "panoptic" also `masks`, their COCO run lengths; for "panoptic" also the map, `segmentation` (height, width)
        int32 and `segments_info`, of `merge_panoptic`.
    """
    device, dtype = model.device, model.dtype
    same = all(image.shape == images[0].shape for image in images)
    canvas, mask = (torch.stack(images), None) if same else pad(images)
    canvas = canvas.to(device, non_blocking=True)
    mask = None if mask is None else mask.to(device, non_blocking=True)
    pixels = normalize(
        canvas,
        processor.image_mean if processor.do_normalize else None,
        processor.image_std if processor.do_normalize else None,
        processor.rescale_factor if processor.do_rescale else None,
    ).to(dtype, memory_format=torch.channels_last)
    family, options = model.config.model_type, {}
    if task == "detection":
        model = getattr(model, "detector", model)
    else:
        segment_threshold = PANOPTIC_THRESHOLD[family] if panoptic_threshold is None else panoptic_threshold
        least = threshold if task == "instance" else min(threshold, segment_threshold)
        options = {"mask_score_threshold": least, "mask_limit": MOST_DETECTIONS}
    with torch.autocast(device.type, precision or torch.float32, enabled=precision is not None):
        output = model(pixels, mask, **options)
    if task == "detection":
        found = processor.post_process_object_detection(
            output, threshold=threshold, target_sizes=sizes, top_k=MOST_DETECTIONS
        )
    else:
        sigmoid = processor.sigmoid_classes
        found = instance_masks(output, sigmoid, sizes, threshold, MOST_DETECTIONS)
    if task == "panoptic":
        maps = merge_panoptic(output, sigmoid, sizes, model.config.is_thing, segment_threshold)
        found = [{**one, **drawn} for one, drawn in zip(found, maps, strict=True)]
    return [{k: v.cpu() if isinstance(v, Tensor) else v for k, v in one.items()} for one in found]
