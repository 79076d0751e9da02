"""The losses of a model on a data set, from the predictions that its evaluation makes anyway."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ..boxes import xyxy_to_cxcywh
from ..config import DetectionConfig
from ..data.dataset import DetectionDataset, classes_by_name
from ..losses.criterion import LossNormalizers, count_normalizers, detection_loss, share_normalizers

NAMES = ("loss_ce", "loss_bbox", "loss_giou")
AT_ONCE = 64  # images: one by one, most of the time would go into calling operations
OWN_SUM = LossNormalizers(1.0, 1.0)  # divides by nothing


class ValidationLoss:
    """`loss_ce`, `loss_bbox` and `loss_giou` of the last decoder layer, over all images as one batch; without crowds."""

    def __init__(self, config: DetectionConfig, dataset: DetectionDataset) -> None:
        self.config, self.dataset = config, dataset
        labels = [config.id2label[i] for i in range(config.num_labels)]
        self.class_of = np.array(classes_by_name(dataset.category_names, labels))
        self._sums = dict.fromkeys(("boxes", "class_weight", *NAMES), 0.0)
        self._waiting: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def add(self, index: int, logits: Tensor, boxes: Tensor) -> None:
        """Count an image of the data set in. logits: (Q, C or C + 1); boxes: (Q, 4) cxcywh, relative."""
        dataset = self.dataset
        rows = np.arange(dataset.first[index], dataset.first[index + 1])
        rows = rows[~dataset.crowds[rows]]
        height, width = dataset.sizes[index].tolist()
        corners = torch.from_numpy(dataset.boxes[rows]) / torch.tensor([width, height] * 2)
        label = {
            "class_labels": torch.from_numpy(self.class_of[dataset.classes[rows]]),
            "boxes": xyxy_to_cxcywh(corners),
        }
        self._waiting.append((logits, boxes, label))
        if len(self._waiting) == AT_ONCE:
            self._count()

    def sums(self) -> dict[str, float]:
        """The sums over all images so far, for `mean_losses`."""
        if self._waiting:
            self._count()
        return self._sums

    def _count(self) -> None:
        logits, boxes, labels = zip(*self._waiting, strict=True)
        self._waiting = []
        _, parts = detection_loss(
            self.config, torch.stack(logits)[None], torch.stack(boxes)[None], list(labels), OWN_SUM
        )
        count = count_normalizers(self.config, list(labels))
        self._sums["boxes"] += count.boxes
        self._sums["class_weight"] += count.class_weight
        for name in NAMES:
            self._sums[name] += parts[name].item()


def mean_losses(config: DetectionConfig, sums: Iterable[dict[str, float]]) -> dict[str, float]:
    """The losses from the sums of each process, divided as training divides those of a batch."""
    parts = list(sums)
    total = {name: sum(part[name] for part in parts) for name in parts[0]}
    normalizers = share_normalizers(LossNormalizers(total["boxes"], total["class_weight"]), 1)
    classes = config.classes.divisor(*normalizers)
    return {name: total[name] / (classes if name == "loss_ce" else normalizers.boxes) for name in NAMES}
