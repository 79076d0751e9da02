"""A data set as both examples read it: pictures with annotations, and batches made by the image processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from conditional_detr import ConditionalDetrImageProcessor, DetrImageProcessor
from conditional_detr.data.dataset import DetectionDataset
from conditional_detr.images.read import read_image


def classes_of(data: DetectionDataset) -> dict[str, Any]:
    """What the model is to know about the classes, as arguments of `from_pretrained`."""
    return {"id2label": dict(enumerate(data.category_names)), "category_ids": data.category_ids}


class Pictures(Dataset):
    """(picture, annotation) of each image, in training flipped half of the time.

    The category of an annotation is the class, 0…C-1, not the data set's own id, which may have holes.
    """

    def __init__(self, data: DetectionDataset, flip: bool) -> None:
        self.data, self.flip = data, flip

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        data = self.data
        height, width = data.sizes[index].tolist()
        image = read_image(
            data.image_path(index), expected=(height, width)
        )  # (3, H, W), the way up that the boxes mean
        own = slice(data.first[index], data.first[index + 1])
        boxes = torch.from_numpy(data.boxes[own]).clone()  # (n, 4) xyxy, pixels
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(boxes.tolist(), data.classes[own].tolist(), data.crowds[own].tolist(), strict=True)
        objects = [{"bbox": box, "category_id": label, "iscrowd": int(crowd)} for box, label, crowd in rows]
        return image, {"image_id": data.image_ids[index], "annotations": objects}


@dataclass
class Collate:
    """Samples -> {"pixel_values", "pixel_mask", "labels"}."""

    processor: ConditionalDetrImageProcessor | DetrImageProcessor

    def __call__(self, samples: list[tuple[Tensor, dict[str, Any]]]) -> dict[str, Any]:
        images, annotations = zip(*samples, strict=True)
        return self.processor(images=list(images), annotations=list(annotations), return_tensors="pt")
