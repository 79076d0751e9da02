"""What a model is: the fields of `config.json`, named and defaulted as transformers names and defaults them."""

from __future__ import annotations

import copy
import json
from dataclasses import MISSING, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal

from typing_extensions import Self

Task = Literal["detection", "instance", "panoptic"]
ACTIVATIONS = ("relu", "gelu", "silu")
BACKBONE_NORMS = ("frozen", "batch", "group")
OUTPUT_STRIDES = (4, 8, 16, 32)
KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (Integral,),
    "float": (Real,),
    "str": (str,),
    "list[int] | None": (list, tuple, type(None)),
    "list[bool] | None": (list, tuple, type(None)),
    "dict[int, str]": (dict,),
}
# Fields for which transformers 5 takes whole numbers only (2, and not 2.0): with others it refuses to open a folder.
WHOLE_NUMBERS = (
    "class_cost",
    "bbox_cost",
    "giou_cost",
    "cls_loss_coefficient",
    "bbox_loss_coefficient",
    "giou_loss_coefficient",
    "mask_loss_coefficient",
    "dice_loss_coefficient",
)


@dataclass(kw_only=True, init=False)
class DetectionConfig:
    """What Conditional DETR and DETR have in common. Use `ConditionalDetrConfig` or `DetrConfig`.

    Field names and defaults are transformers' (5.23). Fields it does not know, which this package adds:

    - `backbone_norm`: "frozen" for pretrained backbones (statistics, stem and first stage stay as they are, as in
      the papers); "batch" or "group" for training from scratch (everything learns).
    - `output_stride`: pixels per cell of the feature map, 32, 16, 8 or 4. The backbone ends at the stage with this
      stride. `dilation=True` (DC5) keeps all stages of a stride-32 backbone and dilates the last one to stride 16.
    - `category_ids`: the data set's own category id of each class, in class order.
    - `is_thing`: for panoptic segmentation, whether each class is countable.

    Unknown fields given to the constructor are kept in `extra` and written back by `to_dict`.

    Raises:
        ValueError: a value that no model can have, named with what is allowed.
    """

    model_type: ClassVar[str]

    # backbone
    backbone: str = "resnet50"
    use_timm_backbone: bool = True
    use_pretrained_backbone: bool = False
    backbone_norm: str = "frozen"
    output_stride: int = 32
    dilation: bool = False
    num_channels: int = 3
    # transformer
    d_model: int = 256
    num_queries: int = 300
    encoder_layers: int = 6
    encoder_ffn_dim: int = 2048
    encoder_attention_heads: int = 8
    decoder_layers: int = 6
    decoder_ffn_dim: int = 2048
    decoder_attention_heads: int = 8
    activation_function: str = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    position_embedding_type: str = "sine"
    auxiliary_loss: bool = False
    # matching and losses
    class_cost: float = 2
    bbox_cost: float = 5
    giou_cost: float = 2
    bbox_loss_coefficient: float = 5
    giou_loss_coefficient: float = 2
    mask_loss_coefficient: float = 1
    dice_loss_coefficient: float = 1
    # classes
    id2label: dict[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    category_ids: list[int] | None = None
    is_thing: list[bool] | None = None
    # what `forward` returns where the call does not say
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True

    def __init__(self, *, num_labels: int | None = None, **values: Any) -> None:
        values = self._from_transformers(values)
        if num_labels is not None and len(values.get("id2label") or {}) != num_labels:
            values["id2label"] = {i: f"LABEL_{i}" for i in range(num_labels)}
        for spec in fields(self):
            default = spec.default if spec.default_factory is MISSING else spec.default_factory()
            value = values.pop(spec.name, default)
            value = default if value is None else value
            if not isinstance(value, KINDS[str(spec.type)]) or (isinstance(value, bool) and spec.type != "bool"):
                raise ValueError(f"{type(self).__name__}: {spec.name} must be of type {spec.type}, got {value!r}")
            setattr(self, spec.name, value)
        self.extra = values
        try:
            self.id2label = {int(i): str(name) for i, name in self.id2label.items()}
        except ValueError:
            raise ValueError(f"{type(self).__name__}: id2label must map 0…C-1 to names, got {self.id2label}") from None
        self._check()

    def _from_transformers(self, values: dict[str, Any]) -> dict[str, Any]:
        """Read the backbone from transformers 5's `backbone_config`, drop what other fields already say."""
        values = dict(values)
        if values.get("model_type", self.model_type) != self.model_type:
            raise ValueError(f"config of model_type {values['model_type']!r} is not a {type(self).__name__}")
        nested = values.pop("backbone_config", None)
        if nested is not None:
            if not isinstance(nested, dict) and not hasattr(nested, "to_dict"):
                raise ValueError(f"backbone_config must be a dict, got {nested!r}")
            nested = dict(nested) if isinstance(nested, dict) else nested.to_dict()
            if nested.get("model_type", "timm_backbone") != "timm_backbone":
                raise ValueError(
                    f"backbone_config of model_type {nested['model_type']!r} (use_timm_backbone=false) is not supported; "
                    "use a checkpoint with a timm backbone"
                )
            values["backbone"] = values.get("backbone") or nested.get("backbone")
            if nested.get("output_stride") == 16:
                values.setdefault("dilation", True)
            last_stage = (nested.get("out_indices") or [-1])[-1]
            if last_stage not in (-1, 4):  # stage i of a ResNet has stride 2^(i+1)
                values.setdefault("output_stride", 2 ** (last_stage + 1))
        for derived in ("model_type", "label2id", "transformers_version"):
            values.pop(derived, None)
        return values

    def _check(self) -> None:
        def require(condition: bool, message: str) -> None:
            if not condition:
                raise ValueError(f"{type(self).__name__}: {message}")

        require(self.use_timm_backbone, "use_timm_backbone=false is not supported; use a timm backbone")
        require(
            self.backbone_norm in BACKBONE_NORMS, f"backbone_norm {self.backbone_norm!r} is not one of {BACKBONE_NORMS}"
        )
        require(
            self.output_stride in OUTPUT_STRIDES, f"output_stride {self.output_stride} is not one of {OUTPUT_STRIDES}"
        )
        require(
            not (self.dilation and self.output_stride != 32), "dilation (DC5) needs output_stride 32, which it halves"
        )
        require(self.d_model % 4 == 0, f"d_model {self.d_model} is not a multiple of 4, as sine positions need")
        require(
            self.activation_function in ACTIVATIONS,
            f"activation_function {self.activation_function!r} is not one of {ACTIVATIONS}",
        )
        for name in ("d_model", "num_channels", "encoder_attention_heads", "decoder_attention_heads"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.encoder_layers >= 0, f"encoder_layers must be at least 0, got {self.encoder_layers}")
        for name in ("encoder", "decoder"):
            heads = getattr(self, f"{name}_attention_heads")
            require(
                self.d_model % heads == 0, f"d_model {self.d_model} is not a multiple of {name}_attention_heads {heads}"
            )
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            require(0 <= getattr(self, name) < 1, f"{name} {getattr(self, name)} is not in [0, 1)")
        for name in ("num_queries", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(
            self.position_embedding_type in ("sine", "learned"),
            f"position_embedding_type {self.position_embedding_type!r} is neither 'sine' nor 'learned'",
        )
        require(sorted(self.id2label) == list(range(len(self.id2label))), "id2label must map 0…C-1 to names")
        for name in ("category_ids", "is_thing"):
            value = getattr(self, name)
            require(
                value is None or len(value) == self.num_labels,
                f"{name} has {len(value or ())} entries for {self.num_labels} classes",
            )

    @property
    def num_labels(self) -> int:
        """Number of real classes C ("no object" is not one of them)."""
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        return {name: i for i, name in self.id2label.items()}

    @property
    def hidden_size(self) -> int:
        return self.d_model

    @property
    def num_attention_heads(self) -> int:
        return self.encoder_attention_heads

    @property
    def num_hidden_layers(self) -> int:
        return self.encoder_layers

    @property
    def use_return_dict(self) -> bool:
        """transformers' older name of `return_dict`."""
        return self.return_dict

    def to_dict(self) -> dict[str, Any]:
        """The fields as `config.json` holds them (`model_type` and `label2id` with them, unknown fields last)."""
        values = {spec.name: copy.deepcopy(getattr(self, spec.name)) for spec in fields(self)}
        for name in WHOLE_NUMBERS:
            if isinstance(values.get(name), float) and values[name].is_integer():
                values[name] = int(values[name])
        values["id2label"] = {str(i): name for i, name in self.id2label.items()}
        values = {name: value for name, value in values.items() if value is not None}
        return {"model_type": self.model_type, **values, "label2id": self.label2id, **copy.deepcopy(self.extra)}

    def to_json_string(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any], **overrides: Any) -> Self:
        """Build from the contents of a `config.json`; `overrides` replace its values. Unknown fields are kept."""
        return cls(**{**values, **overrides})

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """Read the configuration of a checkpoint.

        Args:
            name: a folder, a `.pth` file, or a name on the Hugging Face hub.
            options: values that replace the checkpoint's; and `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            OSError: there is no such checkpoint, or no network.
            ValueError: it is of another model type, or not JSON.
        """
        from .checkpoints.reading import config_of  # checkpoints are built on configurations, not the reverse

        return config_of(name, cls, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`.

        Raises:
            OSError: the folder cannot be written.
        """
        from .checkpoints.files import write_json

        write_json(Path(folder) / "config.json", self.to_dict())


@dataclass(kw_only=True, init=False)
class ConditionalDetrConfig(DetectionConfig):
    """Conditional DETR (arXiv 2108.06152): 300 queries, sigmoid classes, focal loss. Fields: `DetectionConfig`."""

    model_type: ClassVar[str] = "conditional_detr"

    cls_loss_coefficient: float = 2
    focal_alpha: float = 0.25


@dataclass(kw_only=True, init=False)
class DetrConfig(DetectionConfig):
    """DETR (arXiv 2005.12872): 100 queries, softmax with "no object". Fields: `DetectionConfig`."""

    model_type: ClassVar[str] = "detr"

    num_queries: int = 100
    class_cost: float = 1
    eos_coefficient: float = 0.1


CONFIG_CLASSES: dict[str, type[DetectionConfig]] = {c.model_type: c for c in (ConditionalDetrConfig, DetrConfig)}
