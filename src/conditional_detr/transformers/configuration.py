"""transformers' configurations of the families, with the fields that this package adds.

They are what a model keeps. What is built, and with which checks, says the package's own configuration of the same
values: `fields`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import transformers
from transformers import PreTrainedConfig
from typing_extensions import Self

from .. import families
from ..checkpoints.checkpoint import Checkpoint
from ..config import OUTPUT_STRIDES, WHOLE_NUMBERS, DetectionConfig, logger, without_stale_ids
from ..messages import shown

CLASSES = ("num_labels", "id2label", "category_ids", "is_thing")


@dataclass(kw_only=True, repr=False)
class OwnFields:
    """What transformers' configurations lack; see `DetectionConfig`."""

    own_class: ClassVar[type[families.FamilyConfig]]

    backbone_norm: str = "frozen"
    query_groups: int = 1
    category_ids: list[int] | None = None
    is_thing: list[bool] | None = None

    def __post_init__(self, **values: Any) -> None:
        output_stride = values.pop("output_stride", None)
        if output_stride not in (None, OUTPUT_STRIDES[-1]) and self.backbone_config is None:  # type: ignore[has-type]
            stage = OUTPUT_STRIDES.index(output_stride) + 1 if output_stride in OUTPUT_STRIDES else output_stride
            self.backbone_config = {
                "model_type": "timm_backbone",
                "backbone": values.pop("backbone", None) or "resnet50",
                "num_channels": self.num_channels,  # type: ignore[attr-defined]
                "out_indices": [stage],
            }
        if values.get("backbone") is None:  # as transformers 4 writes beside a `backbone_config`
            values.pop("backbone", None)
        super().__post_init__(**values)  # type: ignore[misc]

    @classmethod
    def of(cls, config: Any) -> Self:
        """This class's configuration of the same values.

        Args:
            config: transformers' configuration of the family, or this package's.

        Raises:
            ValueError: it is of another model.
        """
        if isinstance(config, cls):
            return config
        kind = getattr(config, "model_type", None)
        if not isinstance(config, PreTrainedConfig | DetectionConfig) or kind != cls.own_class.model_type:
            raise ValueError(
                f"a {cls.__name__} is needed, got a {type(config).__name__}" + (f" of {kind}" if kind else "")
            )
        own: Self = cls.from_dict(config.to_dict())  # type: ignore[attr-defined]
        if isinstance(config, PreTrainedConfig):
            own.name_or_path = config.name_or_path  # type: ignore[attr-defined]
            own._attn_implementation = config._attn_implementation  # type: ignore[attr-defined]
        return own

    def fields(self) -> DetectionConfig:
        """This package's configuration of the same values.

        Raises:
            ValueError: a value that no model can have, named with what is allowed.
        """
        values = self.to_dict()  # type: ignore[attr-defined]
        if not values["dilation"]:  # backbone_config may say it
            del values["dilation"]
        return self.own_class(**values)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """As transformers has it; also of an original `.pth` file, which says what it is by its weights."""
        if not Path(pretrained_model_name_or_path).is_file() or str(pretrained_model_name_or_path).endswith(".json"):
            return super().from_pretrained(pretrained_model_name_or_path, **options)  # type: ignore[misc]
        unused = options.pop("return_unused_kwargs", False)
        own = cls.of(Checkpoint(pretrained_model_name_or_path).config(cls.own_class, {}))
        config = cls.from_dict(own.to_dict(), return_unused_kwargs=True, **options)  # type: ignore[attr-defined]
        return config if unused else config[0]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **options: Any) -> Any:
        """As transformers has it; what the data set says of classes that others replace is dropped, and this is logged.

        Raises:
            ValueError: they are of another model.
        """
        kind = config_dict.get("model_type", cls.own_class.model_type)
        if kind != cls.own_class.model_type:
            raise ValueError(f"a configuration of model_type {shown(kind)} is not a {cls.__name__}")
        given = {name: options[name] for name in CLASSES if name in options}
        left = without_stale_ids({**config_dict, **given}, config_dict.get("id2label"), set(given))
        kept = {name: value for name, value in config_dict.items() if name not in CLASSES or name in left}
        return super().from_dict(kept, **options)  # type: ignore[misc]

    @property
    def num_labels(self) -> int:
        """Number of real classes. Another number renames them, and forgets what the data set says of the old ones."""
        return super().num_labels  # type: ignore[misc]

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        before: Any = getattr(self, "id2label", None)
        others = before is not None and len(before) != count  # where there are none yet, these are the first
        PreTrainedConfig.num_labels.fset(self, count)  # type: ignore[attr-defined]
        stale = [name for name in CLASSES[2:] if others and len(getattr(self, name) or range(count)) != count]
        for name in stale:
            setattr(self, name, None)
        if stale:
            logger.warning("%s of the classes before are dropped: the classes are others now", " and ".join(stale))

    @property
    def backbone(self) -> str:
        """The name of timm's network; "resnet" for one that `backbone_config` gives by its sizes."""
        return getattr(self.backbone_config, "backbone", None) or "resnet"

    @property
    def output_stride(self) -> int:
        """Pixels per cell of the last feature map, before dilation."""
        return self.fields().output_stride


def _validators(config_class: Any) -> dict[str, Any]:
    """transformers' checks of the types of fields, but that weights of costs and losses need not be whole numbers."""
    checks = getattr(config_class, "__validators__", {})
    return {name: check for name, check in checks.items() if name not in WHOLE_NUMBERS}


class ConditionalDetrConfig(OwnFields, transformers.ConditionalDetrConfig):  # type: ignore[misc]
    """Conditional DETR: transformers' configuration, with this package's fields."""

    own_class = families.ConditionalDetrConfig
    __validators__ = _validators(transformers.ConditionalDetrConfig)
    family_name: ClassVar[str] = families.ConditionalDetrConfig.family_name
    paper: ClassVar[str] = families.ConditionalDetrConfig.paper
    panoptic_threshold: ClassVar[float] = families.ConditionalDetrConfig.panoptic_threshold
    classes = families.ConditionalDetrConfig.classes


class DetrConfig(OwnFields, transformers.DetrConfig):  # type: ignore[misc]
    """DETR: transformers' configuration, with this package's fields."""

    own_class = families.DetrConfig
    __validators__ = _validators(transformers.DetrConfig)
    family_name: ClassVar[str] = families.DetrConfig.family_name
    paper: ClassVar[str] = families.DetrConfig.paper
    panoptic_threshold: ClassVar[float] = families.DetrConfig.panoptic_threshold
    classes = families.DetrConfig.classes


CONFIGS: dict[str, Any] = {config.own_class.model_type: config for config in (ConditionalDetrConfig, DetrConfig)}
