"""Training samples, and batches of them.

Nothing here has state: what happens to a sample is a function of (seed, epoch, index). So training resumes exactly, with any
number of workers and processes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ..boxes import xyxy_to_cxcywh
from ..images.pixels import resize
from ..images.prepare import to_canvas
from ..images.read import read_image
from .dataset import DetectionDataset
from .transforms import augment, augment_masks, augmented_size


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


def _is_of_size(image: Tensor, height: int, width: int, least_side: int | None) -> bool:
    """Whether an image (3, h, w) as `read_image` gives it was height × width in its file: it is that, or that
    made smaller."""
    most = 1 if least_side is None else min(height, width) // least_side
    smaller = next((s for s in (8, 4, 2) if s <= most), 1)
    return any(image.shape[-2:] == (-(-height // s), -(-width // s)) for s in (1, smaller))


class TrainingSet(Dataset):
    """Samples of a `DetectionDataset`, augmented. Its keys are (epoch, index).

    Labels have `class_labels` (n,) and `boxes` (n, 4), relative cxcywh, of the objects that are in sight and no crowds;
    if the data set was read with masks, also `masks` (n, h, w) bool, of the augmented image's own size, and objects
    without a pixel in sight are left out. Masks add to a sample's memory n · h · w bytes (twice that for a moment where
    objects are left out) and at most two masks of the file's size, or of 4 million pixels where that is more: see
    `InstanceMasks.decode`.

    Args:
        least_side: the least short side in pixels that the transform needs; larger JPEG files are decoded smaller, see
            `read_image`. None decodes all of every file.
    """

    def __init__(
        self, dataset: DetectionDataset, transform: v2.Transform, seed: int, least_side: int | None = None
    ) -> None:
        self.dataset, self.transform, self.seed, self.least_side = dataset, transform, seed, least_side

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, dict[str, Any], bool] | str:
        """Return image (3, H, W) uint8, label and whether the file's size was unexpected; or what is wrong with it: an
        error raised in a worker would reach the user as a traceback."""
        epoch, index = key
        dataset = self.dataset
        height, width = dataset.sizes[index].tolist()
        try:
            image = read_image(dataset.image_path(index), least_side=self.least_side, expected=(height, width))
        except (OSError, ValueError) as error:
            return str(error)
        rows = np.arange(dataset.first[index], dataset.first[index + 1])
        rows = rows[~dataset.crowds[rows]]
        boxes = torch.from_numpy(dataset.boxes[rows])
        actual = (image.shape[-2], image.shape[-1])
        mismatched = not _is_of_size(image, height, width, self.least_side)
        if actual != (height, width):  # the same picture at another size: its boxes scale with it
            boxes = boxes * boxes.new_tensor([actual[1] / width, actual[0] / height] * 2)
        sample_seed = seed_of(self.seed, epoch, index)
        image, boxes, kept = augment(self.transform, image, boxes, sample_seed)
        rows = rows[kept.numpy()]
        size = (image.shape[-2], image.shape[-1])
        label: dict[str, Any] = {
            "class_labels": torch.from_numpy(dataset.classes[rows]),
            "boxes": xyxy_to_cxcywh(boxes) / boxes.new_tensor([size[1], size[0]] * 2),
        }
        if dataset.masks is not None:

            def change(full: Tensor) -> Tensor:
                if actual != (height, width):
                    full = resize(full, actual, Image.Resampling.NEAREST)
                return augment_masks(self.transform, full, sample_seed)

            try:
                label["masks"] = dataset.masks.decode(index, rows, size, change)
            except (OSError, ValueError) as error:
                return str(error)
            seen = label["masks"].flatten(1).any(1)
            if not seen.all():
                label = {name: values[seen] for name, values in label.items()}
        label["image_id"] = dataset.image_ids[index]
        return image, label, mismatched

    def drawn_size(self, epoch: int, index: int) -> tuple[int, int]:
        """Height and width of the sample, without reading it: exact to a pixel or two, where a JPEG is decoded smaller."""
        height, width = self.dataset.sizes[index].tolist()
        return augmented_size(self.transform, (height, width), seed_of(self.seed, epoch, index))


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
    canvas, mask = to_canvas(images)
    padding = 1 - sum(image.numel() for image in images) / canvas.numel()
    return Batch(canvas, mask, list(labels), padding, bad, sum(mismatched))
