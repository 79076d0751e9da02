"""The side of a model that is transformers': loading, saving and all that `PreTrainedModel` brings.

Files are found, read in part, sharded and written by transformers. Only the names of weights are this package's business:
`_load_pretrained_model`, `load_state_dict` and `save_pretrained` translate them by the table of `checkpoints.names`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import Self

from ..checkpoints.card import model_card, write_card
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.groups import (
    FIRST_GROUP,
    FURTHER_GROUPS,
    first_group,
    new_groups,
    of_first_group,
    without_further_groups,
)
from ..checkpoints.load import in_memory
from ..checkpoints.names import NameTable, Part
from ..checkpoints.save import on_disk, warn_of_limits
from ..checkpoints.weights import read_weights
from ..config import DetectionConfig, logger
from ..models.backbone import Backbone
from ..models.pretrained import not_in_transformers
from .configuration import OwnFields


class TransformersModel(PreTrainedModel):
    """What `PreTrainedModel` is to know of these models. Stands behind the network in a model's bases.

    Attributes:
        output_class: what `forward` returns.
    """

    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # Trainer then divides the loss by the micro-batches itself
    _supports_sdpa = True
    _no_split_modules: Any = []  # the model is small enough for one device
    _keys_to_ignore_on_load_unexpected = [r"num_batches_tracked$"]
    _keys_to_ignore_on_load_missing = [r"num_batches_tracked$"]

    output_class: ClassVar[type[Any]]
    config_class: ClassVar[Any]
    weight_names: ClassVar[NameTable]
    part: ClassVar[Part]

    def __init__(self, config: Any) -> None:
        super().__init__(self.config_class.of(config))

    @property
    def fields(self) -> DetectionConfig:
        """See `PretrainedModel.fields`."""
        own: OwnFields = self.config
        return own.fields()

    def post_init(self) -> None:
        """As transformers has it; a network's weights begin as its constructor makes them."""
        if "_network_weights" not in self.__dict__:
            named = {**dict(self.named_parameters()), **dict(self.named_buffers())}
            self._network_weights = frozenset(named)
            for tensor in named.values():
                if not tensor.is_meta:
                    tensor._is_hf_initialized = True  # type: ignore[attr-defined]
        super().post_init()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Give weights that a checkpoint lacks what a new network has; those of a subclass are transformers' business."""
        named = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        lacking = {
            name: tensor
            for name, tensor in named.items()
            if name in self._network_weights and not getattr(tensor, "_is_hf_initialized", False) and not tensor.is_meta
        }
        if lacking:
            network = next(base for base in type(self).__mro__ if base.__module__.startswith(__package__ or ""))
            new = network(self.config).state_dict()
            for name, tensor in lacking.items():
                if name in new and new[name].shape == tensor.shape:
                    tensor.copy_(new[name])
                    tensor._is_hf_initialized = True  # type: ignore[attr-defined]
            further = next((name for name in lacking if name.endswith(FURTHER_GROUPS)), None)
            if further and (first := further.replace(FURTHER_GROUPS, FIRST_GROUP)) not in lacking:
                lacking[further].copy_(new_groups(named[first], lacking[further]))
        super().initialize_weights()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *arguments: Any, config: Any = None, **options: Any
    ) -> Any:
        """As transformers has it, and a file of weights, such as an original `.pth`, may stand for the folder.

        Raises:
            OSError: no such folder, file or hub name, or no network.
            ValueError: the configuration is of another model; or what is in the files cannot be read.
            RuntimeError: weights are of another size, and `ignore_mismatched_sizes` is not set; they are named.
        """
        name = pretrained_model_name_or_path
        if isinstance(config, DetectionConfig):
            config = cls.config_class.of(config)
        if name is None or not Path(name).is_file():
            return super().from_pretrained(name, *arguments, config=config, **options)
        if config is None:
            config, options = cls.config_class.from_pretrained(name, return_unused_kwargs=True, **options)
        options["state_dict"] = first_group(Checkpoint(name), config.num_queries).tensors
        return super().from_pretrained(None, *arguments, config=config, **options)

    @classmethod
    def _load_pretrained_model(
        cls,
        model: Self,
        state_dict: dict[str, Any] | None,
        checkpoint_files: list[str] | None,
        *rest: Any,
        **options: Any,
    ) -> Any:
        if state_dict is None and checkpoint_files is not None:
            state_dict = {
                name: tensor for file in checkpoint_files for name, tensor in read_weights(Path(file)).items()
            }
        if state_dict is not None:
            own: Any = model.config
            said = {"group_detr": getattr(own, "group_detr", 1)}
            state_dict = of_first_group(state_dict, own.name_or_path, lambda: said, own.num_queries)
            state_dict, checkpoint_files = model._in_memory(state_dict), None
        return super()._load_pretrained_model(model, state_dict, checkpoint_files, *rest, **options)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load weights in the names of any dialect."""
        state = self._in_memory(dict(state_dict))
        if any(name.endswith(FURTHER_GROUPS) and name not in state for name in self.state_dict()):
            logger.warning("the weights have no further groups of queries, which stay what they are in this model")
        return super().load_state_dict(state, strict=strict, assign=assign)

    def _in_memory(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights under the names that they have here; those that this model knows as they are stay."""
        own = self.state_dict().keys()
        foreign = {name: tensor for name, tensor in state.items() if name not in own}
        if not foreign:
            return state
        known = {name: tensor for name, tensor in state.items() if name in own}
        return {**in_memory(foreign, self.weight_names, self.part), **known}

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        save_original_format: bool = True,
        dataset: str | None = None,
        metrics: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        """As transformers has it, and a model card. What only training has, auxiliary losses and further groups of queries,
        is left out.

        Args:
            dataset, metrics: for the card, see `conditional_detr.models.pretrained.PretrainedModel.save_pretrained`.
        """
        own: Any = self.config
        adapter_alone = getattr(self, "_hf_peft_config_loaded", False)
        if save_original_format and not adapter_alone:
            state_dict = without_further_groups(self.state_dict() if state_dict is None else state_dict)
            state_dict = on_disk(state_dict, self.weight_names, self.part, own.backbone == "resnet")
        training = own.auxiliary_loss, own.query_groups
        own.auxiliary_loss, own.query_groups = False, 1  # with the first transformers would predict otherwise
        try:
            super().save_pretrained(save_directory, is_main_process, state_dict, save_original_format=False, **options)
        finally:
            own.auxiliary_loss, own.query_groups = training
        if is_main_process and not adapter_alone and Path(save_directory).is_dir():
            self._write_card(Path(save_directory), dataset, metrics)

    def _write_card(self, folder: Path, dataset: str | None, metrics: Mapping[str, float] | None) -> None:
        """Write the model card, and say what transformers' classes cannot express of this model."""
        config = self.fields
        (backbone,) = (part for part in self.modules() if isinstance(part, Backbone))
        limits = not_in_transformers(backbone, config.to_dict())
        card = model_card(
            config, masks=self.part == "segmenter", dataset=dataset, metrics=metrics, transformers_reads_it=not limits
        )
        write_card(folder, card)
        if limits:
            warn_of_limits("; ".join(limits), str(folder))
