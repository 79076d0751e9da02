"""What the models return: transformers' output classes, with the fields that this package adds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.models.conditional_detr import modeling_conditional_detr
from transformers.models.detr import modeling_detr

ConditionalDetrModelOutput = modeling_conditional_detr.ConditionalDetrModelOutput
ConditionalDetrObjectDetectionOutput = modeling_conditional_detr.ConditionalDetrObjectDetectionOutput
DetrModelOutput = modeling_detr.DetrModelOutput
DetrObjectDetectionOutput = modeling_detr.DetrObjectDetectionOutput


@dataclass
class ConditionalDetrSegmentationOutput(modeling_conditional_detr.ConditionalDetrSegmentationOutput):
    """See `models.outputs.SegmentationOutput`."""

    mask_query_indices: torch.Tensor | None = None
    mask_sizes: torch.Tensor | None = None


@dataclass
class DetrSegmentationOutput(modeling_detr.DetrSegmentationOutput):
    """See `models.outputs.SegmentationOutput`."""

    mask_query_indices: torch.Tensor | None = None
    mask_sizes: torch.Tensor | None = None
