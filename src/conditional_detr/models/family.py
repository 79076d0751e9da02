"""What a family's file in this folder gives to the rest of the package, and how it is found: by the family's name."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from ..checkpoints.names import NameTable
from ..config import DetectionConfig
from ..families import CONFIG_CLASSES
from ..messages import shown
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


def family_of(model_type: str) -> Family:
    """The models of a family that `families.CONFIG_CLASSES` lists; only its own file is imported.

    Raises:
        ValueError: there is no such family.
    """
    if model_type not in CONFIG_CLASSES:
        raise ValueError(f"no family is called {shown(model_type)}; this package knows {', '.join(CONFIG_CLASSES)}")
    family: Family = import_module(f"{__package__}.{model_type}").FAMILY
    return family
