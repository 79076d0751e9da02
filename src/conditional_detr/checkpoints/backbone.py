"""The weights of a ResNet alone, from a file: pretrained backbones without a network.

torchvision and timm name a ResNet's weights alike. What training scripts put before the names is taken off, and what a
classifier or a whole detector has besides is left in the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..messages import listed_briefly, shown
from .original import RESNETS
from .weights import read_weights

# What stands before a backbone's names in files of training scripts, of whole detectors, and of DETR's original.
PREFIXES = ("module.", "model.", "backbone.", "features.", "encoder.", "body.", "0.")
PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def load_backbone(network: nn.Module, path: Path, described: str) -> str:
    """Fill a plain ResNet, which may end before its last stage, with the weights of a file.

    Args:
        network: with `conv1`, `bn1` and `layer1`, …; its norms may be of any kind. Changed in place.
        path: a `.safetensors`, `.pth`, `.pt` or `.bin` file; nothing in it is executed.
        described: the network's name, for messages.

    Returns:
        What was loaded and what was not used, a line.

    Raises:
        OSError: there is no such file.
        ValueError: the file is damaged, of another network, or ends too early; nothing was changed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; backbone_weights is a .pth or .safetensors file of {described}"
        )
    tensors = _without_prefixes(path, read_weights(path))
    own = network.state_dict()
    _check(own, tensors, path, described)
    with torch.no_grad():
        for name, value in own.items():
            if name in tensors:
                value.copy_(tensors[name])
    loaded = [name for name in own if name in tensors]
    unused = [name for name in tensors if name not in own and not name.endswith("num_batches_tracked")]
    stages = _parts(own)
    return f"backbone: {len(loaded)} weights of {path} in {described}, {stages[0]} to {stages[-1]}" + (
        f"; not used: {listed_briefly(_parts_of_use(unused, own))}" if unused else ""
    )


def _without_prefixes(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name
        while prefix := next((p for p in PREFIXES if short.startswith(p)), ""):
            short = short.removeprefix(prefix)
        if short in plain and short.split(".")[0] in PARTS:
            raise ValueError(
                f"{path} holds {shown(short)} twice, once as {shown(name)}: several networks are in it; save the backbone alone"
            )
        plain[short] = tensor
    return plain


def _check(own: dict[str, Tensor], tensors: dict[str, Tensor], path: Path, described: str) -> None:
    """Raises ValueError unless all that the network needs is in the file, and is the same network's."""
    found = _parts(tensors)
    if "conv1" not in found or "layer1" not in found:
        raise ValueError(
            f"{path} is no ResNet as torchvision and timm name it: it has {listed_briefly([shown(n) for n in tensors], 3)}, "
            "and no conv1 and layer1; save the state_dict of one"
        )
    of_file = _name_of(tensors)
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    missing = [name for name in needed if name not in tensors]
    parts = [part for part in _parts(own) if part in found]
    more = [
        name for name in tensors if name.split(".")[0] in parts and name not in own and not (name.endswith(STATISTICS))
    ]
    unlike = [
        f"{name} is {tuple(tensors[name].shape)}, the model needs {tuple(own[name].shape)}"
        for name in needed
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    absent = [part for part in _parts(own) if part not in found]
    if more or any(name.split(".")[0] in parts and not name.endswith(STATISTICS) for name in missing):
        what = f"holds {shown(more[0])}" if more else f"lacks {missing[0]}"
        advice = f"set model.backbone {of_file}" if of_file else "set model.backbone to the network it is of"
        raise ValueError(f"{path} is not of {described}: it {what}; {advice}, or give a file of {described}")
    if unlike:
        raise ValueError(
            f"{path} does not fit {described}: {listed_briefly(unlike, 1)}; set model.backbone to the network it is of, "
            f"or give a file of {described}"
        )
    if absent:
        last = found[-1]
        stride = 2 ** (int(last.removeprefix("layer")) + 1)
        raise ValueError(
            f"{path} ends with {last} (stride {stride}), and the model needs {' and '.join(absent)}: set model.output_stride "
            f"{stride} without dilation, or give a whole file of {described}"
        )
    if missing:
        raise ValueError(
            f"{path} has no running statistics ({missing[0]}), which backbone_norm frozen and batch need: "
            "set model.backbone_norm group, or give a file of a network with batch norm"
        )
    for name in needed:
        if not tensors[name].is_floating_point() or not bool(tensors[name].isfinite().all()):
            raise ValueError(f"{path} is damaged: {name} holds what is no number; download or save it again")


def _parts(names: Iterable[str]) -> list[str]:
    """The parts of a ResNet that names are of, in the network's order: conv1, bn1, layer1, …"""
    found = {name.split(".")[0] for name in names}
    return [part for part in PARTS if part in found]


def _parts_of_use(unused: list[str], own: dict[str, Tensor]) -> list[str]:
    """Names to say of what was not used: of stages and heads their own, of the rest the kinds of statistics."""
    parts = set(_parts(own))
    return list(
        dict.fromkeys(
            f"all {name.rpartition('.')[2]}" if name.split(".")[0] in parts else name.split(".")[0] for name in unused
        )
    )


def _name_of(tensors: dict[str, Tensor]) -> str | None:
    """The ResNet whose blocks these are, as far as they go; None where no one ResNet has them."""
    names = [part for part in _parts(tensors) if part.startswith("layer")]
    counts = tuple(len({n.split(".")[1] for n in tensors if n.startswith(f"{part}.")}) for part in names)
    bottleneck = "layer1.0.conv3.weight" in tensors
    fits = [
        name for (*blocks, bottle), name in RESNETS.items() if (*blocks[: len(counts)], bottle) == (*counts, bottleneck)
    ]
    return fits[0] if len(fits) == 1 else None
