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

    Works on coordinates one at a time, so large inputs are fastest where each coordinate lies together in memory.

    Args:
        a, b: (…, 4) xyxy, broadcast against each other.

    Returns:
        (…) in [-1, 1]; finite for boxes without area too.
    """
    ax0, ay0, ax1, ay1 = a.unbind(-1)
    bx0, by0, bx1, by1 = b.unbind(-1)
    width = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp(min=0)
    height = (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp(min=0)
    inter = width * height
    area_a = (ax1 - ax0).clamp(min=0) * (ay1 - ay0).clamp(min=0)
    area_b = (bx1 - bx0).clamp(min=0) * (by1 - by0).clamp(min=0)
    union = area_a + area_b - inter
    hull = (torch.maximum(ax1, bx1) - torch.minimum(ax0, bx0)) * (torch.maximum(ay1, by1) - torch.minimum(ay0, by0))
    # inter / union - (hull - union) / hull
    return inter / union.clamp(min=TINY) + union / hull.clamp(min=TINY) - 1


def relative_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """(n, 4) boxes (x0, y0, x1, y1) in pixels of a `height` x `width` image -> (cx, cy, w, h) relative, 0..1."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height], dim=-1)
