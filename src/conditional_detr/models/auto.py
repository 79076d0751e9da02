"""The detector of whichever family a checkpoint is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoints.reading import HUB_OPTIONS, model_family
from ..config import DetectionConfig
from .detection import DETECTORS, DetectionHead


class AutoModelForObjectDetection:
    """Makes a `ConditionalDetrForObjectDetection` or a `DetrForObjectDetection`, as `model_type` says."""

    def __init__(self) -> None:
        raise TypeError("use AutoModelForObjectDetection.from_pretrained(name) or .from_config(config)")

    @staticmethod
    def from_pretrained(name: str | Path, **options: Any) -> DetectionHead:
        """Load a detector: a folder, an original `.pth` file or a hub name. See `PretrainedModel.from_pretrained`."""
        config = options.get("config")
        files = {option: options[option] for option in HUB_OPTIONS if option in options}
        family = config.model_type if isinstance(config, DetectionConfig) else model_family(name, **files)
        return DETECTORS[family].from_pretrained(name, **options)

    @staticmethod
    def from_config(config: DetectionConfig) -> DetectionHead:
        """Build a detector with new weights."""
        return DETECTORS[config.model_type](config)
