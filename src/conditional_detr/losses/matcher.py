"""Hungarian matching of queries to targets, for all decoder layers and images in one go."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..boxes import generalized_iou
from ..config import DetectionConfig
from ..precision import at_least_float32


class Targets(NamedTuple):
    """All objects of a batch, one after another. T = their number, over all images."""

    classes: Tensor  # (T,) int64, 0…C-1
    boxes: Tensor  # (T, 4) cxcywh, relative
    image: Tensor  # (T,) int64: which image of the batch
    counts: list[int]  # objects of each image


class Matches(NamedTuple):
    """Matched (layer, image, query, target) quadruples, each (M,) int64. `target` counts through the whole batch."""

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor


def gather_targets(labels: list[dict[str, Any]], device: torch.device, dtype: torch.dtype = torch.float32) -> Targets:
    """Concatenate the labels of a batch: dicts with `class_labels` (n,) and `boxes` (n, 4) cxcywh, relative."""
    counts = [len(label["class_labels"]) for label in labels]
    image = np.repeat(np.arange(len(labels)), counts)
    classes = torch.cat([label["class_labels"] for label in labels])
    boxes = torch.cat([label["boxes"].reshape(-1, 4) for label in labels])
    return Targets(
        to_device(classes, device).to(torch.int64),
        to_device(boxes, device).to(dtype),
        to_device(torch.from_numpy(image), device),
        counts,
    )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor to a device without waiting until it is there: to a GPU from pinned memory, since from other memory
    the host waits for all that the GPU has still to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@torch.no_grad()
def match(config: DetectionConfig, logits: Tensor, boxes: Tensor, targets: Targets) -> Matches:
    """Assign to each target the query that makes the sum of costs least, per layer and image.

    cost = class_cost · class + bbox_cost · L1 - giou_cost · GIoU; the class cost is the family's, `config.classes`. Only the cost of a query of the same image is computed: L·T·Q numbers, moved to the host at once.
    Costs that are not finite count as very large, so that the caller can find the fault in the loss itself.

    Args:
        logits: (L, B, Q, C or C + 1).
        boxes: (L, B, Q, 4) cxcywh, relative.

    Returns:
        min(T_b, Q) matches for each layer and image b, ordered by layer and image.
    """
    logits, boxes = logits.detach(), at_least_float32(boxes.detach())
    image, classes = targets.image, targets.classes
    class_cost = config.classes.match_cost(logits, image, classes)  # (T, L, Q)
    # Predictions of the target's own image, each coordinate in one piece: (4, T, L, Q).
    own = boxes.permute(3, 1, 0, 2)[:, image]
    target = targets.boxes.t()[:, :, None, None]  # (4, T, 1, 1)
    l1 = (own - target).abs_().sum(0)
    giou = generalized_iou(_planar_corners(own), _planar_corners(target))
    cost = config.class_cost * class_cost + config.bbox_cost * l1 - config.giou_cost * giou  # (T, L, Q)
    return _assign(cost.cpu().numpy(), targets.counts, logits.device)


def _planar_corners(boxes: Tensor) -> Tensor:
    """(4, …) cxcywh -> (…, 4) xyxy, a view in which each coordinate still lies in one piece."""
    centre, half = boxes[:2], boxes[2:] / 2
    return torch.cat((centre - half, centre + half)).movedim(0, -1)


def _assign(cost: np.ndarray, counts: list[int], device: torch.device) -> Matches:
    """Solve the assignment of each layer and image. cost: (T, L, Q) with the targets of one image beside each other."""
    if not np.isfinite(cost).all():
        cost = np.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=-1e6)
    columns: list[np.ndarray] = []
    ends = np.cumsum(counts)
    for layer in range(cost.shape[1]):
        for image, (end, count) in enumerate(zip(ends, counts, strict=True)):
            if count:
                target, query = linear_sum_assignment(cost[end - count : end, layer])
                where = np.broadcast_to([[layer], [image]], (2, len(query)))
                columns.append(np.vstack((where, query, target + end - count)))
    flat = np.concatenate(columns, axis=1) if columns else np.zeros((4, 0), dtype=np.int64)
    return Matches(*to_device(torch.from_numpy(flat.astype(np.int64)), device))
