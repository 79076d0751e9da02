"""Outputs of the models here to results, with the original repositories' arguments and names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..classes import ClassReading
from ..models.outputs import DetectionOutput, SegmentationOutput
from ..processors.image_processor import DetectionImageProcessor
from ..results.panoptic_files import panoptic_png_bytes
from ..results.segments import MaskPredictions, merge_panoptic


class PostProcess(nn.Module):
    """Outputs -> detections, as the original's evaluation has them.

    Args:
        processor: the family's, which says how its logits are read, and how many detections of an image there are.
    """

    def __init__(self, processor: DetectionImageProcessor) -> None:
        super().__init__()
        self.processor = processor

    @torch.no_grad()
    def forward(self, outputs: dict[str, Tensor], target_sizes: Tensor) -> list[dict[str, Tensor]]:
        """The detections of each image, whatever their score.

        Args:
            outputs: what the model returns.
            target_sizes: (B, 2), height and width of each image in pixels.

        Returns:
            for each image `scores` (n,), `labels` (n,) and `boxes` (n, 4) xyxy in pixels. Conditional DETR: the best 100
            pairs of query and class; DETR: the best class of each query.

        Raises:
            ValueError: `target_sizes` is not one pair an image.
        """
        named = DetectionOutput(logits=outputs["pred_logits"], pred_boxes=outputs["pred_boxes"])
        return self.processor.post_process_object_detection(named, threshold=-1.0, target_sizes=target_sizes)


class PostProcessPanoptic(nn.Module):
    """Outputs -> panoptic maps, with the original's arguments and results.

    Args:
        is_thing_map: of each class, whether it is one of things.
        threshold: queries whose best class scores no more are left out.
        classes: how the logits are read.
    """

    def __init__(self, is_thing_map: dict[int, bool], threshold: float, classes: ClassReading) -> None:
        super().__init__()
        self.is_thing_map, self.threshold, self.classes = is_thing_map, threshold, classes

    @torch.no_grad()
    def forward(
        self, outputs: dict[str, Tensor], processed_sizes: Any, target_sizes: Any = None
    ) -> list[dict[str, Any]]:
        """Merge masks; see `merge_panoptic` for what is done otherwise than in the original.

        Args:
            outputs: what the model returns.
            processed_sizes: height and width of each image as the model saw it, the default of `target_sizes`.
            target_sizes: height and width of each map in pixels.

        Returns:
            for each image `png_string`, the map as COCO's panoptic PNG, and `segments_info`, dicts with `id`, `isthing`,
            `category_id` and `area`.
        """
        named = SegmentationOutput(logits=outputs["pred_logits"], pred_masks=outputs["pred_masks"])
        if "mask_sizes" in outputs:
            named["mask_sizes"] = outputs["mask_sizes"]
        things = [self.is_thing_map[i] for i in range(self.classes.count(named.logits))]
        sizes = processed_sizes if target_sizes is None else target_sizes
        return [
            {
                "png_string": panoptic_png_bytes(one["segmentation"]),
                "segments_info": [
                    {"id": s["id"], "isthing": s["isthing"], "category_id": s["label_id"], "area": s["area"]}
                    for s in one["segments_info"]
                ],
            }
            for one in merge_panoptic(MaskPredictions.of(named), self.classes, sizes, things, self.threshold)
        ]
