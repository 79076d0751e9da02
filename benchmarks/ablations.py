"""The variants of the paper's ablations (arXiv 2108.06152, tables 2 to 4 and figure 6), each a family of its own as small as its difference.

None is part of the package: `register` makes them known to this process, as a file in `models/` and an entry in
`families.py` would. `python -m benchmarks.convergence --experiment ablations` trains them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from conditional_detr.checkpoints.names import Row, name_table
from conditional_detr.classes import ClassReading, SigmoidClasses
from conditional_detr.config import DetectionConfig, ranged, weight
from conditional_detr.families import CONFIG_CLASSES, ConditionalDetrConfig, DetrConfig, FamilyConfig
from conditional_detr.models import conditional_detr, detr
from conditional_detr.models.attention import MLP
from conditional_detr.models.conditional_detr import ConditionalDetrDecoder
from conditional_detr.models.decoder import Decoder
from conditional_detr.models.detection_model import DetectionModel
from conditional_detr.models.detector import ObjectDetectionModel
from conditional_detr.models.family import Family
from conditional_detr.models.pretrained import PretrainedModel
from conditional_detr.models.segmenter import SegmentationModel

from . import peaks

# ------------------------------------------------------------------------------------------------ the reference point


class AtOrigin(ConditionalDetrDecoder):
    """Reference points (0, 0) before the sigmoid, for all queries: what DETR's boxes are relative to."""

    def reference_points(self, object_queries: Tensor) -> Tensor:
        return object_queries.new_zeros(*object_queries.shape[:2], 2)


class LearnedPoint(ConditionalDetrDecoder):
    """Reference points that are weights themselves, not predicted from the object queries."""

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.points = nn.Parameter(torch.randn(config.num_queries, 2))  # as spread as points predicted at first

    def reference_points(self, object_queries: Tensor) -> Tensor:
        return self.points[None]


# ------------------------------------------------------------------------------------------------ the spatial query


class FromPosition(ConditionalDetrDecoder):
    """The embedded reference point alone: T is the identity."""

    def spatial_query(self, point: Tensor, content: Tensor, layer: int) -> Tensor:
        return point


class FromScale(ConditionalDetrDecoder):
    """The scale that the content gives, λ_q, alone, without the point."""

    def spatial_query(self, point: Tensor, content: Tensor, layer: int) -> Tensor:
        scale: Tensor = self.query_scale(content)
        return scale


class FromContent(ConditionalDetrDecoder):
    """The content itself, f."""

    def spatial_query(self, point: Tensor, content: Tensor, layer: int) -> Tensor:
        return content


# ------------------------------------------------------------------------------------------------ the transformation T


class ByScalar(ConditionalDetrDecoder):
    """One factor for the whole point."""

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.query_scale = MLP(config.d_model, config.d_model, 1, 2)


