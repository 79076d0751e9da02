"""`from_pretrained` and `save_pretrained` of the models."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import Self

from ..config import DetectionConfig
from .files import read_json, read_pickled, read_weights, write_atomically, write_json
from .hub import find_file
from .names import to_disk, to_memory
from .original import config_from_weights

logger = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_INDEXES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
PICKLED = (".pth", ".pt", ".bin")
# What a caller who names other classes or another number of queries asks to be made anew.
RESIZABLE = ("class_labels_classifier.", "query_position_embeddings.")


class PretrainedModel(nn.Module):
    """A module that is built from a configuration, `cls(config)`, and can be loaded and saved."""

    config_class: ClassVar[type[DetectionConfig]]

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        config: DetectionConfig | None = None,
        dtype: torch.dtype = torch.float32,
        ignore_mismatched_sizes: bool = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Self:
        """Load a model, in evaluation mode.

        Args:
            name: a folder with `config.json` and weights; an original `.pth` file; or a name on the Hugging Face hub.
            config: replaces the checkpoint's configuration.
            dtype: of the weights.
            ignore_mismatched_sizes: build weights whose shape differs anew instead of refusing.
            overrides: replace values of the configuration. `num_labels=` or `id2label=` with other classes than the
                checkpoint's swap the classifier, `num_queries=` the object queries; both are announced.

        Raises:
            OSError: no such folder, file or hub name, or no network.
            ValueError: the files are damaged, are of another model type, or do not fit the model; weights are named.
        """
        files = dict(revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        path = Path(name)
        if path.is_file():
            weights = read_weights(path)
            if config is None:
                config = _config_beside(path, weights, cls.config_class, overrides)
        else:
            if config is None:
                config = read_config(name, cls.config_class, overrides, **files)
            weights = _read_weight_files(name, **files)
        resized = tuple(overrides) if {"num_labels", "id2label", "num_queries"} & set(overrides) else ()
        weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
        model = cls._build_empty(config)
        model._load(weights, str(name), allow_new=bool(resized), allow_any=ignore_mismatched_sizes)
        return model.eval().to(dtype)

    @classmethod
    def _build_empty(cls, config: DetectionConfig) -> Self:
        """Build without memory or initialisation: the weights are about to come from the checkpoint."""
        config.use_pretrained_backbone = False
        with torch.device("meta"):
            return cls(config)

    def _load(self, weights: dict[str, Tensor], source: str, allow_new: bool, allow_any: bool) -> None:
        """Fill the (empty) module, or say by name what does not fit."""
        own = self.state_dict()
        state = self._with_own_prefix(to_memory(_with_model_prefix(weights), self.config.model_type))
        unexpected = [n for n in state if n not in own and not n.endswith("num_batches_tracked")]
        missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
        mismatched = [n for n in own if n in state and own[n].shape != state[n].shape]
        if any(".embedder.convolution" in n or ".embedder.embedder." in n for n in unexpected):
            raise ValueError(
                f"{source} was saved with use_timm_backbone=false, whose backbone is another network: not supported"
            )
        new = [n for n in mismatched if allow_any or (allow_new and any(part in n for part in RESIZABLE))]
        wrong = [
            f"{n} is {tuple(state[n].shape)}, the model needs {tuple(own[n].shape)}" for n in mismatched if n not in new
        ]
        problems = [
            f"{len(names)} {what}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another size", wrong))
            if names
        ]
        if problems:
            raise ValueError(f"{source} does not fit {type(self).__name__}; weights {'; '.join(problems)}")
        kept = {n: t for n, t in state.items() if n in own and n not in new}
        if new or any(n.endswith("num_batches_tracked") for n in own):
            fresh = type(self)(self.config).state_dict()
            kept = {**fresh, **kept}
        if new:
            logger.warning("%s: made anew, to be trained: %s", source, ", ".join(new))
        self.load_state_dict(kept, assign=True)

    def _with_own_prefix(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A bare model has no `model.` in front of its names, and no heads."""
        if hasattr(self, "model"):
            return state
        return {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `config.json`, in the names that transformers 4 and 5 read.

        Raises:
            OSError: the folder cannot be written; files already there stay whole.
        """
        folder = Path(folder)
        bare = not hasattr(self, "model")
        state = {("model." if bare else "") + n: t for n, t in self.state_dict().items()}
        state = to_disk(state, self.config.model_type)
        if bare:
            state = {n.removeprefix("model."): t for n, t in state.items()}
        state = {n: t.detach().cpu().contiguous() for n, t in state.items() if not n.endswith("num_batches_tracked")}
        values = self.config.to_dict() | {
            "architectures": [type(self).__name__],
            # transformers would feed normalised states on and so change the predictions (docs: trap 2)
            "auxiliary_loss": False,
        }
        write_atomically(
            folder / "model.safetensors", lambda beside: save_file(state, beside, metadata={"format": "pt"})
        )
        write_json(folder / "config.json", values)


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
    values = read_json(path)
    if values.get("model_type") != config_class.model_type:
        raise ValueError(
            f"{path} is of model_type {values.get('model_type')!r}, {config_class.__name__} reads {config_class.model_type!r}"
        )
    if values.get("auxiliary_loss"):
        logger.warning(
            "%s says auxiliary_loss: true. If transformers trained it, its decoder saw normalised states in training, "
            "which transformers itself does not repeat without auxiliary losses, and this package never does",
            path,
        )
    return config_class.from_dict(values, **overrides)


def _config_beside(
    path: Path, weights: dict[str, Tensor], config_class: type[DetectionConfig], overrides: dict[str, Any]
) -> DetectionConfig:
    if (path.parent / "config.json").is_file() and path.suffix != ".pth":
        return read_config(path.parent, config_class, overrides)
    args = read_pickled(path).get("args") if path.suffix in PICKLED else None
    config = config_from_weights(weights, args, overrides)
    if not isinstance(config, config_class):
        raise ValueError(f"{path} holds a {config.model_type} model, not {config_class.model_type}")
    return config


def _read_weight_files(name: str | Path, **files: Any) -> dict[str, Tensor]:
    for file_name in WEIGHT_FILES:
        path = find_file(name, file_name, required=False, **files)
        if path:
            return read_weights(path)
    for index_name in WEIGHT_INDEXES:
        index = find_file(name, index_name, required=False, **files)
        if index:
            shards = sorted(set(read_json(index)["weight_map"].values()))
            paths = [find_file(name, shard, **files) for shard in shards]
            return {key: tensor for path in paths if path for key, tensor in read_weights(path).items()}
    raise OSError(f"{name} holds no weights: none of {', '.join(WEIGHT_FILES + WEIGHT_INDEXES)}")


def _with_model_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the names of a bare model's checkpoint (dialect B or C) the `model.` they have in a detector's."""
    if any(n.startswith(("model.", "transformer.")) for n in weights):
        return weights
    return {f"model.{n}": t for n, t in weights.items()}
