"""A model's outputs -> results in the forms that transformers' image processors give them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

from torch import Tensor

from ..classes import ClassReading, SigmoidClasses, SoftmaxClasses
from ..results.detections import TargetSizes, detections
from ..results.segments import MaskPredictions, class_maps, class_scores, map_runs, segment_maps
from .batch_feature import BatchFeature


class PostProcessing(ABC):
    """The `post_process_…` methods of image processors; the outputs may be of transformers' models too.

    Attributes:
        classes: how `logits` are read.
    """

    classes: ClassReading

    @abstractmethod
    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: TargetSizes | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, Tensor]]:
        """The detections of each image, {"scores", "labels", "boxes"}."""

    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: TargetSizes | None = None,
        return_coco_annotation: bool | None = False,
    ) -> list[dict[str, Any]]:
        """The map of each image's objects, which do not overlap. See `segments.segment_maps`.

        As in transformers, the strongest mask at a pixel has it, however weak it is there, so a lone object has the whole
        image. `segments.instance_masks` gives what each mask covers.

        Args:
            outputs: of a segmentation model; with masks of some queries only, the others take no part.
            threshold: only queries whose best class scores above it.
            mask_threshold, overlap_mask_area_threshold: a segment is kept if it is more than this share of the pixels at
                which score × mask probability reaches `mask_threshold`; so queries that score below that have none.
            target_sizes: (height, width) of each image, a list or (B, 2); None leaves the masks' sizes.
            return_coco_annotation: `segmentation` as run lengths; see `segments.map_runs`.

        Returns:
            for each image `segmentation`, int32 (height, width), 0 = nothing (all -1 where no query scores above
            `threshold`), and `segments_info`, dicts of `id`, `label_id`, `was_fused` (False) and `score`.

        Raises:
            ValueError: `target_sizes` is not one pair an image, or the outputs have no masks.
        """
        results = segment_maps(
            MaskPredictions.of(outputs),
            self.classes,
            threshold,
            mask_threshold,
            overlap_mask_area_threshold,
            target_sizes=target_sizes,
        )
        if return_coco_annotation:
            return [{**result, "segmentation": map_runs(result["segmentation"])} for result in results]
        return results

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: TargetSizes | None = None, return_segmentation_scores: bool = False
    ) -> list[Any]:
        """The class of each pixel of each image. See `segments.class_maps`.

        Args:
            outputs: of a segmentation model; with masks of some queries only, the others take no part.
            target_sizes: (height, width) of each image, a list or (B, 2); None leaves the masks' sizes.
            return_segmentation_scores: what the classes were compared by, too.

        Returns:
            for each image, int64 (height, width); with `return_segmentation_scores`, `segmentation` (height, width) and
            `segmentation_scores` (C, height, width).

        Raises:
            ValueError: `target_sizes` is not one pair an image, or the outputs have no masks.
        """
        predictions = MaskPredictions.of(outputs)
        if not return_segmentation_scores:
            return class_maps(predictions, self.classes, target_sizes)
        return [
            BatchFeature(segmentation=scores.argmax(0), segmentation_scores=scores)
            for scores in class_scores(predictions, self.classes, target_sizes)
        ]

    def post_process_panoptic_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: Collection[int] | None = None,
        target_sizes: TargetSizes | None = None,
    ) -> list[dict[str, Any]]:
        """The map of each image's objects and stuff. See `segments.segment_maps`.

        Args:
            outputs, threshold, mask_threshold, overlap_mask_area_threshold, target_sizes: see
                `post_process_instance_segmentation`.
            label_ids_to_fuse: classes of which all segments get one id, such as sky; None: no class.

        Returns:
            for each image `segmentation` and `segments_info`, as `post_process_instance_segmentation` has them; `was_fused`
            says whether the class is one to fuse. Segments that were fused keep an entry each, with the same `id`, which
            no other segment has, as in transformers it may.

        Raises:
            ValueError: `target_sizes` is not one pair an image, or the outputs have no masks.
        """
        return segment_maps(
            MaskPredictions.of(outputs),
            self.classes,
            threshold,
            mask_threshold,
            overlap_mask_area_threshold,
            label_ids_to_fuse or (),
            target_sizes,
        )


class ConditionalDetrPostProcessing(PostProcessing):
    """Classes are read by sigmoid, all of them, in masks as in boxes. transformers takes their softmax in segmentation and
    leaves the last one out of instance and panoptic maps, as if it were "no object" (docs/correctness.md, trap 3).
    """

    classes = SigmoidClasses()

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: TargetSizes | None = None,
        top_k: int | None = 100,
    ) -> list[dict[str, Tensor]]:
        """The detections of each image, highest score first. See `detections.detections`.

        Args:
            outputs: anything with `logits` (B, Q, C) and `pred_boxes` (B, Q, 4) cxcywh, relative.
            threshold: only scores above it.
            target_sizes: (height, width) of each image, a list or (B, 2); None leaves boxes relative.
            top_k: at most so many of an image, before the threshold.

        Returns:
            for each image `scores` (n,), `labels` (n,) and `boxes` (n, 4) xyxy in pixels.

        Raises:
            ValueError: `target_sizes` is not one pair an image.
        """
        return detections(outputs.logits, outputs.pred_boxes, self.classes, target_sizes, threshold, top_k)


class DetrPostProcessing(PostProcessing):
    """Classes are read by softmax, the last of them "no object"."""

    classes = SoftmaxClasses()

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: TargetSizes | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, Tensor]]:
        """The detections of each image, in the order of the queries. See `detections.detections`.

        Args:
            outputs: anything with `logits` (B, Q, C + 1), the last "no object", and `pred_boxes` (B, Q, 4) cxcywh, relative.
            threshold: only scores above it.
            target_sizes: (height, width) of each image, a list or (B, 2); None leaves boxes relative.
            top_k: at most so many of an image, then the highest score first; None keeps all queries.

        Returns:
            for each image `scores` (n,), `labels` (n,) and `boxes` (n, 4) xyxy in pixels.

        Raises:
            ValueError: `target_sizes` is not one pair an image.
        """
        return detections(outputs.logits, outputs.pred_boxes, self.classes, target_sizes, threshold, top_k)
