"""transformers' own classes over this package's models and image processors: `PreTrainedModel`, `PreTrainedConfig`,
`ModelOutput`, `BaseImageProcessor` and the Auto classes, so that what is habit there works here.

Only who asks for it imports this room, which needs the extra `transformers`; the rest of the package does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

OLDEST = 5  # major version: before it, configurations are no dataclasses and weights have other names in memory

try:
    from transformers import __version__ as _version
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ImportError(
        "conditional_detr.transformers needs transformers, which is not installed: pip install 'conditional-detr[transformers]'"
    ) from None
if int(_version.split(".")[0]) < OLDEST:
    raise ImportError(
        f"conditional_detr.transformers needs transformers {OLDEST} or later, and {_version} is installed: "
        "pip install --upgrade transformers, or use the classes of conditional_detr, which need none"
    )

_HOMES = {
    "configuration": ("ConditionalDetrConfig", "DetrConfig"),
    "modeling": (
        "ConditionalDetrForObjectDetection",
        "ConditionalDetrForSegmentation",
        "ConditionalDetrModel",
        "DetrForObjectDetection",
        "DetrForSegmentation",
        "DetrModel",
    ),
    "auto": ("AutoConfig", "AutoModel", "AutoModelForImageSegmentation", "AutoModelForObjectDetection"),
    "auto_processor": ("AutoImageProcessor",),
    "image_processor": (
        "ConditionalDetrFeatureExtractor",
        "ConditionalDetrImageProcessor",
        "ConditionalDetrImageProcessorFast",
        "ConditionalDetrImageProcessorKwargs",
        "ConditionalDetrImageProcessorPil",
        "DetrFeatureExtractor",
        "DetrImageProcessor",
        "DetrImageProcessorFast",
        "DetrImageProcessorKwargs",
        "DetrImageProcessorPil",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:
    from .auto import AutoConfig, AutoModel, AutoModelForImageSegmentation, AutoModelForObjectDetection
    from .auto_processor import AutoImageProcessor
    from .configuration import ConditionalDetrConfig, DetrConfig
    from .image_processor import (
        ConditionalDetrFeatureExtractor,
        ConditionalDetrImageProcessor,
        ConditionalDetrImageProcessorFast,
        ConditionalDetrImageProcessorKwargs,
        ConditionalDetrImageProcessorPil,
        DetrFeatureExtractor,
        DetrImageProcessor,
        DetrImageProcessorFast,
        DetrImageProcessorKwargs,
        DetrImageProcessorPil,
    )
    from .modeling import (
        ConditionalDetrForObjectDetection,
        ConditionalDetrForSegmentation,
        ConditionalDetrModel,
        DetrForObjectDetection,
        DetrForSegmentation,
        DetrModel,
    )


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
