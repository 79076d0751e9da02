"""What a family's file in this folder gives to the rest of the package."""

from __future__ import annotations

from typing import NamedTuple

from ..checkpoints.names import NameTable
from ..config import DetectionConfig
from .detection_model import DetectionModel
from .detector import ObjectDetectionModel
from .segmenter import SegmentationModel


class Family(NamedTuple):
    """The models of a family. Each is its common base with the family's decoder, configuration and names of weights."""

    model: type[DetectionModel]
    detector: type[ObjectDetectionModel]
    segmenter: type[SegmentationModel]

    @property
    def config_class(self) -> type[DetectionConfig]:
        return self.detector.config_class

    @property
    def weight_names(self) -> NameTable:
        return self.detector.weight_names
