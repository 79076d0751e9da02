"""Conditional DETR and DETR: train, evaluate and use detectors; a drop-in for transformers' classes of these names.

Names are imported when first used, so that `cdetr --help` and `import conditional_detr` are instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "families": ("ConditionalDetrConfig", "DetrConfig"),
    "predict.detector": ("Detection", "Detector"),
    "models.auto": ("AutoModelForImageSegmentation", "AutoModelForObjectDetection"),
    "models.conditional_detr": (
        "ConditionalDetrForObjectDetection",
        "ConditionalDetrForSegmentation",
        "ConditionalDetrModel",
    ),
    "models.detr": ("DetrForObjectDetection", "DetrForSegmentation", "DetrModel"),
    "processors.auto_processor": ("AutoImageProcessor",),
    "processors.image_processor": (
        "ConditionalDetrFeatureExtractor",
        "ConditionalDetrImageProcessor",
        "ConditionalDetrImageProcessorFast",
        "DetrFeatureExtractor",
        "DetrImageProcessor",
        "DetrImageProcessorFast",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:
    from .families import ConditionalDetrConfig, DetrConfig
    from .models.auto import AutoModelForImageSegmentation, AutoModelForObjectDetection
    from .models.conditional_detr import (
        ConditionalDetrForObjectDetection,
        ConditionalDetrForSegmentation,
        ConditionalDetrModel,
    )
    from .models.detr import DetrForObjectDetection, DetrForSegmentation, DetrModel
    from .predict.detector import Detector
    from .processors.auto_processor import AutoImageProcessor
    from .processors.image_processor import (
        ConditionalDetrFeatureExtractor,
        ConditionalDetrImageProcessor,
        ConditionalDetrImageProcessorFast,
        DetrFeatureExtractor,
        DetrImageProcessor,
        DetrImageProcessorFast,
    )
    from .results.named import Detection


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
