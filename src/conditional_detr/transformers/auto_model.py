"""The detector or segmentation model of whichever family a checkpoint is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoints.read import HUB_OPTIONS, model_family
from ..config import DetectionConfig
from ..models.detector import DETECTORS, DetectionHead
from ..models.segmenter import SEGMENTERS, SegmentationHead


class AutoModelForObjectDetection:
    """Makes a `ConditionalDetrForObjectDetection` or a `DetrForObjectDetection`, as `model_type` says."""

    def __init__(self) -> None:
        raise TypeError("use AutoModelForObjectDetection.from_pretrained(name) or .from_config(config)")

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | Path, **options: Any) -> DetectionHead:
        """Load a detector: a folder, an original `.pth` file or a hub name. See `PretrainedModel.from_pretrained`."""
        family = _family(pretrained_model_name_or_path, options)
        return DETECTORS[family].from_pretrained(pretrained_model_name_or_path, **options)

    @staticmethod
    def from_config(config: DetectionConfig) -> DetectionHead:
        """Build a detector with new weights."""
        return DETECTORS[config.model_type](config)


class AutoModelForImageSegmentation:
    """Makes a `ConditionalDetrForSegmentation` or a `DetrForSegmentation`, as `model_type` says."""

    def __init__(self) -> None:
        raise TypeError("use AutoModelForImageSegmentation.from_pretrained(name) or .from_config(config)")

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | Path, **options: Any) -> SegmentationHead:
        """Load a segmentation model, or a detector, which gets a new mask head. See `PretrainedModel.from_pretrained`."""
        family = _family(pretrained_model_name_or_path, options)
        return SEGMENTERS[family].from_pretrained(pretrained_model_name_or_path, **options)

    @staticmethod
    def from_config(config: DetectionConfig) -> SegmentationHead:
        """Build a segmentation model with new weights."""
        return SEGMENTERS[config.model_type](config)


def _family(name: str | Path, options: dict[str, Any]) -> str:
    config = options.get("config")
    if isinstance(config, DetectionConfig):
        return config.model_type
    return model_family(name, **{option: options[option] for option in HUB_OPTIONS if option in options})
