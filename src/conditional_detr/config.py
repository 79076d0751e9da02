"""What a model is: the fields of `config.json`, named and defaulted as transformers names and defaults them."""

from __future__ import annotations

import copy
import json
import logging
import re
from abc import ABC, abstractmethod
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, get_type_hints

from typing_extensions import Self

from .messages import is_text, shown

if TYPE_CHECKING:
    from .classes import ClassReading

logger = logging.getLogger(__name__)

Task = Literal["detection", "instance", "panoptic"]
ACTIVATIONS = ("relu", "gelu", "silu")
BACKBONE_NORMS = ("frozen", "batch", "group")
OUTPUT_STRIDES = (4, 8, 16, 32)
POSITIONS = ("sine", "learned")
CHOICES: dict[str, tuple[Any, ...]] = {
    "backbone_norm": BACKBONE_NORMS,
    "output_stride": OUTPUT_STRIDES,
    "activation_function": ACTIVATIONS,
    "position_embedding_type": POSITIONS,
}
MOST_CLASSES = 100_000
MOST_QUERIES = 10_000
MOST_GROUPS = 100
MOST_QUERIES_IN_TRAINING = 100_000  # of all groups
MOST_WEIGHT = 1e6  # of a cost or a loss
# timm's own names of networks; its "hf-hub:…" and "local-dir:…" would let a configuration fetch or open other files.
BACKBONE_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
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


def ranged(default: Any, low: float, high: float) -> Any:
    """A field of a configuration that is a number, with the least and the greatest it can be.

    No real model comes near the greatest sizes here: a larger one is a slip or a damaged file, which would otherwise be
    built for hours, or until memory ends.
    """
    return field(default=default, metadata={"range": (low, high)})


def weight(default: float) -> Any:
    """A field that is the weight of a cost or a loss."""
    return ranged(default, 0, MOST_WEIGHT)


