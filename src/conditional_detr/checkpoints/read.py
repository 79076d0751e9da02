"""What a checkpoint says and holds: its family, its configuration, its weights."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from torch import Tensor

from ..config import CONFIG_CLASSES, DetectionConfig
from ..files import read_json
from ..messages import shown
from .hub import find_file
from .names import MASK_PREFIXES, without_detector_prefix
from .original import config_from_weights
from .weights import read_pickled, read_weights

logger = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_INDEXES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
PICKLED = (".pth", ".pt", ".bin")
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")

Config = TypeVar("Config", bound=DetectionConfig)


def config_of(name: str | Path, config_class: type[Config], **options: Any) -> Config:
    """The configuration of a checkpoint: a folder, a file of weights, or a hub name.

    Args:
        options: values of the configuration, and `HUB_OPTIONS`.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it is of another model type.
    """
    files = {option: options.pop(option) for option in HUB_OPTIONS if option in options}
    path = Path(name)
    if path.is_file():
        weights = without_detector_prefix(read_weights(path, only_look=True))
        return config_of_weights(path, weights, config_class, options)  # type: ignore[return-value]
    return read_config(name, config_class, options, **files)  # type: ignore[return-value]


def model_family(name: str | Path, **files: Any) -> str:
    """ "conditional_detr" or "detr", as a checkpoint says.

    Args:
        name: a folder, a file of weights, or a hub name.
        files: `HUB_OPTIONS`.

    Raises:
        OSError: no such checkpoint.
        ValueError: it is of another model type.
    """
    return _family_and_kind(name, files)[0]


def has_masks(name: str | Path, **files: Any) -> bool:
    """Whether a checkpoint is of a segmentation model; arguments and errors as in `model_family`."""
    return _family_and_kind(name, files)[1]


def _family_and_kind(name: str | Path, files: dict[str, Any]) -> tuple[str, bool]:
    path = Path(name)
    beside = path.parent / "config.json"
    if path.is_file():
        weights = without_detector_prefix(read_weights(path, only_look=True))
        if is_original(weights) or not beside.is_file():
            config_of_file = config_of_weights(path, weights, DetectionConfig, {})
            return config_of_file.model_type, any(weight.startswith(MASK_PREFIXES) for weight in weights)
    config = beside if path.is_file() else find_file(name, "config.json", **files)
    assert config is not None
    values = _read_config_file(config)
    family = values.get("model_type")
    if not isinstance(family, str) or family not in CONFIG_CLASSES:
        raise ValueError(f"{config} is of model_type {shown(family)}; this package knows {', '.join(CONFIG_CLASSES)}")
    kinds = values.get("architectures")
    return family, isinstance(kinds, list) and any(str(kind).endswith("ForSegmentation") for kind in kinds)


def read_config(
    name: str | Path, config_class: type[DetectionConfig], overrides: dict[str, Any], **files: Any
) -> DetectionConfig:
    """Read `config.json` of a folder or hub name.

    Raises:
        OSError: there is none.
        ValueError: it is of another model type, or not JSON.
    """
    path = find_file(name, "config.json", **files)
    assert path is not None
    values = _read_config_file(path)
    if values.get("model_type") != config_class.model_type:
        raise ValueError(
            f"{path} is of model_type {shown(values.get('model_type'))}, {config_class.__name__} reads {config_class.model_type!r}"
        )
    # What this package writes and transformers has not written since says neither of these otherwise.
    written_here = "backbone_norm" in values and "transformers_version" not in values
    if values.get("auxiliary_loss") and not written_here:
        logger.warning(
            "%s says auxiliary_loss: true. If transformers trained it, its decoder saw normalised states in training, "
            "which transformers itself does not repeat without auxiliary losses, and this package never does",
            path,
        )
    try:
        return config_class.from_dict(values, **overrides)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_config_file(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a model's configuration: a JSON object is needed")
    return values


def config_of_weights(
    path: Path, weights: dict[str, Tensor], config_class: type[DetectionConfig], overrides: dict[str, Any]
) -> DetectionConfig:
    """The configuration that goes with a file of weights: `config.json` beside it, or, if the weights have the
    original's names, what they and the file's `args` show.

    Raises:
        ValueError: the file is of another model type, or of none.
    """
    if (path.parent / "config.json").is_file() and not is_original(weights):
        return read_config(path.parent, config_class, overrides)
    args = read_pickled(path, only_look=True).get("args") if path.suffix in PICKLED else None
    if args is None and "dilation" not in overrides and "dc5" in path.name.lower():
        logger.warning(
            "%s: taken for a DC5 model by its name, as its weights do not say; else pass dilation=False", path
        )
        overrides = {**overrides, "dilation": True}
    try:
        config = config_from_weights(weights, args, overrides)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(config, config_class):
        raise ValueError(f"{path} holds a {config.model_type} model, not {config_class.model_type}")
    return config


def is_original(weights: dict[str, Tensor]) -> bool:
    return "class_embed.weight" in weights


def read_weight_files(name: str | Path, **files: Any) -> tuple[Path, dict[str, Tensor]]:
    """The weights of a folder or hub name, in one file or in shards, and the file that they, or the names of the shards,
    are in.

    Raises:
        OSError: there are none, or a shard is absent.
        ValueError: a file is damaged, or the index names files that are not beside it.
    """
    for file_name in WEIGHT_FILES:
        path = find_file(name, file_name, required=False, **files)
        if path:
            return path, read_weights(path)
    for index_name in WEIGHT_INDEXES:
        index = find_file(name, index_name, required=False, **files)
        if index:
            weights: dict[str, Tensor] = {}
            for shard in _shards(index):
                try:
                    path = find_file(name, shard, **files)
                except OSError as error:
                    raise OSError(f"{index} names a file that is not there: {error}") from None
                weights.update(read_weights(path) if path else {})
            return index, weights
    raise OSError(f"{name} holds no weights: none of {', '.join(WEIGHT_FILES + WEIGHT_INDEXES)}")


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
