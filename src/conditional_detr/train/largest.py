"""The largest batches that a run's data can make, in training and in evaluation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from ..data.augmentation import Augmentation
from ..data.dataset import DetectionDataset
from ..data.sampler import TrainingBatches
from ..data.samples import Batch
from ..images.sizes import output_size
from ..predict.batches import batches_of_canvases, canvas_of
from .run import Run

LOOKED_AT = 2_000_000  # images of the run's batches, in their order: a second's work
DRAWN = 20_000  # as many where the size of each is drawn: five seconds' work


def largest_sizes(size: tuple[int, int], settings: Augmentation) -> list[tuple[int, int]]:
    """Height and width of what training can make of an image at the largest scale: of all of it, and of the tallest and the
    widest part that can be cut out."""
    shapes = [size]
    for scale in settings.crop_scales if settings.crop else ():
        sides = output_size(*size, scale)
        (least_height, height), (least_width, width) = (
            (min(side, settings.crop_min), min(side, settings.crop_max)) for side in sides
        )
        shapes += [(height, least_width), (least_height, width)]
    return [output_size(*shape, max(settings.scales), settings.max_size) for shape in shapes]


def largest_batch(data: DetectionDataset, batches: TrainingBatches, settings: Augmentation) -> Batch:
    """A micro-batch as large as any that training can meet: the canvas of the largest one that the run's order has, at the
    largest scale; objects as in the data's fullest images. Pixels, boxes and masks are drawn: they cost what real ones do.
    """
    sizes, which = np.unique(data.sizes, axis=0, return_inverse=True)
    possible = np.array([largest_sizes((int(h), int(w)), settings) for h, w in sizes])  # (S, P, 2)
    own = possible[np.arange(len(sizes)), possible.prod(2).argmax(1)][which.reshape(-1)]  # (N, 2), of the largest area
    # In a batch, the tallest image gives the canvas its height and the widest its width.
    most = own if np.diff(batches.bounds).max() == 1 else possible.max(1)[which.reshape(-1)]
    members, canvas = np.zeros(0, dtype=np.int64), np.zeros(2, dtype=np.int64)
    looked_at = LOOKED_AT if batches.drawn_size is None else DRAWN
    for epoch in range(max(1, min(batches.epochs, looked_at // max(1, len(data))))):
        steps = list(itertools.islice(batches.steps(epoch), max(1, looked_at // batches.batch_size)))
        order = np.concatenate(steps)
        starts = (np.arange(len(steps))[:, None] * batches.batch_size + batches.bounds[:-1]).reshape(-1)
        if batches.drawn_size is None:
            canvases = np.maximum.reduceat(most[order], starts)
        else:  # what is alike is together, so that the largest is not the tallest with the widest
            drawn = np.array([batches.drawn_size(epoch, int(index)) for index in order])
            canvases = np.maximum(np.maximum.reduceat(drawn, starts), own[order[starts]])
        largest = int(canvases.prod(1).argmax())
        if canvases[largest].prod() > canvas.prod():
            members, canvas = order[starts[largest] : [*starts, len(order)][largest + 1]], canvases[largest]
    height, width = canvas.tolist()
    counts = np.sort(data.objects_per_image())[::-1]
    counts = np.resize(counts[: len(members)], len(members))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (len(members), 3, height, width), dtype=torch.uint8, generator=generator)
    pixel_mask = torch.zeros(len(members), height, width, dtype=torch.bool)
    labels = []
    for i, ((h, w), count) in enumerate(zip(own[members].tolist(), counts.tolist(), strict=True)):
        h, w = min(h, height), min(w, width)
        pixel_mask[i, :h, :w] = True
        label: dict[str, Any] = {
            "class_labels": torch.zeros(count, dtype=torch.int64),
            "boxes": 0.25 + 0.25 * torch.rand(count, 4, generator=generator),
            "image_id": None,
        }
        if data.masks is not None:
            label["masks"] = torch.zeros(count, h, w, dtype=torch.bool)
            label["masks"][:, h // 4 : h // 2 + 1, w // 4 : w // 2 + 1] = True
        labels.append(label)
    return Batch(images, pixel_mask, labels, padding=0.0, bad_images=[], mismatched_sizes=0)


def largest_evaluation(run: Run, data: DetectionDataset) -> DetectionDataset:
    """The images of the largest batches of an evaluation, one for each process, and the image of most objects."""
    model, preprocessing = run.state.evaluated_model, run.processor.preprocessing
    canvases = [canvas_of((int(h), int(w)), preprocessing, model.canvas_step) for h, w in data.sizes]
    batches = batches_of_canvases(canvases, run.recipe.eval_batch_size, model.device)
    batches.sort(key=lambda batch: len(batch) * canvases[batch[0]][0] * canvases[batch[0]][1], reverse=True)
    chosen = {index for batch in batches[: run.processes.count] for index in batch}
    return data.subset(sorted({*chosen, int(data.objects_per_image().argmax())}))