@dataclass(kw_only=True, init=False)
class DetectionConfig(ABC):
    """What all families have in common. Use one of a family, in `families`.

    Field names and defaults are transformers' (5.23). Fields it does not know, which this package adds:

    - `backbone_norm`: "frozen" for pretrained backbones (statistics, stem and first stage stay as they are, as in
      the papers); "batch" or "group" for training from scratch (everything learns).
    - `output_stride`: pixels per cell of the feature map, 32, 16, 8 or 4. The backbone ends at the stage with this
      stride. `dilation=True` (DC5) keeps all stages of a stride-32 backbone and dilates the last one to stride 16.
    - `query_groups`: K groups of `num_queries` queries in training, each matched with all objects, none seeing another
      (Group DETR, arXiv 2207.13085). Evaluation and saved models have the first group only, so it is not in their
      `config.json`; nor is 1.
    - `category_ids`: the data set's own category id of each class, in class order.
    - `is_thing`: for panoptic segmentation, whether each class is countable.
    - `backbone_config`: of a ResNet that is given by its sizes, as transformers' `ResNetConfig` has them; None for a
      network that timm has by name. Of any other backbone, transformers' `backbone_config` is read into the fields here.

    Unknown fields given to the constructor are kept in `extra` and written back by `to_dict`.

    Attributes:
        model_type: the family's name in `config.json`.
        family_name: its name in sentences, such as "DETR".
        paper: address of the paper.
        panoptic_threshold: least score of a panoptic segment, 0…1, unless a caller says another.

    Raises:
        ValueError: a value that no model can have, named with what is allowed.
    """

    model_type: ClassVar[str]
    family_name: ClassVar[str]
    paper: ClassVar[str]
    panoptic_threshold: ClassVar[float]

    # backbone
    backbone: str = "resnet50"
    use_timm_backbone: bool = True
    use_pretrained_backbone: bool = False
    backbone_norm: str = "frozen"
    output_stride: int = 32
    dilation: bool = False
    backbone_config: dict[str, Any] | None = None
    num_channels: int = ranged(3, 1, 1000)
    # transformer
    d_model: int = ranged(256, 4, 4096)
    num_queries: int = ranged(300, 1, MOST_QUERIES)
    query_groups: int = ranged(1, 1, MOST_GROUPS)
    encoder_layers: int = ranged(6, 0, 100)
    encoder_ffn_dim: int = ranged(2048, 1, 32_768)
    encoder_attention_heads: int = ranged(8, 1, 1024)
    decoder_layers: int = ranged(6, 1, 100)
    decoder_ffn_dim: int = ranged(2048, 1, 32_768)
    decoder_attention_heads: int = ranged(8, 1, 1024)
    activation_function: str = "relu"
    dropout: float = ranged(0.1, 0, 0.99)
    attention_dropout: float = ranged(0.0, 0, 0.99)
    activation_dropout: float = ranged(0.0, 0, 0.99)
    position_embedding_type: str = "sine"
    auxiliary_loss: bool = False
    # matching and losses
    class_cost: float = weight(2)
    bbox_cost: float = weight(5)
    giou_cost: float = weight(2)
    bbox_loss_coefficient: float = weight(5)
    giou_loss_coefficient: float = weight(2)
    mask_loss_coefficient: float = weight(1)
    dice_loss_coefficient: float = weight(1)
    # classes
    id2label: dict[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    category_ids: list[int] | None = None
    is_thing: list[bool] | None = None
    # what `forward` returns where the call does not say
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True

    def __init__(self, /, *, num_labels: int | None = None, **values: Any) -> None:
        values = self._from_transformers(values)
        id2label = values.get("id2label")
        if num_labels is not None:
            if not _is_integer(num_labels, 1, MOST_CLASSES):
                self._refuse("num_labels", num_labels, f"an integer from 1 to {MOST_CLASSES}")
            if not isinstance(id2label, dict) or len(id2label) != num_labels:
                values["id2label"] = _numbered_labels(num_labels)
        kinds = _kinds_of_fields(type(self))
        for spec in fields(self):
            default = spec.default if spec.default_factory is MISSING else spec.default_factory()
            value = values.pop(spec.name, default)
            setattr(self, spec.name, self._checked(spec, kinds[spec.name], default if value is None else value))
        self.extra = values
        self._check()

    def _from_transformers(self, values: dict[str, Any]) -> dict[str, Any]:
        """Read the backbone from transformers 5's `backbone_config`, drop what other fields already say."""
        values = dict(values)
        if values.get("model_type", self.model_type) != self.model_type:
            raise ValueError(f"config of model_type {shown(values['model_type'])} is not a {type(self).__name__}")
        nested = values.pop("backbone_config", None)
        if nested is not None:
            if not isinstance(nested, dict) and not hasattr(nested, "to_dict"):
                self._refuse("backbone_config", nested, "a JSON object")
            values.update(self._nested_backbone(dict(nested) if isinstance(nested, dict) else nested.to_dict(), values))
        elif values.get("use_timm_backbone") is False:
            raise ValueError(
                f"{type(self).__name__}: use_timm_backbone=false needs the sizes of a ResNet in backbone_config; or name one "
                "of timm's networks as backbone"
            )
        for derived in ("model_type", "label2id", "transformers_version"):
            values.pop(derived, None)
        return values

    def _nested_backbone(self, nested: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        """The fields that transformers' `backbone_config` stands for; `values` are those that stand beside it."""
        kind = nested.get("model_type", "timm_backbone")
        stages = nested.get("out_indices") or [-1]
        if not isinstance(stages, list | tuple) or not all(_is_integer(stage, -1, 1000) for stage in stages):
            self._refuse("backbone_config.out_indices", stages, "a list of stages, integers of at least -1")
        fields: dict[str, Any] = {}
        if stages[-1] not in (-1, 4) and "output_stride" not in values:  # stage i of a ResNet has stride 2^(i+1)
            fields["output_stride"] = 2 ** (stages[-1] + 1)
        if kind == "resnet":
            return fields | {"backbone_config": resnet_sizes(nested), "use_timm_backbone": False, "backbone": "resnet"}
        if kind != "timm_backbone":
            raise ValueError(
                f"backbone_config of model_type {shown(kind)} is not supported; use a ResNet or one of timm's networks"
            )
        stride = nested.get("output_stride")
        if stride not in (None, 16, 32):
            self._refuse("backbone_config.output_stride", stride, "16 or 32")
        if stride == 16 and "dilation" not in values:
            fields["dilation"] = True
        return fields | {"backbone": values.get("backbone") or nested.get("backbone"), "use_timm_backbone": True}

    def _checked(self, spec: Field[Any], kind: Any, value: Any) -> Any:
        """A field's value in the type it is kept in, or one line that says what it must be."""
        name = spec.name
        if name in CHOICES:
            if not any(value == choice and type(value) is type(choice) for choice in CHOICES[name]):
                self._refuse(name, value, f"one of {', '.join(str(choice) for choice in CHOICES[name])}")
        elif name == "backbone":
            if not isinstance(value, str) or not BACKBONE_NAME.fullmatch(value):
                self._refuse(name, value, "a timm network's name, such as resnet50")
        elif kind is bool:
            if not isinstance(value, bool):
                self._refuse(name, value, "true or false")
        elif kind in (int, float):
            low, high = spec.metadata["range"]
            if not (_is_integer if kind is int else _is_number)(value, low, high):
                self._refuse(name, value, f"{'an integer' if kind is int else 'a number'} from {low:.7g} to {high:.7g}")
            return int(value) if isinstance(value, Integral) else float(value)
        elif kind == dict[int, str]:
            return self._labels(name, value)
        elif name == "backbone_config":
            return value
        elif value is not None:
            integers = kind == list[int] | None
            fits = Integral if integers else bool
            if not isinstance(value, list | tuple) or not all(
                isinstance(v, fits) and not (integers and isinstance(v, bool)) for v in value
            ):
                self._refuse(name, value, f"a list of {'integers' if integers else 'true and false'}, one a class")
            return [int(v) for v in value] if integers else list(value)
        return value

    def _labels(self, name: str, value: Any) -> dict[int, str]:
        """The classes in the order of their numbers, whatever order a file has them in ("0", "1", "10", "2")."""
        if not isinstance(value, dict):
            self._refuse(name, value, 'an object of class names, {"0": "cat", "1": "dog"}')
        if not 1 <= len(value) <= MOST_CLASSES:
            raise ValueError(
                f"{type(self).__name__}: {name} has {len(value)} classes; 1 to {MOST_CLASSES} are possible"
            )
        names: dict[int, str] = {}
        for key, label in value.items():
            number = key if _is_integer(key, 0, MOST_CLASSES) else None
            if isinstance(key, str) and re.fullmatch("[0-9]{1,9}", key):
                number = int(key)
            if number is None or number in names or number >= len(value):
                raise ValueError(
                    f"{type(self).__name__}: {name} must map 0…{len(value) - 1} to the names of {len(value)} classes, "
                    f"each number once; got {shown(key)}"
                )
            if isinstance(label, bool) or not isinstance(label, str | Real) or not is_text(str(label)):
                raise ValueError(f"{type(self).__name__}: {name} must have text for class {number}, got {shown(label)}")
            names[int(number)] = str(label)
        return dict(sorted(names.items()))

    def _refuse(self, name: str, value: Any, expected: str) -> NoReturn:
        raise ValueError(f"{type(self).__name__}: {name} must be {expected}, got {shown(value)}")

    def _check(self) -> None:
        """What fields must be to each other."""

        def require(condition: bool, message: str) -> None:
            if not condition:
                raise ValueError(f"{type(self).__name__}: {message}")

        require(
            not (self.backbone_config and self.dilation),
            "dilation (DC5) needs a timm backbone, not a backbone_config of sizes",
        )
        require(
            not (self.dilation and self.output_stride != 32), "dilation (DC5) needs output_stride 32, which it halves"
        )
        require(
            self.num_queries * self.query_groups <= MOST_QUERIES_IN_TRAINING,
            f"query_groups {self.query_groups} of num_queries {self.num_queries} are more than "
            f"{MOST_QUERIES_IN_TRAINING} queries",
        )
        require(self.d_model % 4 == 0, f"d_model {self.d_model} is not a multiple of 4, as sine positions need")
        for name in ("encoder", "decoder"):
            heads = getattr(self, f"{name}_attention_heads")
            require(
                self.d_model % heads == 0, f"d_model {self.d_model} is not a multiple of {name}_attention_heads {heads}"
            )
        for name in ("category_ids", "is_thing"):
            value = getattr(self, name)
            require(
                value is None or len(value) == self.num_labels,
                f"{name} has {len(value or ())} entries for {self.num_labels} classes",
            )
        kinds = self.extra.get("architectures")
        require(
            kinds is None or (isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)),
            f"architectures must be a list of class names, got {shown(kinds)}",
        )

    @property
    @abstractmethod
    def classes(self) -> ClassReading:
        """How the family reads class logits, matches by them, and trains them."""

    @property
    def num_labels(self) -> int:
        """Number of real classes C ("no object" is not one of them)."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        """Another number of classes: they are called LABEL_0, LABEL_1, …, and the data set's ids and kinds of the old
        ones are forgotten."""
        if not _is_integer(count, 1, MOST_CLASSES):
            self._refuse("num_labels", count, f"an integer from 1 to {MOST_CLASSES}")
        if count != len(self.id2label):
            self.id2label, self.category_ids, self.is_thing = _numbered_labels(count), None, None

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
        if self.query_groups == 1:
            del values["query_groups"]
        return {"model_type": self.model_type, **values, "label2id": self.label2id, **copy.deepcopy(self.extra)}

    def to_json_string(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any], /, **overrides: Any) -> Self:
        """Build from the contents of a `config.json`; `overrides` replace its values. Unknown fields are kept.

        Other classes in `overrides` bring their own `category_ids` and `is_thing`, or none: those of the classes that they
        replace are dropped, and this is logged.

        Raises:
            ValueError: a value that no model can have, named with what is allowed.
        """
        values = without_stale_ids({**values, **overrides}, values.get("id2label"), set(overrides))
        if "id2label" in overrides and "num_labels" not in overrides:
            values.pop("num_labels", None)
        return cls(**values)


def without_stale_ids(values: dict[str, Any], before: Any, given: set[str]) -> dict[str, Any]:
    """The values of a configuration without the `category_ids` and `is_thing` of classes that it no longer has.

    Args:
        values: of the configuration, what a caller gave included.
        before: `id2label` of its file.
        given: the names of the values that a caller gave; what stands beside new classes there is theirs.
    """
    labels = values.get("id2label")
    count = len(labels) if isinstance(labels, dict) else None
    if "num_labels" in given and "id2label" not in given:
        count = values["num_labels"]
    renamed = False
    if "id2label" in given and isinstance(before, dict) and isinstance(labels, dict):
        renamed = {str(i): str(n) for i, n in labels.items()} != {str(i): str(n) for i, n in before.items()}
    # transformers keeps fields that it does not know when it changes the classes.
    others = bool(given & {"id2label", "num_labels"}) or "transformers_version" in values
    stale = [
        name
        for name in ("category_ids", "is_thing")
        if name not in given
        and isinstance(values.get(name), list)
        and (renamed or (others and len(values[name]) != count))
    ]
    if stale:
        logger.warning("%s of the classes before are dropped: the classes are others now", " and ".join(stale))
    return {name: value for name, value in values.items() if name not in stale}


RESNET_SIZES = {  # transformers' ResNetConfig, with its defaults
    "num_channels": 3,
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}


def resnet_sizes(values: dict[str, Any]) -> dict[str, Any]:
    """What `backbone_config` says of a ResNet, checked; what it leaves out is ResNet-50's.

    Raises:
        ValueError: a value that no ResNet here has.
    """
    sizes = {name: values.get(name, default) for name, default in RESNET_SIZES.items()}

    def refuse(name: str, expected: str) -> NoReturn:
        raise ValueError(f"backbone_config.{name} must be {expected}, got {shown(sizes[name])}")

    for name in ("hidden_sizes", "depths"):
        most = 16_384 if name == "hidden_sizes" else 200
        if (
            not isinstance(sizes[name], list | tuple)
            or len(sizes[name]) != 4
            or not all(_is_integer(size, 1, most) for size in sizes[name])
        ):
            refuse(name, f"four integers from 1 to {most}, one a stage")
        sizes[name] = [int(size) for size in sizes[name]]
    for name, most in (("num_channels", 1000), ("embedding_size", 16_384)):
        if not _is_integer(sizes[name], 1, most):
            refuse(name, f"an integer from 1 to {most}")
    if sizes["layer_type"] not in ("basic", "bottleneck"):
        refuse("layer_type", "basic or bottleneck")
    if sizes["layer_type"] == "bottleneck" and min(sizes["hidden_sizes"]) < 4:
        refuse("hidden_sizes", "at least 4 for bottlenecks")
    if sizes["hidden_act"] != "relu":
        refuse("hidden_act", "relu")
    for name in ("downsample_in_first_stage", "downsample_in_bottleneck"):
        if sizes[name]:
            refuse(name, "false")
    return {"model_type": "resnet", **sizes, "out_features": ["stage1", "stage2", "stage3", "stage4"]}


@cache
def _kinds_of_fields(config_class: type[DetectionConfig]) -> dict[str, Any]:
    return get_type_hints(config_class)


def _numbered_labels(count: int) -> dict[int, str]:
    return {i: f"LABEL_{i}" for i in range(count)}


def _is_integer(value: Any, low: float, high: float) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and low <= int(value) <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    """Whether `value` is a number in the range, which NaN is not."""
    return not isinstance(value, bool) and isinstance(value, Real) and bool(low <= value <= high)  # type: ignore[operator]
