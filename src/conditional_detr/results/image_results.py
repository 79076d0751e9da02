"""All that is found in an image, from a model's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

# What reads tensors needs PyTorch, and imports it then.
if TYPE_CHECKING:
    from torch import Tensor

    from ..classes import ClassReading
    from .segments import MaskPredictions

MOST_DETECTIONS = 100  # of an image: as many as COCO's evaluation takes


@dataclass
class ImageResults:
    """What is found in an image. n detections, best first; Q queries."""

    scores: np.ndarray  # (n,) 0…1
    labels: np.ndarray  # (n,) int64, 0…C-1
    boxes: np.ndarray  # (n, 4) xyxy, in pixels
    best_score: float  # of all queries, whether or not above the threshold
    queries_used: int  # how many queries score above the threshold
    logits: np.ndarray  # (Q, C or C + 1), of the model, float32 at least
    pred_boxes: np.ndarray  # (Q, 4) cxcywh, relative, of the model
    masks: list[dict[str, Any]] | None = None  # of a segmentation model, n COCO run lengths {"size", "counts"}
    segmentation: np.ndarray | None = None  # of a panoptic one, int32 (height, width), see `segments.merge_panoptic`
    segments: list[dict[str, Any]] = field(default_factory=list)  # of the map, with id, label_id, isthing, area, score


def image_results(
    logits: Tensor,
    pred_boxes: Tensor,
    classes: ClassReading,
    sizes: Sequence[tuple[int, int]],
    threshold: float,
    masks: MaskPredictions | None = None,
    is_thing: Sequence[bool] | None = None,
    segment_threshold: float = 0.85,
) -> list[ImageResults]:
    """Results of a batch: of each image at most `MOST_DETECTIONS` detections, with masks where there are any.

    Args:
        logits: (B, Q, C or C + 1).
        pred_boxes: (B, Q, 4) cxcywh, relative.
        classes: how the logits are read.
        sizes: (height, width) of each image, in which results are given.
        threshold: least score of a detection.
        masks: of a segmentation model.
        is_thing: of each class, whether it is one of things: panoptic maps are made of the masks too.
        segment_threshold: least score of a map's segment.
    """
    from ..precision import at_least_float32
    from .detections import detections
    from .segments import instance_masks, merge_panoptic

    found: Sequence[Mapping[str, Any]]
    if masks is None:
        found = detections(logits, pred_boxes, classes, sizes, threshold, MOST_DETECTIONS)
    else:
        found = instance_masks(masks, pred_boxes, classes, sizes, threshold, MOST_DETECTIONS)
    maps: Sequence[Mapping[str, Any]] = [{}] * len(found)
    if masks is not None and is_thing is not None:
        maps = merge_panoptic(masks, classes, sizes, is_thing, segment_threshold)
    logits, pred_boxes = at_least_float32(logits).cpu(), at_least_float32(pred_boxes).cpu()
    best_of_query = classes.scores(logits).amax(-1)  # (B, Q)
    best, used = best_of_query.amax(1).tolist(), (best_of_query > threshold).sum(1).tolist()
    return [
        ImageResults(
            scores=one["scores"].cpu().numpy(),
            labels=one["labels"].cpu().numpy(),
            boxes=one["boxes"].cpu().numpy(),
            best_score=best[i],
            queries_used=used[i],
            logits=logits[i].numpy(),
            pred_boxes=pred_boxes[i].numpy(),
            masks=one.get("masks"),
            segmentation=drawn["segmentation"].cpu().numpy() if drawn else None,
            segments=drawn.get("segments_info", []),
        )
        for i, (one, drawn) in enumerate(zip(found, maps, strict=True))
    ]
