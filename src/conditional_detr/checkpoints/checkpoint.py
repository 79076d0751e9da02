"""A saved model, looked for once: its family, its configuration, its weights, its image processor's file."""

from __future__ import annotations

import copy
import logging
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from ..config import DetectionConfig
from ..files import read_json
from ..messages import shown
from .hub import local_path
from .names import MASK_PREFIXES, ORIGINAL_DETECTOR_PREFIX
from .original import is_original, original_model_type, said_by, values_from_weights
from .weights import read_weights, read_weights_and_arguments

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_INDEXES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)

Config = TypeVar("Config", bound=DetectionConfig)


class Weights(NamedTuple):
    source: Path  # the file that they are in, or of shards the one that names them
    tensors: dict[str, Tensor]


class Checkpoint:
    """A folder, a file of weights or a repository on the hub. Each of its files is opened when first asked for, and once.

    Args:
        name: of the folder, file or repository.
        hub_options: `hub.HUB_OPTIONS`.
    """

    def __init__(self, name: str | Path, **hub_options: Any) -> None:
        self.name = name
        self.file = path if (path := Path(name)).is_file() else None
        self._hub_options = hub_options

    @classmethod
    def find(cls, name: str | Path | Checkpoint, **hub_options: Any) -> Checkpoint:
        """The checkpoint of this name; one that was found already as it is."""
        return name if isinstance(name, Checkpoint) else cls(name, **hub_options)

    @cached_property
    def config_path(self) -> Path:
        """The file that says what the model is: `config.json`, or the weights themselves where there is none with them,
        or where they have the original's names.

        Raises:
            OSError: there is no such checkpoint.
            ValueError: the file of weights is damaged.
        """
        if self.file is None:
            return local_path(self.name, CONFIG_FILE, **self._hub_options)
        beside = self.file.parent / CONFIG_FILE
        return beside if beside.is_file() and not is_original(self._detector) else self.file

    @property
    def config_name(self) -> str:
        """`config_path` for messages, as the caller named the checkpoint."""
        return f"{self.name}/{CONFIG_FILE}" if self.file is None else str(self.config_path)

    @cached_property
    def config_values(self) -> dict[str, Any]:
        """The contents of `config.json`; empty where there is none.

        Raises:
            OSError: there is no such checkpoint.
            ValueError: it is not JSON, or no object.
        """
        if self.config_path == self.file:
            return {}
        values = read_json(self.config_path)
        if not isinstance(values, dict):
            raise ValueError(f"{self.config_path} is not a model's configuration: a JSON object is needed")
        return values

    @property
    def model_type(self) -> Any:
        """The family, such as "detr"; anything that a file may hold in its place. Errors as in `config_values`."""
        if self.config_path != self.file:
            return self.config_values.get("model_type")
        weights = self._detector  # whose errors name the file
        try:
            return original_model_type(weights)
        except ValueError as error:
            raise ValueError(f"{self.file}: {error}") from None

    @property
    def has_masks(self) -> bool:
        """Whether it is of a segmentation model. Errors as in `config_values`."""
        if self.config_path == self.file:
            return any(name.startswith(MASK_PREFIXES) for name in self._detector)
        kinds = self.config_values.get("architectures")
        return isinstance(kinds, list) and any(str(kind).endswith("ForSegmentation") for kind in kinds)

    @property
    def preprocessor_path(self) -> Path | None:
        """The image processor's file; None for a file of weights that has none beside it, or that is a `.pth` or `.pt` file,
        which says nothing about images.

        Raises:
            OSError: a folder or repository without one.
        """
        if self.file is None:
            return local_path(self.name, PREPROCESSOR_FILE, **self._hub_options)
        beside = self.file.parent / PREPROCESSOR_FILE
        return beside if self.file.suffix not in (".pth", ".pt") and beside.is_file() else None

    @property
    def said_of_queries(self) -> dict[str, Any]:
        """What it says of groups of object queries, for `original.queries_of_a_group`. A `config.json` that says nothing of
        them is of a model without. Errors as in `config_values`; weights in a folder without one say nothing."""
        try:
            of_weights = self.config_path == self.file
        except OSError:
            return {}
        if of_weights:
            return said_by(self._content[1])
        return self.config_values if "group_detr" in self.config_values else {"group_detr": 1}

    def config(self, config_class: type[Config], overrides: dict[str, Any]) -> Config:
        """The configuration, with values in place of its own.

        Raises:
            OSError: there is no such checkpoint.
            ValueError: it is of another model type, or holds a value that no model can have.
        """
        if self.config_path == self.file:
            return self._inferred_config(config_class, overrides)
        path, values = self.config_path, self.config_values
        if values.get("model_type") != config_class.model_type:
            raise ValueError(
                f"{path} is of model_type {shown(values.get('model_type'))}, {config_class.__name__} reads "
                f"{config_class.model_type!r}"
            )
        # What this package writes and transformers has not written since says neither of these otherwise.
        written_here = "backbone_norm" in values and "transformers_version" not in values
        if values.get("auxiliary_loss") and not written_here:
            logger.warning(
                "%s says auxiliary_loss: true. If transformers trained it, its decoder saw normalised states in "
                "training, which transformers itself does not repeat without auxiliary losses, and this package never "
                "does",
                path,
            )
        try:
            return config_class.from_dict(copy.deepcopy(values), **overrides)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def weights(self) -> Weights:
        """The weights, in memory, under the names that the files have; they are the caller's, and not kept here.

        Raises:
            OSError: there are none, or a shard is absent.
            ValueError: a file is damaged, or an index names files that are not beside it.
        """
        if self.file is None:
            return self._weights_by_name()
        tensors, _ = self._content
        if self.file.suffix != ".safetensors":  # mapped, so that they would change with the file
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        return Weights(self.file, tensors)

    @cached_property
    def _content(self) -> tuple[dict[str, Tensor], Any]:
        """The tensors of a file, left on disk where its format can, and the training script's arguments."""
        assert self.file is not None
        return read_weights_and_arguments(self.file, only_look=True)

    @cached_property
    def _detector(self) -> dict[str, Tensor]:
        """The tensors of a file under the names that they have in an original's detector, if it is one."""
        return {name.removeprefix(ORIGINAL_DETECTOR_PREFIX): tensor for name, tensor in self._content[0].items()}

    def _inferred_config(self, config_class: type[Config], overrides: dict[str, Any]) -> Config:
        """What an original's weights, the arguments beside them and the file's name show."""
        path, (_, arguments) = self.config_path, self._content
        if arguments is None and "dilation" not in overrides and "dc5" in path.name.lower():
            logger.warning(
                "%s: taken for a DC5 model by its name, as its weights do not say; else pass dilation=False", path
            )
            overrides = {**overrides, "dilation": True}
        try:
            model_type, values = values_from_weights(self._detector, arguments, overrides)
            if model_type == config_class.model_type:
                return config_class(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        raise ValueError(f"{path} holds a {model_type} model, not {config_class.model_type}")

    def _weights_by_name(self) -> Weights:
        """Of a folder or hub name, in one file or in shards."""
        for file_name in WEIGHT_FILES:
            path = local_path(self.name, file_name, required=False, **self._hub_options)
            if path:
                return Weights(path, read_weights(path))
        for index_name in WEIGHT_INDEXES:
            index = local_path(self.name, index_name, required=False, **self._hub_options)
            if index:
                tensors: dict[str, Tensor] = {}
                for shard in _shards(index):
                    try:
                        path = local_path(self.name, shard, **self._hub_options)
                    except OSError as error:
                        raise OSError(f"{index} names a file that is not there: {error}") from None
                    tensors.update(read_weights(path))
                return Weights(index, tensors)
        raise OSError(f"{self.name} holds no weights: none of {', '.join(WEIGHT_FILES + WEIGHT_INDEXES)}")


def _shards(index: Path) -> list[str]:
    """The files that an index names, each once. They lie beside it: a path to elsewhere is refused, not followed."""
    content = read_json(index)
    if not isinstance(content, dict) or not isinstance(content.get("weight_map"), dict):
        raise ValueError(f"{index} is not an index of weights: it has no weight_map")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    for weight, shard in content["weight_map"].items():
        if (
            not isinstance(shard, str)
            or not shard.isprintable()
            or not shard.endswith(suffix)
            or PurePosixPath(shard).name != shard
            or PureWindowsPath(shard).name != shard
        ):
            raise ValueError(
                f"{index}: weight_map names {shown(shard)} for {shown(weight)}; it must be the name of a {suffix} file "
                "beside the index"
            )
    return sorted(set(content["weight_map"].values()))
