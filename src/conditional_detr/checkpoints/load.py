"""Weights of any dialect into a module; what does not fit is said by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config import DetectionConfig
from .checkpoint import Weights
from .groups import FIRST_GROUP, FURTHER_GROUPS, new_groups
from .names import MASK_PREFIXES, NameTable, Part, in_module, to_memory, without_detector_prefix

logger = logging.getLogger(__name__)

# What a caller who names other classes or another number of queries asks to be made anew.
RESIZABLE = ("class_labels_classifier.", "query_position_embeddings.")
# Arguments of transformers' `from_pretrained` that ask for what happens here anyway.
WITHOUT_EFFECT = ("attn_implementation", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors")
# Fields of transformers' configurations that mean nothing here, and are kept for it.
ONLY_IN_TRANSFORMERS = (
    "backbone_kwargs",
    "decoder_layerdrop",
    "encoder_layerdrop",
    "init_std",
    "init_xavier_std",
    "is_encoder_decoder",
    "label2id",
    "num_labels",
)


class Unfit(NamedTuple):
    """Names of a module's weights and of a checkpoint's that are not each other's."""

    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]  # of another shape
    unlike: list[str]  # numbers of another kind: integers for floats, or the reverse


def load_weights(
    module: nn.Module,
    weights: Weights,
    table: NameTable,
    part: Part,
    build: Callable[[], nn.Module],
    *,
    left_out: tuple[str, ...] = (),
    described: str = "",
    resize: bool = False,
    ignore_mismatched_sizes: bool = False,
) -> None:
    """Fill a module that was built on the meta device.

    A segmentation model's weights fill a detector without the mask head, and a detector's fill a segmentation model, whose
    mask head is then new; both are announced. Further groups of queries, which no checkpoint has, begin as noisy
    copies of its first.

    Args:
        table, part: how the module names its weights.
        build: makes the module with new weights, for what the checkpoint lacks.
        left_out: beginnings of names that a checkpoint may have and the module does without.
        described: the file of the configuration, for messages; "" for a caller's own.
        resize: make what depends on the number of classes or queries anew where its shape differs.
        ignore_mismatched_sizes: make anew whatever is of another shape.

    Raises:
        ValueError: the weights do not fit; they are named.
    """
    source, own = weights.source, module.state_dict()
    state = in_memory(weights.tensors, table, part)
    segments = part == "segmenter"
    if not segments and any(n.startswith(MASK_PREFIXES) for n in state):
        logger.info("%s: a segmentation model, of which the detector is taken and the mask head left out", source)
        state = {n: t for n, t in state.items() if not n.startswith(MASK_PREFIXES)}
    new_head = segments and not any(n.startswith(MASK_PREFIXES) for n in state)
    state = {n: t for n, t in state.items() if not n.startswith(left_out)}
    further = [n for n in own if n.endswith(FURTHER_GROUPS) and n not in state]
    unfit = _compare(own, state, (*further, *(MASK_PREFIXES if new_head else ())))
    new = [n for n in unfit.mismatched if ignore_mismatched_sizes or (resize and any(what in n for what in RESIZABLE))]
    if problems := _problems(own, state, unfit, new):
        whole = type(module).__name__ + (f" as {described} has it" if described not in ("", str(source)) else "")
        raise ValueError(f"{source} does not fit {whole}; weights {'; '.join(problems)}")
    kept = {n: t for n, t in state.items() if n in own and n not in new}
    if new or new_head or further or any(n.endswith("num_batches_tracked") for n in own):
        kept = {**build().state_dict(), **kept}
    for name in further:
        kept[name] = new_groups(kept[name.removesuffix(FURTHER_GROUPS) + FIRST_GROUP], kept[name])
    if new:
        logger.warning("%s: made anew, to be trained: %s", source, ", ".join(new))
    if new_head:
        logger.warning("%s is a detector: its mask head is new, to be trained", source)
    module.load_state_dict(kept, assign=True)
    if unsaved := [name for name, buffer in module.named_buffers() if buffer.is_meta]:
        computed = dict(
            build().named_buffers()
        )  # tables that some of timm's networks (Swin) compute when they are built
        for name in unsaved:
            owner, _, own_name = name.rpartition(".")
            setattr(module.get_submodule(owner), own_name, computed[name])


