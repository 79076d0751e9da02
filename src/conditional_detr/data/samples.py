"""Samples, batches of them, and the order they come in.

Nothing here has state: the batches of an epoch are a function of (seed, epoch), and what happens to a sample of (seed,
epoch, index). So training resumes exactly, with any number of workers and processes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from ..boxes import xyxy_to_cxcywh
from ..images.pixels import pad, resize
from ..images.read import read_image
from .formats.coco import DetectionDataset
from .transforms import augment, augment_masks

# Under `group_by_shape`, images are sorted by shape within this many batches: enough that most batches are of one shape,
# and few enough that epochs still differ.
GROUPING_WINDOW = 32
# Images of a step that may be the same ones again, where the data set has fewer: the largest batch of the recipes.
REPEATED_BATCH = 64


@dataclass
class Batch:
    """One micro-batch as workers make it: uint8 pixels, so that a quarter of the bytes travel."""

    images: Tensor  # (B, 3, H, W) uint8
    pixel_mask: Tensor | None  # (B, H, W) bool, True = real; None where nothing is padded
    labels: list[dict[str, Any]]
    padding: float  # share of the canvas that is padding
    bad_images: list[str]  # what was wrong with the images that were left out
    mismatched_sizes: int  # images whose file has another size than the JSON says

    def pin_memory(self) -> Batch:
        """Called by the loader where the batch is bound for a GPU."""
        self.images = self.images.pin_memory()
        self.pixel_mask = None if self.pixel_mask is None else self.pixel_mask.pin_memory()
        for label in self.labels:  # boxes and classes are sent all at once, see `matcher.gather_targets`
            if "masks" in label:
                label["masks"] = label["masks"].pin_memory()
        return self


def seed_of(*parts: object) -> int:
    """A seed that depends on all of the parts and nothing else."""
    return zlib.crc32("/".join(map(str, parts)).encode())


def read_sized_image(path: Any, height: int, width: int, least_side: int | None = None) -> Tensor:
    """Read an image that the annotations say is height × width: turned by its EXIF tag exactly where that gives this
    size. (3, h, w) uint8; h and w differ from what is said where neither orientation fits.

    Args:
        least_side: as in `read_image`; the size is then that of the image made smaller.
    """
    image = read_image(path, least_side=least_side)
    if not _is_of_size(image, height, width, least_side):
        untouched = read_image(path, exif=False, least_side=least_side)
        if _is_of_size(untouched, height, width, least_side):
            return untouched
    return image


def _is_of_size(image: Tensor, height: int, width: int, least_side: int | None) -> bool:
    """Whether an image (3, h, w) is height × width, or that as `read_image` makes it smaller."""
    most = 1 if least_side is None else min(height, width) // least_side
    smaller = next((s for s in (8, 4, 2) if s <= most), 1)
    return any(image.shape[-2:] == (-(-height // s), -(-width // s)) for s in (1, smaller))


class TrainingSet(Dataset):
    """Samples of a `DetectionDataset`, augmented. Its keys are (epoch, index).

    Labels have `class_labels` (n,) and `boxes` (n, 4), relative cxcywh, of the objects that are in sight and no crowds;
    if the data set was read with masks, also `masks` (n, h, w) bool, of the augmented image's own size, and objects
    without a pixel in sight are left out. Masks add to a sample's memory n · h · w bytes (twice that for a moment where
    objects are left out) and at most two masks of the file's size, or of 4 million pixels where that is more: see
    `masks.InstanceMasks.decode`.

    Args:
        least_side: the least short side in pixels that the transform needs; larger JPEG files are decoded smaller, see
            `read_image`. None decodes all of every file.
    """

    def __init__(
        self, coco: DetectionDataset, transform: v2.Transform, seed: int, least_side: int | None = None
    ) -> None:
        self.coco, self.transform, self.seed, self.least_side = coco, transform, seed, least_side

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, dict[str, Any], bool] | str:
        """Return image (3, H, W) uint8, label and whether the file's size was unexpected; or what is wrong with it: an
        error raised in a worker would reach the user as a traceback."""
        epoch, index = key
        coco = self.coco
        height, width = coco.sizes[index].tolist()
        try:
            image = read_sized_image(coco.image_path(index), height, width, self.least_side)
        except (OSError, ValueError) as error:
            return str(error)
        rows = np.arange(coco.first[index], coco.first[index + 1])
        rows = rows[~coco.crowds[rows]]
        boxes = torch.from_numpy(coco.boxes[rows])
        actual = (image.shape[-2], image.shape[-1])
        mismatched = not _is_of_size(image, height, width, self.least_side)
        if actual != (height, width):  # the same picture at another size: its boxes scale with it
            boxes = boxes * boxes.new_tensor([actual[1] / width, actual[0] / height] * 2)
        sample_seed = seed_of(self.seed, epoch, index)
        image, boxes, kept = augment(self.transform, image, boxes, sample_seed)
        rows = rows[kept.numpy()]
        size = (image.shape[-2], image.shape[-1])
        label: dict[str, Any] = {
            "class_labels": torch.from_numpy(coco.classes[rows]),
            "boxes": xyxy_to_cxcywh(boxes) / boxes.new_tensor([size[1], size[0]] * 2),
        }
        if coco.masks is not None:

            def change(full: Tensor) -> Tensor:
                if actual != (height, width):
                    full = resize(full, actual, Image.Resampling.NEAREST)
                return augment_masks(self.transform, full, sample_seed)

            try:
                label["masks"] = coco.masks.decode(index, rows, size, change)
            except (OSError, ValueError) as error:
                return str(error)
            seen = label["masks"].flatten(1).any(1)
            if not seen.all():
                label = {name: values[seen] for name, values in label.items()}
        label["image_id"] = coco.image_ids[index]
        return image, label, mismatched


def collate(samples: list[tuple[Tensor, dict[str, Any], bool] | str]) -> Batch:
    """Put samples on one canvas. Where every image of the batch was bad, a small black one without objects stands in,
    so that no process is left without a batch."""
    good = [sample for sample in samples if not isinstance(sample, str)]
    bad = [sample for sample in samples if isinstance(sample, str)]
    if not good:
        label = {
            "class_labels": torch.zeros(0, dtype=torch.int64),
            "boxes": torch.zeros(0, 4),
            "masks": torch.zeros(0, 64, 64, dtype=torch.bool),
            "image_id": None,
        }
        good = [(torch.zeros(3, 64, 64, dtype=torch.uint8), label, False)]
    images, labels, mismatched = zip(*good, strict=True)
    if all(image.shape == images[0].shape for image in images):
        return Batch(torch.stack(images), None, list(labels), 0.0, bad, sum(mismatched))
    canvas, mask = pad(images)
    padding = 1 - sum(image.numel() for image in images) / canvas.numel()
    return Batch(canvas, mask, list(labels), padding, bad, sum(mismatched))


class TrainingBatches(Sampler):
    """The micro-batches of one process, from a given step to the end of training, as lists of (epoch, index).

    A step takes `batch_size` images in all, the next ones of the epoch's permutation, whatever the number of processes
    and micro-batches they are split over. Images that do not fill a last step are left for the next epoch's
    permutation; a set smaller than a step is repeated to fill it, if that is of at most `REPEATED_BATCH` images.

    Args:
        sizes: (N, 2) height and width of the images.
        batch_size: images of an optimizer step, over all processes and micro-batches.
        parts: micro-batches of a step: processes × accumulation.
        own_parts: which of these are this process's.
        start_step: optimizer steps already done.
        group_by_shape: put images of like shape into a batch, so that less padding is computed.

    Raises:
        ValueError: a step would take the same images again and again.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        *,
        batch_size: int,
        parts: int,
        own_parts: range,
        epochs: int,
        seed: int,
        start_step: int = 0,
        group_by_shape: bool = False,
    ) -> None:
        if batch_size > max(len(sizes), REPEATED_BATCH):
            raise ValueError(
                f"batch_size is {batch_size}, and there are {len(sizes)} training images: a step would see the same ones "
                f"many times over. Take at most {max(len(sizes), REPEATED_BATCH)}"
            )
        self.sizes, self.batch_size, self.own_parts = sizes, batch_size, own_parts
        self.epochs, self.seed, self.start_step, self.group_by_shape = epochs, seed, start_step, group_by_shape
        self.part_size = batch_size // parts
        self.steps_per_epoch = max(1, len(sizes) // batch_size)

    def __len__(self) -> int:
        return (self.epochs * self.steps_per_epoch - self.start_step) * len(self.own_parts)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start_step, self.epochs * self.steps_per_epoch):
            epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
            if step_of_epoch == 0 or step == self.start_step:
                order = self.order(epoch)
            batch = order[step_of_epoch * self.batch_size : (step_of_epoch + 1) * self.batch_size]
            for part in self.own_parts:
                chosen = batch[part * self.part_size : (part + 1) * self.part_size]
                yield [(epoch, int(index)) for index in chosen]

    def order(self, epoch: int) -> np.ndarray:
        """The images of an epoch in the order they are used. (steps_per_epoch · batch_size,)"""
        rng = np.random.default_rng([self.seed, epoch])
        needed = self.steps_per_epoch * self.batch_size
        rounds = -(-needed // len(self.sizes))
        order = np.concatenate([rng.permutation(len(self.sizes)) for _ in range(rounds)])[:needed]
        if not self.group_by_shape:
            return order
        shape = np.log(self.sizes[:, 0] / self.sizes[:, 1])
        window = GROUPING_WINDOW * self.batch_size
        grouped = [
            chunk[np.argsort(shape[chunk], kind="stable")] for chunk in np.split(order, range(window, needed, window))
        ]
        batches = np.concatenate(grouped).reshape(-1, self.batch_size)
        return rng.permutation(batches).reshape(-1)
