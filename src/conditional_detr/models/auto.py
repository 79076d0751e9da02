"""The detector or segmentation model of whichever family a checkpoint is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.hub import HUB_OPTIONS
from ..config import DetectionConfig
from ..families import config_class_of
from .detector import ObjectDetectionModel
from .family import Family, family_of
from .segmenter import SegmentationModel


class AutoModelForObjectDetection:
    """Makes a `ConditionalDetrForObjectDetection` or a `DetrForObjectDetection`, as `model_type` says."""

    def __init__(self) -> None:
        raise TypeError("use AutoModelForObjectDetection.from_pretrained(name) or .from_config(config)")

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | Path | Checkpoint, **options: Any) -> ObjectDetectionModel:
        """Load a detector: a folder, an original `.pth` file or a hub name. See `PretrainedModel.from_pretrained`."""
        checkpoint, family = _found(pretrained_model_name_or_path, options)
        return family.detector.from_pretrained(checkpoint, **options)

    @staticmethod
    def from_config(config: DetectionConfig) -> ObjectDetectionModel:
        """Build a detector with new weights."""
        return family_of(config.model_type).detector(config)


class AutoModelForImageSegmentation:
    """Makes a `ConditionalDetrForSegmentation` or a `DetrForSegmentation`, as `model_type` says."""

    def __init__(self) -> None:
        raise TypeError("use AutoModelForImageSegmentation.from_pretrained(name) or .from_config(config)")

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | Path | Checkpoint, **options: Any) -> SegmentationModel:
        """Load a segmentation model, or a detector, which gets a new mask head. See `PretrainedModel.from_pretrained`."""
        checkpoint, family = _found(pretrained_model_name_or_path, options)
        return family.segmenter.from_pretrained(checkpoint, **options)

    @staticmethod
    def from_config(config: DetectionConfig) -> SegmentationModel:
        """Build a segmentation model with new weights."""
        return family_of(config.model_type).segmenter(config)


def _found(name: str | Path | Checkpoint, options: dict[str, Any]) -> tuple[Checkpoint, Family]:
    """The checkpoint, and the family of the caller's configuration or else of the checkpoint's."""
    checkpoint = Checkpoint.find(name, **{option: options[option] for option in HUB_OPTIONS if option in options})
    config = options.get("config")
    config_class = type(config) if isinstance(config, DetectionConfig) else config_class_of(checkpoint)
    return checkpoint, family_of(config_class.model_type)
