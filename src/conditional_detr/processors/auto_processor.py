"""The image processor of whichever family a checkpoint is of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..checkpoints.checkpoint import PREPROCESSOR_FILE, Checkpoint
from ..checkpoints.hub import HUB_OPTIONS, local_path
from ..config import DetectionConfig
from ..families import config_class_of
from ..files import read_json
from ..messages import shown
from .image_processor import (
    ConditionalDetrImageProcessor,
    DetectionImageProcessor,
    DetrImageProcessor,
)

IMAGE_PROCESSORS: dict[str, type[DetectionImageProcessor]] = {
    "conditional_detr": ConditionalDetrImageProcessor,
    "detr": DetrImageProcessor,
}
# What a processor's own file calls itself, with or without a model beside it.
_FAMILY_OF = {
    f"{prefix}{kind}": family
    for prefix, family in (("ConditionalDetr", "conditional_detr"), ("Detr", "detr"))
    for kind in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
}


class AutoImageProcessor:
    """Makes a `ConditionalDetrImageProcessor` or a `DetrImageProcessor`, as the model's `model_type` says, or where
    there is no model the processor's own type."""

    def __init__(self) -> None:
        raise TypeError("use AutoImageProcessor.from_pretrained(name)")

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> DetectionImageProcessor:
        """Read the processor of a checkpoint: a folder, a `.pth` file or a hub name. See
        `DetectionImageProcessor.from_pretrained`."""
        path = Path(pretrained_model_name_or_path)
        files = {option: options[option] for option in HUB_OPTIONS if option in options}
        if (
            path.is_dir() and not (path / files.get("subfolder", "") / "config.json").is_file()
        ) or path.suffix == ".json":
            path = path if path.is_file() else local_path(path, PREPROCESSOR_FILE, **files)
            return IMAGE_PROCESSORS[_family_of_processor(path)].from_pretrained(path, **options)
        checkpoint = Checkpoint(str(pretrained_model_name_or_path), **files)
        return image_processor_of(config_class_of(checkpoint)).from_pretrained(checkpoint, **options)


def image_processor_of(config_class: type[DetectionConfig]) -> type[DetectionImageProcessor]:
    """A family's image processor: its own, or of a family without one that of another which reads classes alike.

    Raises:
        ValueError: none does.
    """
    if config_class.model_type in IMAGE_PROCESSORS:
        return IMAGE_PROCESSORS[config_class.model_type]
    reading = type(config_class().classes)
    for processor in IMAGE_PROCESSORS.values():
        if type(processor.classes) is reading:
            return processor
    raise ValueError(f"no image processor reads classes as {config_class.__name__} does")


def _family_of_processor(path: Path) -> str:
    """The family that an image processor's own file names."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not an image processor's configuration: a JSON object is needed")
    kind = values.get("image_processor_type", values.get("feature_extractor_type"))
    if not isinstance(kind, str) or kind not in _FAMILY_OF:
        raise ValueError(f"{path} is of image_processor_type {shown(kind)}; this package knows {', '.join(_FAMILY_OF)}")
    return _FAMILY_OF[kind]
