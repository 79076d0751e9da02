"""A model as one function of tensors, as engines run it: the graph that is exported."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..images.prepare import Preprocessing
from ..models.deploy import fold_and_round
from ..models.detector import ObjectDetectionModel
from ..models.segmenter import SegmentationModel
from ..precision import at_least_float32
from ..results.detections import boxes_in_pixels
from ..results.image_results import MOST_DETECTIONS


@dataclass(frozen=True)
class Interface:
    """What goes in and out of a graph.

    Attributes:
        mask: images of several sizes share a batch; without, those of one are of one size.
        normalize: pixels come as they are, uint8, and are rescaled and normalised within.
        top_k: so many detections with boxes in pixels come out beside the plain predictions; None for none. Of a
            segmentation model, so many masks, which are `MOST_DETECTIONS` otherwise.
    """

    mask: bool = False
    normalize: bool = False
    top_k: int | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        return (
            "images" if self.normalize else "pixel_values",
            *(["pixel_mask"] if self.mask else []),
            *(["target_sizes"] if self.top_k else []),
        )

    def outputs(self, masks: bool) -> tuple[str, ...]:
        return (
            *("logits", "pred_boxes"),
            *(("pred_masks", "mask_query_indices") if masks else ()),
            *(("scores", "labels", "boxes") if self.top_k else ()),
            *(("mask_rows",) if self.top_k and masks else ()),
        )


class Graph(nn.Module):
    """A copy of a model with norms folded, that takes and gives what `Interface` says, in its order:

    - pixel_values (B, 3, H, W) float32, normalised; or images (B, 3, H, W) uint8.
    - pixel_mask (B, H, W) bool, True where a pixel belongs to the image.
    - target_sizes (B, 2) int64, height and width of each image in which its boxes are given.

    - logits (B, Q, C or C + 1) and pred_boxes (B, Q, 4) cxcywh, relative, both float32.
    - pred_masks (B, K, H/4, W/4) float32 logits, of the K best queries, and mask_query_indices (B, K) int64: these.
    - scores (B, k), labels (B, k) int64 and boxes (B, k, 4) xyxy in pixels of the k best detections, best first.
    - mask_rows (B, k) int64: which of pred_masks is each detection's.

    Args:
        dtype: of weights and computation; heads and reference points stay in float32.
    """

    def __init__(
        self,
        model: ObjectDetectionModel | SegmentationModel,
        preprocessing: Preprocessing,
        interface: Interface,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        fold_and_round(self.model, dtype)
        self.interface, self.dtype = interface, dtype
        self.has_masks = isinstance(model, SegmentationModel)
        self.classes = model.config.classes
        # As `images.pixels.normalize` does it, whose constants are shared and not to be part of a graph.
        scale = preprocessing.rescale_factor or 1.0
        plain = preprocessing.mean is None or preprocessing.std is None
        mean, std = (0.0, 1.0) if plain else (preprocessing.mean, preprocessing.std)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1) / scale, persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1) / scale, persistent=False)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.interface.inputs, tensors, strict=True))
        if self.interface.normalize:
            pixels = (given["images"].to(torch.float32) - self.mean) / self.std
        else:
            pixels = given["pixel_values"]
        most = self.interface.top_k or MOST_DETECTIONS
        options: dict[str, Any] = {"mask_limit": most} if self.has_masks else {}
        made = self.model(pixels.to(self.dtype), given.get("pixel_mask"), **options)
        logits, pred_boxes = at_least_float32(made.logits), at_least_float32(made.pred_boxes)
        found = [logits, pred_boxes]
        if self.has_masks:
            found += [at_least_float32(made.pred_masks), made.mask_query_indices]
        if self.interface.top_k:
            scores, labels, queries = self.classes.select(logits, most)
            boxes = boxes_in_pixels(pred_boxes, given["target_sizes"])
            found += [scores, labels, boxes.gather(1, queries[..., None].expand(-1, -1, 4))]
            if self.has_masks:
                same = made.mask_query_indices[:, None] == queries[..., None]  # (B, k, K)
                found.append(same.to(torch.int64).argmax(-1))
        return tuple(found)
