"""A module's weights and configuration into a folder, in the names that transformers 4 and 5 read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..files import write_atomically, write_json
from .card import write_card
from .groups import without_further_groups
from .names import NameTable, Part, to_disk

logger = logging.getLogger(__name__)

# Arguments of transformers' `save_pretrained` that ask for what happens here anyway.
WITHOUT_EFFECT = ("max_shard_size", "safe_serialization", "save_function")


def save_model(
    folder: Path,
    state: dict[str, Tensor],
    table: NameTable,
    part: Part,
    values: dict[str, Any],
    card: str,
    limits: list[str],
    resnet: bool = False,
) -> None:
    """Write `model.safetensors`, `config.json` and README.md, each whole or not at all.

    Args:
        state: of the module, further groups of queries left out; `table` and `part` say how it names its weights.
        values: of the configuration.
        limits: what of the model transformers' configuration cannot express; logged as a warning.
        resnet: see `names.to_disk`.

    Raises:
        OSError: the folder cannot be written; files already there stay whole.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in on_disk(without_further_groups(state), table, part, resnet).items()
        if not name.endswith("num_batches_tracked")
    }
    values = {name: value for name, value in values.items() if name != "torch_dtype"} | {
        "dtype": str(next(t.dtype for t in tensors.values() if t.is_floating_point())).removeprefix("torch."),
        # with it transformers would feed normalised states to the next layer (docs/correctness.md, trap 2)
        "auxiliary_loss": False,
    }
    write_atomically(folder / "model.safetensors", lambda beside: save_file(tensors, beside, metadata={"format": "pt"}))
    write_json(folder / "config.json", values)
    write_card(folder, card)
    if limits:
        warn_of_limits("; ".join(limits), str(folder))


def on_disk(state: dict[str, Tensor], table: NameTable, part: Part, resnet: bool = False) -> dict[str, Tensor]:
    """The weights under the names that files have for them."""
    if part != "model":
        return to_disk(state, table, resnet)
    renamed = to_disk({f"model.{name}": tensor for name, tensor in state.items()}, table, resnet)
    return {name.removeprefix("model."): tensor for name, tensor in renamed.items()}


_LIMITS_SAID: set[tuple[str, str]] = set()


def warn_of_limits(limits: str, folder: str) -> None:
    """Say what transformers cannot express of a saved model, once for each folder: a training run saves its best model often."""
    if (limits, folder) not in _LIMITS_SAID:
        _LIMITS_SAID.add((limits, folder))
        logger.warning("%s opens in this package only; transformers cannot express %s", folder, limits)
