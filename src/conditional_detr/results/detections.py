"""Predictions -> detections: scores, labels and boxes in pixels, an image at a time.

The device is waited for once a batch, however many images it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..classes import ClassReading
from ..precision import at_least_float32

TargetSizes = Tensor | Sequence[Sequence[int]]


def detections(
    logits: Tensor,
    pred_boxes: Tensor,
    classes: ClassReading,
    target_sizes: TargetSizes | None = None,
    threshold: float = 0.5,
    top_k: int | None = 100,
) -> list[dict[str, Tensor]]:
    """The detections of each image.

    Args:
        logits: (B, Q, C or C + 1).
        pred_boxes: (B, Q, 4) cxcywh, relative.
        classes: how the logits are read. By sigmoid, a query may appear with several classes.
        target_sizes: (height, width) in pixels of each image, as a list or as (B, 2); None leaves boxes relative.
        threshold: only scores above it.
        top_k: at most so many of an image; see `ClassReading.select`.

    Returns:
        for each image `scores` (n,) 0..1, `labels` (n,) int64 and `boxes` (n, 4) xyxy, n <= top_k, in the order of
        `ClassReading.select`.

    Raises:
        ValueError: `target_sizes` is not one pair an image.
    """
    found = detections_with_queries(logits, pred_boxes, classes, target_sizes, threshold, top_k)
    return [{name: one[name] for name in ("scores", "labels", "boxes")} for one in found]


def detections_with_queries(
    logits: Tensor,
    pred_boxes: Tensor,
    classes: ClassReading,
    target_sizes: TargetSizes | None,
    threshold: float,
    top_k: int | None,
) -> list[dict[str, Tensor]]:
    """As `detections`, and of each also its query, `queries` (n,) int64."""
    boxes = boxes_in_pixels(pred_boxes, target_sizes)
    scores, labels, queries = classes.select(logits, top_k)
    above = scores > threshold
    # Moving them to the front leaves one number an image to wait for, where a boolean index waits for each image thrice.
    order = above.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    scores, labels, queries = (values.gather(1, order) for values in (scores, labels, queries))
    boxes = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
    parts = {"scores": scores, "labels": labels, "boxes": boxes, "queries": queries}
    counts = above.sum(1).tolist()
    return [{name: values[i, :count] for name, values in parts.items()} for i, count in enumerate(counts)]


def boxes_in_pixels(pred_boxes: Tensor, target_sizes: TargetSizes | None) -> Tensor:
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
    if tuple(target_sizes.shape) != (pred_boxes.shape[0], 2):
        raise ValueError(
            f"target_sizes must have one (height, width) for each of the {len(pred_boxes)} images, "
            f"got the shape {tuple(target_sizes.shape)}"
        )
    scale = target_sizes.to(device=boxes.device, dtype=boxes.dtype, non_blocking=True)[:, [1, 0, 1, 0]]
    return boxes * scale[:, None]