class ByBlocks(ConditionalDetrDecoder):
    """A matrix for each head's part of the point. Its blocks begin as small as any matrix an MLP gives."""

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.blocks = config.decoder_attention_heads
        self.query_scale = MLP(config.d_model, config.d_model, config.d_model**2 // self.blocks, 2)

    def spatial_query(self, point: Tensor, content: Tensor, layer: int) -> Tensor:
        if layer == 0:
            return point
        side = point.shape[-1] // self.blocks
        matrices = self.query_scale(content).unflatten(-1, (self.blocks, side, side))
        return torch.einsum(
            "bqnij,bqnj->bqni", matrices, point.unflatten(-1, (self.blocks, side)).expand(len(content), -1, -1, -1)
        ).flatten(-2)


class ByMatrix(ByBlocks):
    """One matrix for the whole point."""

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.blocks = 1
        self.query_scale = MLP(config.d_model, config.d_model, config.d_model**2, 2)


# ------------------------------------------------------------------------------------------------ DETR plus parts


class WithOffset(detr.DetrDecoder):
    """DETR whose boxes are offsets from a point predicted from each object query, as Conditional DETR's."""

    has_reference_points = True

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.ref_point_head = MLP(config.d_model, config.d_model, 2, 2)

    def reference_points(self, object_queries: Tensor) -> Tensor:
        points: Tensor = self.ref_point_head(object_queries)
        return points


@dataclass(kw_only=True, init=False)
class FocalDetrConfig(DetrConfig):
    """DETR with Conditional DETR's classes: sigmoid scores, focal loss and matching cost."""

    class_cost: float = weight(ConditionalDetrConfig.class_cost)
    cls_loss_coefficient: float = weight(ConditionalDetrConfig.cls_loss_coefficient)
    focal_alpha: float = ranged(ConditionalDetrConfig.focal_alpha, 0, 1)

    @property
    def classes(self) -> ClassReading:
        return SigmoidClasses(self.focal_alpha, self.cls_loss_coefficient)


# ------------------------------------------------------------------------------------------------ families

# name -> decoder, configuration, the paper's AP on COCO after 50 epochs (R50), None where it gives a figure alone
VARIANTS: dict[str, tuple[type[Decoder], type[FamilyConfig], float | None]] = {
    "reference_at_origin": (AtOrigin, ConditionalDetrConfig, 36.8),
    "reference_learned": (LearnedPoint, ConditionalDetrConfig, 40.7),
    "spatial_query_of_content": (FromContent, ConditionalDetrConfig, 37.1),
    "spatial_query_of_scale": (FromScale, ConditionalDetrConfig, 37.6),
    "spatial_query_of_position": (FromPosition, ConditionalDetrConfig, 37.8),
    "scalar": (ByScalar, ConditionalDetrConfig, None),
    "blocks": (ByBlocks, ConditionalDetrConfig, None),
    "matrix": (ByMatrix, ConditionalDetrConfig, None),
    "detr_offset": (WithOffset, DetrConfig, 35.0),
    "detr_focal": (detr.DetrDecoder, FocalDetrConfig, 35.3),
    "detr_offset_focal": (WithOffset, FocalDetrConfig, 36.9),
}

# Weights that a variant has beside its kin's, under names of their own.
NAMES_BESIDE = (
    Row("model.decoder.points", "=", "transformer.decoder.points"),
    Row("model.decoder.ref_point_head.layers.*", "=", "transformer.decoder.ref_point_head.layers.*"),
    Row("model.decoder.cell_score.*", "=", "transformer.decoder.cell_score.*"),
    Row("model.decoder.place.layers.*", "=", "transformer.decoder.place.layers.*"),
)


def register(name: str) -> None:
    """Make a variant a family of this process, to be named in a recipe's `model` section, as its `family`."""
    if name in CONFIG_CLASSES:
        return
    model_base, detector_base = DetectionModel, ObjectDetectionModel
    decoder: type[Decoder]
    if name in peaks.VARIANTS:
        decoder, base = peaks.VARIANTS[name], ConditionalDetrConfig
        model_base, detector_base = peaks.CellModel, peaks.CellDetector
    else:
        decoder, base, _ = VARIANTS[name]
    kin = conditional_detr if issubclass(decoder, ConditionalDetrDecoder) else detr
    names = name_table(name, (*(row for row in NAMES_BESIDE if row not in kin.NAMES.rows), *kin.NAMES.rows))

    class Config(base):  # type: ignore[misc,valid-type]
        model_type: ClassVar[str] = name
        family_name: ClassVar[str] = name

    class Model(model_base, PretrainedModel):  # type: ignore[misc,valid-type]
        config_class, weight_names, decoder_class = Config, names, decoder

    class Detector(detector_base, PretrainedModel):  # type: ignore[misc,valid-type]
        config_class, weight_names, model_class = Config, names, Model

    class Segmenter(SegmentationModel, PretrainedModel):
        config_class, weight_names, detector_class = Config, names, Detector

    module = ModuleType(f"conditional_detr.models.{name}")
    module.FAMILY = Family(Model, Detector, Segmenter)  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    CONFIG_CLASSES[name] = Config
