"""`from_pretrained` and `save_pretrained` of the models; what they call is in `checkpoints`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..checkpoints.card import model_card
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.groups import first_group
from ..checkpoints.hub import upload_folder
from ..checkpoints.load import in_dtype, known_overrides, load_weights, named_device, named_dtype, resizes
from ..checkpoints.names import NameTable, Part
from ..checkpoints.save import WITHOUT_EFFECT, save_model
from ..config import WHOLE_NUMBERS, DetectionConfig
from .backbone import Backbone
from .recompute import Recomputing

LAST_STAGE = 4  # timm's index of a ResNet's last stage, where transformers ends unless told otherwise


def not_in_transformers(backbone: Backbone, values: Mapping[str, Any]) -> list[str]:
    """What transformers' classes cannot express of a model, each in a few words. values: of its configuration."""
    limit = backbone.not_in_transformers()
    return [
        *([limit] if limit else []),
        *(
            f"{name} {values[name]} (it takes whole numbers)"
            for name in WHOLE_NUMBERS
            if name in values and not isinstance(values[name], int)
        ),
    ]


class PretrainedModel(nn.Module):
    """A module that is built from a configuration, `cls(config)`, and can be loaded and saved.

    Attributes:
        config_class: of the family.
        weight_names: the family's names of weights, in every dialect.
        part: what of the family's models this one is.
    """

    config_class: ClassVar[type[DetectionConfig]]
    weight_names: ClassVar[NameTable]
    part: ClassVar[Part]

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.config = self._own_config(config)

    @classmethod
    def _own_config(cls, config: Any) -> DetectionConfig:
        """A configuration as it is, or the one of the same values for transformers' of the same family."""
        if isinstance(config, cls.config_class):
            return config
        if getattr(config, "model_type", None) == cls.config_class.model_type and hasattr(config, "to_dict"):
            return cls.config_class.from_dict(config.to_dict())
        raise ValueError(f"{cls.__name__} is built from a {cls.config_class.__name__}, got a {type(config).__name__}")

    @property
    def fields(self) -> DetectionConfig:
        """What says what is built: here the configuration itself, in transformers' models what stands for theirs."""
        return self.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def gradient_checkpointing_enable(self) -> None:
        """Trade time for memory in training: keep only the inputs of blocks and layers, recompute the rest."""
        self._recompute(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep all again."""
        self._recompute(False)

    def num_parameters(self, only_trainable: bool = False) -> int:
        """How many weights there are."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def _recompute(self, value: bool) -> None:
        for part in self.modules():
            if isinstance(part, Recomputing):
                part.gradient_checkpointing = value

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | Checkpoint,
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
        subfolder: str = "",
        **overrides: Any,
    ) -> Self:
        """Load a model, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder with `config.json` and weights; an original `.pth` file; or a name on
                the Hugging Face hub; or a `Checkpoint`, which was found already.
            config: replaces the checkpoint's configuration.
            dtype: of the weights, a type or its name; "auto" for the file's own, None for float32.
            torch_dtype: older name of `dtype`.
            device_map: the device to load to; "auto" for the best there is.
            ignore_mismatched_sizes: build weights whose shape differs anew instead of refusing.
            revision, cache_dir, token, local_files_only, force_download: as `huggingface_hub` takes them.
            subfolder: of the folder or repository, where the files are.
            overrides: replace values of the configuration. `num_labels=` or `id2label=` with other classes than the
                checkpoint's swap the classifier, `num_queries=` the object queries; both are announced. Of a file that
                says nothing of itself, `num_queries=` that divides its object queries says that they are groups, and
                keeps the first. `query_groups=` adds groups for training beside it.

        Raises:
            OSError: no such folder, file or hub name, or no network.
            TypeError: an override that no configuration has.
            ValueError: the files are damaged, are of another model type, or do not fit the model; weights are named.
        """
        dtype, device = named_dtype(dtype or torch_dtype), named_device(device_map)
        overrides = known_overrides(cls.config_class, overrides)
        checkpoint = Checkpoint.find(
            pretrained_model_name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
            subfolder=subfolder,
        )
        described = ""
        if config is not None:
            config = cls._own_config(config)
        else:
            config = checkpoint.config(cls.config_class, overrides)
            described = checkpoint.config_name
        weights, dtype = in_dtype(first_group(checkpoint, config.num_queries), dtype)
        model = cls._without_weights(config, described)
        load_weights(
            model,
            weights,
            cls.weight_names,
            cls.part,
            lambda: cls(config),
            left_out=model._left_out(),
            described=described,
            resize=resizes(overrides),
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        return model.eval().to(device, dtype)

    @classmethod
    def _without_weights(cls, config: DetectionConfig, described: str) -> Self:
        """Build without memory or initialisation: the weights are about to come from the checkpoint."""
        config.use_pretrained_backbone = False
        try:
            with torch.device("meta"):
                return cls(config)
        except ValueError as error:
            raise ValueError(f"{described}: {error}" if described else str(error)) from None

    def _left_out(self) -> tuple[str, ...]:
        """Beginnings of the names of weights that older files hold, of parts of timm's network that are not here."""
        backbones = ((at, part) for at, part in self.named_modules() if isinstance(part, Backbone))
        return tuple(f"{at}.model.{name}." for at, part in backbones for name in part.left_out)

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
        unknown = [name for name in without_effect if name not in WITHOUT_EFFECT]
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
        """`config.json` as transformers is to read it, and what it cannot express, each in a few words.

        A backbone that ends before a fifth stage is said by `backbone_config`, which transformers 5 reads and
        transformers 4 does not; any other by `backbone`, which both read.
        """
        values, config = self.config.to_dict(), self.config
        values.pop("query_groups", None)  # saved models have the first group alone
        if config.backbone_config is not None:
            values.pop("backbone")
        (backbone,) = (part for part in self.modules() if isinstance(part, Backbone))
        limits = not_in_transformers(backbone, values)
        if config.backbone_config is not None:
            values["backbone_config"] = {**config.backbone_config, "out_features": [f"stage{backbone.stage}"]}
            values["backbone_config"]["out_indices"] = [backbone.stage]
        elif backbone.stage != LAST_STAGE:
            for name in ("backbone", "use_timm_backbone", "use_pretrained_backbone"):
                values.pop(name, None)
            values["backbone_config"] = {
                "model_type": "timm_backbone",
                "backbone": config.backbone,
                "num_channels": config.num_channels,
                "features_only": True,
                "use_pretrained_backbone": False,
                "out_indices": [backbone.stage],
                **({"output_stride": 16} if config.dilation else {}),
            }
        return values, limits

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
            masks=self.part == "segmenter",
            name=card_name,
            dataset=dataset,
            metrics=metrics,
            transformers_reads_it=not limits,
        )
        save_model(
            folder,
            self.state_dict() if state_dict is None else state_dict,
            self.weight_names,
            self.part,
            values | {"architectures": [type(self).__name__]},
            card,
            limits,
            resnet=self.config.backbone_config is not None,
        )