def in_memory(tensors: dict[str, Tensor], table: NameTable, part: Part) -> dict[str, Tensor]:
    """The weights of a checkpoint of any dialect and part, under the names that a module has for them."""
    return in_module(to_memory(_with_model_prefix(tensors, table), table), part, table)


def _with_model_prefix(tensors: dict[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Give the names of a bare model's checkpoint (dialect B or C) the `model.` they have in a detector's."""
    tensors = without_detector_prefix(tensors, table)
    if any(n.startswith(("model.", "transformer.")) for n in tensors):
        return tensors
    return {f"model.{n}": t for n, t in tensors.items()}


def _compare(own: dict[str, Tensor], state: dict[str, Tensor], may_lack: tuple[str, ...]) -> Unfit:
    """own: of the module. state: of the checkpoint. may_lack: beginnings of names that the checkpoint may lack."""
    return Unfit(
        [n for n in own if n not in state and not n.endswith("num_batches_tracked") and not n.startswith(may_lack)],
        [n for n in state if n not in own and not n.endswith("num_batches_tracked")],
        [n for n in own if n in state and own[n].shape != state[n].shape],
        [n for n in own if n in state and own[n].is_floating_point() != state[n].is_floating_point()],
    )


def _problems(own: dict[str, Tensor], state: dict[str, Tensor], unfit: Unfit, new: list[str]) -> list[str]:
    """What keeps weights from fitting, a phrase a kind, with the first names; `new` are made anew, and none."""
    resized = [n for n in unfit.mismatched if n not in new]
    kinds = (
        ("missing", unfit.missing),
        ("unexpected", unfit.unexpected),
        (
            "of another size",
            [f"{n} is {tuple(state[n].shape)}, the model needs {tuple(own[n].shape)}" for n in resized],
        ),
        ("of another type", [f"{n} is {state[n].dtype}" for n in unfit.unlike]),
    )
    return [
        f"{len(names)} {what}: {', '.join(_printable(n) for n in names[:5])}{', …' if len(names) > 5 else ''}"
        for what, names in kinds
        if names
    ]


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def known_overrides(config_class: type[DetectionConfig], overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides of `from_pretrained` that are fields of the configuration.

    Raises:
        TypeError: one that no configuration has.
    """
    overrides = {name: value for name, value in overrides.items() if name not in WITHOUT_EFFECT}
    known = {spec.name for spec in fields(config_class)}.union(ONLY_IN_TRANSFORMERS)
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise TypeError(
            f"from_pretrained() got an unknown argument {unknown[0]!r}: not a field of {config_class.__name__}"
        )
    return overrides


def resizes(overrides: dict[str, Any]) -> bool:
    """Whether overrides name other classes or another number of queries; see `load_weights`."""
    return not {"num_labels", "id2label", "num_queries"}.isdisjoint(overrides)


def named_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """None for "auto", float32 for None."""
    if dtype == "auto":
        return None
    named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype or torch.float32
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type or 'auto', got {dtype!r}")
    return named


def named_device(device_map: Any) -> torch.device:
    """The device that `device_map` names: "auto" is the best there is, None the CPU, `{"": device}` that one."""
    if isinstance(device_map, Mapping) and list(device_map) == [""]:
        device_map = device_map[""]
    if isinstance(device_map, Mapping):
        raise ValueError("device_map must name one device: the model is small enough for one")
    if device_map == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return torch.device("cpu" if device_map is None else device_map)


def in_dtype(weights: Weights, dtype: torch.dtype | None) -> tuple[Weights, torch.dtype]:
    """The weights in a type, for None in their own; and the type."""
    if dtype is None:
        own = (value.dtype for value in weights.tensors.values() if value.is_floating_point())
        dtype = next(own, torch.float32)
    tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in weights.tensors.items()}
    return weights._replace(tensors=tensors), dtype
