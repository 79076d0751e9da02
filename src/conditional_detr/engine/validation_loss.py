"""The losses of a model on a data set, from the predictions that its evaluation makes anyway."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ..config import DetectionConfig
from ..data.coco import CocoDataset, classes_by_name
from ..losses.boxes import xyxy_to_cxcywh
from ..losses.criterion import LossNormalizers, count_normalizers, detection_loss

NAMES = ("loss_ce", "loss_bbox", "loss_giou")
OWN_SUM = LossNormalizers(1.0, 1.0)  # divides by nothing


class ValidationLoss:
    """`loss_ce`, `loss_bbox` and `loss_giou` of the last decoder layer, over all images as one batch; without crowds."""

    def __init__(self, config: DetectionConfig, coco: CocoDataset) -> None:
        self.config, self.coco = config, coco
        labels = [config.id2label[i] for i in range(config.num_labels)]
        self.class_of = np.array(classes_by_name(coco.category_names, labels))
        self.sums = dict.fromkeys(("boxes", "class_weight", *NAMES), 0.0)

    def add(self, index: int, logits: Tensor, boxes: Tensor) -> None:
        """Count an image of the data set in. logits: (Q, C or C + 1); boxes: (Q, 4) cxcywh, relative."""
        coco = self.coco
        rows = np.arange(coco.first[index], coco.first[index + 1])
        rows = rows[~coco.crowds[rows]]
        height, width = coco.sizes[index].tolist()
        corners = torch.from_numpy(coco.boxes[rows]) / torch.tensor([width, height] * 2)
        label = {
            "class_labels": torch.from_numpy(self.class_of[coco.classes[rows]]),
            "boxes": xyxy_to_cxcywh(corners),
        }
        _, parts = detection_loss(self.config, logits[None, None], boxes[None, None], [label], OWN_SUM)
        count = count_normalizers(self.config, [label])
        self.sums["boxes"] += count.boxes
        self.sums["class_weight"] += count.class_weight
        for name in NAMES:
            self.sums[name] += parts[name].item()


def mean_losses(config: DetectionConfig, sums: Iterable[dict[str, float]]) -> dict[str, float]:
    """The losses from the sums of each process, divided as training divides those of a batch."""
    parts = list(sums)
    total = {name: sum(part[name] for part in parts) for name in parts[0]}
    boxes = max(total["boxes"], 1.0)
    classes = boxes if config.model_type == "conditional_detr" else max(total["class_weight"], 1e-6)
    return {name: total[name] / (classes if name == "loss_ce" else boxes) for name in NAMES}
