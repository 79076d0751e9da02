"""Boxes: their two notations and their overlap."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12  # keeps the ratios of boxes without area finite; far below the area of a pixel in any image


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(…, 4) centre and size -> (…, 4) corners."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(…, 4) corners -> (…, 4) centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalized intersection over union (arXiv 1902.09630) of boxes in corner notation.

    Args:
        a, b: (…, 4) xyxy, broadcast against each other.

    Returns:
        (…) in [-1, 1]; finite for boxes without area too.
    """
    inter = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - inter
    return inter / union.clamp(min=TINY) - (hull - union) / hull.clamp(min=TINY)


def _area(low: Tensor, high: Tensor) -> Tensor:
    width, height = (high - low).clamp(min=0).unbind(-1)
    return width * height
