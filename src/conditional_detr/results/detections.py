"""Predictions -> detections: scores, labels and boxes in pixels, an image at a time.

Both functions take `logits` (B, Q, C) and `pred_boxes` (B, Q, 4) (cx, cy, w, h) relative to the image, and wait for the
device once a batch, however many images it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..precision import at_least_float32

TargetSizes = Tensor | Sequence[Sequence[int]]


def conditional_detr_detections(
    logits: Tensor,
    pred_boxes: Tensor,
    target_sizes: TargetSizes | None = None,
    threshold: float = 0.5,
    top_k: int | None = 100,
) -> list[dict[str, Tensor]]:
    """Conditional DETR's detections: sigmoid, then the best (query, class) pairs; a query may appear with many classes.

    Args:
        logits: (B, Q, C).
        pred_boxes: (B, Q, 4) cxcywh, relative.
        target_sizes: (height, width) in pixels of each image, as a list or as (B, 2); None leaves boxes relative.
        threshold: only scores above it.
        top_k: at most so many of an image; None for all Q * C.

    Returns:
        for each image `scores` (n,) 0..1, highest first, `labels` (n,) int64 and `boxes` (n, 4) xyxy, n <= top_k.

    Raises:
        ValueError: `target_sizes` is not one pair an image.
    """
    boxes = _boxes_in_pixels(pred_boxes, target_sizes)
    classes = logits.shape[-1]
    probabilities = at_least_float32(logits).sigmoid().flatten(1)  # (B, Q * C)
    pairs = probabilities.shape[1]
    scores, pair = probabilities.topk(pairs if top_k is None else min(top_k, pairs), dim=1)
    query = pair.div(classes, rounding_mode="floor")
    return _above(threshold, scores, pair % classes, _take(boxes, query))


def detr_detections(
    logits: Tensor,
    pred_boxes: Tensor,
    target_sizes: TargetSizes | None = None,
    threshold: float = 0.5,
    top_k: int | None = None,
) -> list[dict[str, Tensor]]:
    """DETR's detections: softmax, the last class ("no object") dropped, the best class of each query.

    Args:
        logits: (B, Q, C + 1).
        pred_boxes, target_sizes, threshold: see `conditional_detr_detections`.
        top_k: None keeps all queries, in their own order; a number keeps so many, the highest score first.

    Returns:
        for each image `scores` (n,) 0..1, `labels` (n,) int64 and `boxes` (n, 4) xyxy, n <= Q.

    Raises:
        ValueError: `target_sizes` is not one pair an image.
    """
    boxes = _boxes_in_pixels(pred_boxes, target_sizes)
    scores, labels = at_least_float32(logits).softmax(-1)[..., :-1].max(-1)  # (B, Q)
    if top_k is not None:
        scores, query = scores.topk(min(top_k, scores.shape[1]), dim=1)
        labels, boxes = labels.gather(1, query), _take(boxes, query)
    return _above(threshold, scores, labels, boxes)


def _boxes_in_pixels(pred_boxes: Tensor, target_sizes: TargetSizes | None) -> Tensor:
    """(B, Q, 4) xyxy, in pixels of the target sizes, or relative without them."""
    cx, cy, width, height = at_least_float32(pred_boxes).unbind(-1)
    boxes = torch.stack([cx - 0.5 * width, cy - 0.5 * height, cx + 0.5 * width, cy + 0.5 * height], dim=-1)
    if target_sizes is None:
        return boxes
    if not isinstance(target_sizes, Tensor):
        try:
            target_sizes = torch.tensor([[float(height), float(width)] for height, width in target_sizes]).reshape(
                -1, 2
            )
        except (TypeError, ValueError):
            raise ValueError(f"target_sizes must be (height, width) of each image, got {target_sizes!r}") from None
    if tuple(target_sizes.shape) != (len(pred_boxes), 2):
        raise ValueError(
            f"target_sizes must have one (height, width) for each of the {len(pred_boxes)} images, "
            f"got the shape {tuple(target_sizes.shape)}"
        )
    scale = target_sizes.to(device=boxes.device, dtype=boxes.dtype, non_blocking=True)[:, [1, 0, 1, 0]]
    return boxes * scale[:, None]


def _above(threshold: float, scores: Tensor, labels: Tensor, boxes: Tensor) -> list[dict[str, Tensor]]:
    """The entries of each image, scores (B, K), above the threshold, in their order.

    Moving them to the front leaves one number an image to wait for, where a boolean index waits for each image thrice.
    """
    above = scores > threshold
    order = above.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    scores, labels, boxes = scores.gather(1, order), labels.gather(1, order), _take(boxes, order)
    return [
        {"scores": scores[index, :count], "labels": labels[index, :count], "boxes": boxes[index, :count]}
        for index, count in enumerate(above.sum(1).tolist())
    ]


def _take(boxes: Tensor, query: Tensor) -> Tensor:
    """boxes (B, Q, 4) at query (B, K) -> (B, K, 4)."""
    return boxes.gather(1, query[..., None].expand(-1, -1, 4))
