"""transformers' Auto classes, which make this package's models of its families and transformers' of any other.

transformers' own Auto classes know the configurations here, too, and make what belongs to them; of a folder they make
transformers' models as ever: importing this room changes nothing for who does not use it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedConfig

from ..checkpoints.checkpoint import Checkpoint
from ..config import DetectionConfig
from . import modeling
from .configuration import CONFIGS

# Arguments that find a configuration's file.
FILE_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class AutoConfig(transformers.AutoConfig):
    """The configuration of whichever model a checkpoint is of."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """As transformers has it."""
        kind = _model_type(pretrained_model_name_or_path, options)
        found: Any = CONFIGS[kind] if kind in CONFIGS else super()
        return found.from_pretrained(pretrained_model_name_or_path, **options)

    @classmethod
    def for_model(cls, model_type: str, *arguments: Any, **values: Any) -> Any:
        """As transformers has it."""
        return (
            CONFIGS[model_type](**values)
            if model_type in CONFIGS
            else super().for_model(model_type, *arguments, **values)
        )


class _OwnModels:
    """Stands in front of one of transformers' Auto classes.

    Attributes:
        classes: of the models that are this package's, by model type.
    """

    classes: dict[str, Any]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *arguments: Any, **options: Any) -> Any:
        """As transformers has it; also of an original `.pth` file."""
        config = options.get("config")
        kind = getattr(config, "model_type", None)
        if kind is None:
            files = {name: value for name, value in options.items() if name in FILE_OPTIONS}
            kind = _model_type(pretrained_model_name_or_path if config is None else config, files)
        found: Any = cls.classes.get(kind) or super()
        return found.from_pretrained(pretrained_model_name_or_path, *arguments, **options)

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> Any:
        """As transformers has it; also of this package's own configurations."""
        if isinstance(config, PreTrainedConfig | DetectionConfig) and config.model_type in cls.classes:
            return cls.classes[config.model_type]._from_config(CONFIGS[config.model_type].of(config), **options)
        theirs: Any = super()
        return theirs.from_config(config, **options)


class AutoModel(_OwnModels, transformers.AutoModel):
    """The model without heads of whichever family a checkpoint is of."""

    classes = {"conditional_detr": modeling.ConditionalDetrModel, "detr": modeling.DetrModel}


class AutoModelForObjectDetection(_OwnModels, transformers.AutoModelForObjectDetection):
    """The detector of whichever family a checkpoint is of."""

    classes = {
        "conditional_detr": modeling.ConditionalDetrForObjectDetection,
        "detr": modeling.DetrForObjectDetection,
    }


class AutoModelForImageSegmentation(_OwnModels, transformers.AutoModelForImageSegmentation):
    """The segmentation model of whichever family a checkpoint is of."""

    classes = {"conditional_detr": modeling.ConditionalDetrForSegmentation, "detr": modeling.DetrForSegmentation}


def _model_type(name: Any, options: dict[str, Any]) -> Any:
    if Path(name).is_file() and not str(name).endswith(".json"):
        return Checkpoint(name).model_type
    return PreTrainedConfig.get_config_dict(name, **options)[0].get("model_type")


for _auto, _theirs in (
    (AutoModel, transformers.AutoModel),
    (AutoModelForObjectDetection, transformers.AutoModelForObjectDetection),
    (AutoModelForImageSegmentation, transformers.AutoModelForImageSegmentation),
):
    for _model in _auto.classes.values():
        _theirs.register(_model.config_class, _model, exist_ok=True)
