"""`from_pretrained` and `save_pretrained` of the models."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import Self

from ..config import DetectionConfig
from ..files import write_atomically, write_json
from .card import model_card, write_card
from .hub import upload_folder
from .names import MASK_PREFIXES, to_disk, to_memory, without_detector_prefix
from .read import config_of_weights, is_original, read_config, read_weight_files
from .weights import read_weights

logger = logging.getLogger(__name__)

# What a caller who names other classes or another number of queries asks to be made anew.
RESIZABLE = ("class_labels_classifier.", "query_position_embeddings.")
# Arguments of transformers' `from_pretrained` and `save_pretrained` that ask for what happens here anyway.
WITHOUT_EFFECT_ON_LOADING = ("attn_implementation", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors")
WITHOUT_EFFECT_ON_SAVING = ("max_shard_size", "safe_serialization", "save_function")
# Fields of transformers' configurations that mean nothing here, and are kept for it.
ONLY_IN_TRANSFORMERS = (
    "backbone_config",
    "backbone_kwargs",
    "decoder_layerdrop",
    "encoder_layerdrop",
    "init_std",
    "init_xavier_std",
    "is_encoder_decoder",
    "label2id",
    "num_labels",
)


class PretrainedModel(nn.Module):
    """A module that is built from a configuration, `cls(config)`, and can be loaded and saved."""

    config_class: ClassVar[type[DetectionConfig]]

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: DetectionConfig | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: str | int | torch.device | None = None,
        ignore_mismatched_sizes: bool = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **overrides: Any,
    ) -> Self:
        """Load a model, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder with `config.json` and weights; an original `.pth` file; or a name on
                the Hugging Face hub.
            config: replaces the checkpoint's configuration.
            dtype: of the weights, a type or its name; "auto" for the file's own, None for float32.
            torch_dtype: older name of `dtype`.
            device_map: the device to load to; "auto" for the best there is.
            ignore_mismatched_sizes: build weights whose shape differs anew instead of refusing.
            revision, cache_dir, token, local_files_only, force_download: as `huggingface_hub` takes them.
            overrides: replace values of the configuration. `num_labels=` or `id2label=` with other classes than the
                checkpoint's swap the classifier, `num_queries=` the object queries; both are announced.

        Raises:
            OSError: no such folder, file or hub name, or no network.
            TypeError: an override that no configuration has.
            ValueError: the files are damaged, are of another model type, or do not fit the model; weights are named.
        """
        dtype, device = named_dtype(dtype or torch_dtype), _named_device(device_map)
        overrides = _known_overrides(cls.config_class, overrides)
        files = dict(
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        name = pretrained_model_name_or_path
        source = Path(name)
        described = ""
        if source.is_file():
            weights = without_detector_prefix(read_weights(source))
            if config is None:
                config = config_of_weights(source, weights, cls.config_class, overrides)
                beside = source.parent / "config.json"
                described = str(beside if beside.is_file() and not is_original(weights) else source)
        else:
            if config is None:
                config = read_config(name, cls.config_class, overrides, **files)
                described = f"{name}/config.json"
            source, weights = read_weight_files(name, **files)
            weights = without_detector_prefix(weights)
        resized = tuple(overrides) if {"num_labels", "id2label", "num_queries"} & set(overrides) else ()
        if dtype is None:
            dtype = next((value.dtype for value in weights.values() if value.is_floating_point()), torch.float32)
        weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
        try:
            model = cls._build_empty(config)
        except ValueError as error:
            raise ValueError(f"{described}: {error}" if described else str(error)) from None
        model._load(weights, source, described, allow_new=bool(resized), allow_any=ignore_mismatched_sizes)
        return model.eval().to(device, dtype)

    @classmethod
    def _build_empty(cls, config: DetectionConfig) -> Self:
        """Build without memory or initialisation: the weights are about to come from the checkpoint."""
        config.use_pretrained_backbone = False
        with torch.device("meta"):
            return cls(config)

    def _load(self, weights: dict[str, Tensor], source: Path, described: str, allow_new: bool, allow_any: bool) -> None:
        """Fill the (empty) module, or say by name what does not fit.

        Args:
            source: the file of the weights, for messages.
            described: the file of the configuration, for messages; "" for a caller's own.
        """
        own = self.state_dict()
        state = self._with_own_prefix(to_memory(_with_model_prefix(weights), self.config.model_type))
        segments = any(n.startswith(MASK_PREFIXES) for n in own)
        if any(n.startswith(MASK_PREFIXES) for n in state) and not segments:
            logger.info("%s: a segmentation model, of which the detector is taken and the mask head left out", source)
            state = {n: t for n, t in state.items() if not n.startswith(MASK_PREFIXES)}
        new_head = segments and not any(n.startswith(MASK_PREFIXES) for n in state)
        # Of timm's network older files hold what the model does without.
        modules = [(at, part) for at, part in self.named_modules() if hasattr(part, "left_out")]
        left_out = tuple(f"{at}.model.{name}." for at, part in modules for name in part.left_out)
        state = {n: t for n, t in state.items() if not n.startswith(left_out)}
        unexpected = [n for n in state if n not in own and not n.endswith("num_batches_tracked")]
        missing = [
            n
            for n in own
            if n not in state
            and not n.endswith("num_batches_tracked")
            and not (new_head and n.startswith(MASK_PREFIXES))
        ]
        mismatched = [n for n in own if n in state and own[n].shape != state[n].shape]
        if any(".embedder.convolution" in n or ".embedder.embedder." in n for n in unexpected):
            raise ValueError(
                f"{source} was saved with use_timm_backbone=false, whose backbone is another network: not supported"
            )
        new = [n for n in mismatched if allow_any or (allow_new and any(part in n for part in RESIZABLE))]
        wrong = [
            f"{n} is {tuple(state[n].shape)}, the model needs {tuple(own[n].shape)}" for n in mismatched if n not in new
        ]
        unlike = [
            f"{n} is {state[n].dtype}"
            for n in own
            if n in state and own[n].is_floating_point() != state[n].is_floating_point()
        ]
        problems = [
            f"{len(names)} {what}: {', '.join(_printable(n) for n in names[:5])}{', …' if len(names) > 5 else ''}"
            for what, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another size", wrong),
                ("of another type", unlike),
            )
            if names
        ]
        if problems:
            whole = type(self).__name__ + (f" as {described} has it" if described not in ("", str(source)) else "")
            raise ValueError(f"{source} does not fit {whole}; weights {'; '.join(problems)}")
        kept = {n: t for n, t in state.items() if n in own and n not in new}
        if new or new_head or any(n.endswith("num_batches_tracked") for n in own):
            fresh = type(self)(self.config).state_dict()
            kept = {**fresh, **kept}
        if new:
            logger.warning("%s: made anew, to be trained: %s", source, ", ".join(new))
        if new_head:
            logger.warning("%s is a detector: its mask head is new, to be trained", source)
        self.load_state_dict(kept, assign=True)

    def _with_own_prefix(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A bare model has no `model.` in front of its names, and no heads; a segmentation model has a detector."""
        if hasattr(self, "model"):
            return state
        if hasattr(self, "mask_head"):
            prefix = f"{self.config.model_type}."
            return {n if n.startswith(MASK_PREFIXES) else prefix + n: t for n, t in state.items()}
        return {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")}

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        dataset: str | None = None,
        metrics: Mapping[str, float] | None = None,
        state_dict: dict[str, Tensor] | None = None,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        token: str | bool | None = None,
        **without_effect: Any,
    ) -> None:
        """Write `model.safetensors` and `config.json`, in the names that transformers 4 and 5 read, and a model card.

        What transformers' configuration cannot express is logged as a warning; the folder then opens here only.

        Args:
            dataset: for the card: what the model was trained or evaluated on.
            metrics: for the card: name -> figure.
            state_dict: weights to save in place of the module's own, such as `accelerator.get_state_dict(model)`.
            is_main_process: False writes nothing.
            push_to_hub: upload the folder's contents to `repo_id` (the folder's name, if None) as well.
            without_effect: transformers' `max_shard_size`, `save_function` and `safe_serialization`: weights are one
                safetensors file.

        Raises:
            OSError: the folder cannot be written, files already there stay whole; or the upload failed.
            TypeError: an unknown argument.
        """
        unknown = [name for name in without_effect if name not in WITHOUT_EFFECT_ON_SAVING]
        if unknown:
            raise TypeError(f"save_pretrained() got an unknown argument {unknown[0]!r}")
        if not is_main_process:
            return
        folder = Path(save_directory)
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file, not a folder to save a model in")
        self._write(folder, ".", dataset, metrics, state_dict)
        if push_to_hub:
            self.push_to_hub(repo_id or folder.resolve().name, dataset=dataset, metrics=metrics, token=token)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        dataset: str | None = None,
        metrics: Mapping[str, float] | None = None,
        commit_message: str = "Upload model",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes to a repository on the hub, which is made if need be.

        Args:
            repo_id: "OWNER/NAME".
            dataset, metrics: for the card, as in `save_pretrained`.
            commit_message, private, token, revision, create_pr: as `huggingface_hub` takes them.

        Returns:
            the commit's address.

        Raises:
            OSError: no network, no permission, or no such name; one line.
        """
        return upload_folder(
            repo_id,
            lambda folder: self._write(folder, repo_id, dataset, metrics, None),
            commit_message=commit_message,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
        )

    def config_for_transformers(self) -> tuple[dict[str, Any], list[str]]:
        """What goes into `config.json`, and what of it transformers cannot express, each in a few words."""
        return self.config.to_dict(), []

    def _write(
        self,
        folder: Path,
        card_name: str,
        dataset: str | None,
        metrics: Mapping[str, float] | None,
        state_dict: dict[str, Tensor] | None,
    ) -> None:
        values, limits = self.config_for_transformers()
        card = model_card(
            self.config,
            masks=hasattr(self, "mask_head"),
            name=card_name,
            dataset=dataset,
            metrics=metrics,
            transformers_reads_it=not limits,
        )
        bare = not hasattr(self, "model") and not hasattr(self, "mask_head")
        own = self.state_dict() if state_dict is None else state_dict
        state = {("model." if bare else "") + n: t for n, t in own.items()}
        state = to_disk(state, self.config.model_type)
        if bare:
            state = {n.removeprefix("model."): t for n, t in state.items()}
        state = {n: t.detach().cpu().contiguous() for n, t in state.items() if not n.endswith("num_batches_tracked")}
        values.pop("torch_dtype", None)
        values |= {
            "architectures": [type(self).__name__],
            "dtype": str(next(t.dtype for t in state.values() if t.is_floating_point())).removeprefix("torch."),
            # with it transformers would feed normalised states to the next layer (docs/correctness.md, trap 2)
            "auxiliary_loss": False,
        }
        write_atomically(
            folder / "model.safetensors", lambda beside: save_file(state, beside, metadata={"format": "pt"})
        )
        write_json(folder / "config.json", values)
        write_card(folder, card)
        if limits:
            _warn_of_limits("; ".join(limits), str(folder))


_LIMITS_SAID: set[tuple[str, str]] = set()


def _warn_of_limits(limits: str, folder: str) -> None:
    """Once for each folder: a training run saves its best model often."""
    if (limits, folder) not in _LIMITS_SAID:
        _LIMITS_SAID.add((limits, folder))
        logger.warning("%s opens in this package only; transformers cannot express %s", folder, limits)


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _with_model_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the names of a bare model's checkpoint (dialect B or C) the `model.` they have in a detector's."""
    if any(n.startswith(("model.", "transformer.")) for n in weights):
        return weights
    return {f"model.{n}": t for n, t in weights.items()}


def _known_overrides(config_class: type[DetectionConfig], overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides that are fields of the configuration."""
    overrides = {name: value for name, value in overrides.items() if name not in WITHOUT_EFFECT_ON_LOADING}
    known = {spec.name for spec in fields(config_class)}.union(ONLY_IN_TRANSFORMERS)
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise TypeError(
            f"from_pretrained() got an unknown argument {unknown[0]!r}: not a field of {config_class.__name__}"
        )
    return overrides


def named_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """None for "auto", float32 for None."""
    if dtype == "auto":
        return None
    named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype or torch.float32
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type or 'auto', got {dtype!r}")
    return named


def _named_device(device_map: Any) -> torch.device:
    if isinstance(device_map, Mapping):
        raise ValueError("device_map must name one device: the model is small enough for one")
    if device_map == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return torch.device("cpu" if device_map is None else device_map)
