"""Backbones: timm's networks, walked so that padding never reaches an image (docs/correctness.md, trap 1).

In every known implementation the padded area, zero at first, becomes non-zero after the first norm, and each 3×3
convolution and pooling carries it into the image. Here plain ResNets are walked block by block with the mask as an
argument, and padded cells are zeroed before each operation that looks at neighbours. At stride s the real cells are
`pixel_mask[:, ::s, ::s]`: exactly ceil(size / s) of them, whatever the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, freeze_batch_norm_2d
from timm.models import FeatureDictNet
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ..checkpoints.hub import local_path
from ..config import DetectionConfig
from ..messages import shown
from ..precision import at_least_float32
from .onednn import OneDnnConv2d, computes_with_onednn
from .recompute import Recomputing
from .resnet import resnet_of_sizes

# timm's bare names mean newer weights; the papers used torchvision's first ones.
PAPER_WEIGHTS = {name: f"{name}.tv_in1k" for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")}
GROUP_NORM_GROUPS = 32
TRANSFORMERS_EPS = 1e-5  # of every frozen norm there, whatever timm's network says


class Backbone(Recomputing):
    """A timm network that ends at `config.output_stride` (or DC5), with the norms that `config` names.

    For plain ResNets (including ResNeXt and wide ResNets) a padded image gives the features it gives alone, in
    evaluation with any norm and in training with frozen or group norm. Other networks see one size at a time in
    evaluation, which has the same effect at the price of smaller batches; in training they see the padded batch.

    Attributes:
        channels: channels of what each stage gives, last one last; of other networks than plain ResNets, the last alone.
        stride: pixels per cell of the last output.
        stage: timm's index of the stage that the last output comes from.
        left_out: names of timm's modules that the last output does not need, and that are not here.

    Raises:
        ValueError: no such timm network, or none of its stages has the stride.
        OSError: ImageNet weights are asked for and can be neither found nor downloaded.
    """

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.norm = config.backbone_norm
        # timm's modules are indexed and iterated in ways their types do not say
        self.model: Any
        self.model, self.left_out = _create(config)
        self.register_load_state_dict_pre_hook(_pass_over_left_out)
        self.stride: int = self.model.feature_info.reduction()[-1]
        self.is_plain_resnet = _is_plain_resnet(self.model)
        self.channels: list[int] = self.model.feature_info.channels()
        if self.is_plain_resnet:
            self.channels = [_block_channels(stage[-1]) for stage in _stages(self.model)]
        self.stage: int = self.model.feature_info.out_indices[-1]
        if config.backbone_norm == "frozen":
            self.model = freeze_batch_norm_2d(self.model)
            if self.is_plain_resnet:
                for name in ("conv1", "layer1"):
                    self.model[name].requires_grad_(False)
        elif config.backbone_norm == "group":
            if not self.is_plain_resnet:
                raise ValueError(f"backbone_norm 'group' is for ResNets, not {config.backbone}: use 'batch'")
            _replace_batch_by_group_norm(self.model)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None, all_stages: bool = False) -> list[Tensor]:
        """Compute the features.

        Args:
            pixel_values: (B, 3, H, W), normalised.
            pixel_mask: (B, H, W) bool, True where a pixel belongs to the image; None if all do.
            all_stages: what every stage gives, for plain ResNets; else the last one's alone, and no memory for others.

        Returns:
            (B, C, h, w) of each stage asked for, the last one last. Padded cells hold values without meaning.
        """
        if self.is_plain_resnet:
            return self._walk(pixel_values, pixel_mask, all_stages)
        if pixel_mask is None or self.training:
            return [self._channels_first(self.model(pixel_values)[-1])]
        return [self._one_size_at_a_time(pixel_values, pixel_mask)]

    def fold_norms(self) -> None:
        """Put every frozen or batch norm of a plain ResNet into the convolution before it, for good: for prediction only.

        In evaluation a norm is an affine map of each channel, so the features stay the same, to rounding.
        """
        if not self.is_plain_resnet or self.norm == "group":
            return
        norms = set()
        for conv, norm in _convolutions(self.model):
            scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
            shift = norm.bias.double() - norm.running_mean.double() * scale
            if conv.bias is not None:
                shift += conv.bias.double() * scale
            weight = conv.weight.double() * scale[:, None, None, None]
            conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
            conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
            norms.add(norm)
        for parent in list(self.model.modules()):
            for name, child in parent.named_children():
                if child in norms:
                    setattr(parent, name, nn.Identity())

    def not_in_transformers(self) -> str | None:
        """What transformers' copy of this network would compute otherwise, in a few words; None if nothing.

        transformers replaces every batch norm by a frozen one, which in evaluation is the same, and takes the network
        for the rest as timm builds it.
        """
        if self.norm == "group":
            return "backbone_norm 'group'"
        parts = list(self.modules())
        if any(isinstance(part, BatchNormAct2d | FrozenBatchNormAct2d) for part in parts):
            return "a backbone whose norms hold its activations (it drops them)"
        if any(isinstance(part, nn.BatchNorm2d | FrozenBatchNorm2d) and part.eps != TRANSFORMERS_EPS for part in parts):
            return f"a backbone whose norms have another epsilon than {TRANSFORMERS_EPS}"
        if getattr(self.model, "output_fmt", None) == "NHWC":
            return "a backbone whose feature maps have their channels last"
        return None

    def _walk(self, x: Tensor, pixel_mask: Tensor | None, all_stages: bool) -> list[Tensor]:
        net = self.model
        mask = None if pixel_mask is None else pixel_mask[:, None].to(x.dtype)  # (B, 1, H, W)
        for conv, norm in _stem(net):
            x = _conv_norm_relu(conv, norm, x, mask)
            mask = _like(_strided(mask, conv.stride[0]), x)
        x = F.max_pool2d(x if mask is None else x * mask, 3, 2, 1)  # after ReLU, zeros never win over real cells
        mask = _strided(mask, 2)
        outputs: list[Tensor] = []
        for stage in _stages(net):
            for block in stage:
                x = self.kept_or_recomputed(block_forward)(block, x, mask)
                mask = _like(_strided(mask, _block_stride(block)), x)
            outputs = [*outputs, x] if all_stages else [x]
        return outputs

    def _one_size_at_a_time(self, pixel_values: Tensor, pixel_mask: Tensor) -> Tensor:
        heights, widths = pixel_mask.any(2).sum(1).tolist(), pixel_mask.any(1).sum(1).tolist()
        canvas = pixel_values.shape[-2:]
        out = None
        for size in sorted(set(zip(heights, widths, strict=True))):
            chosen = [i for i, own in enumerate(zip(heights, widths, strict=True)) if own == size]
            features = self._channels_first(self.model(pixel_values[chosen, :, : size[0], : size[1]])[-1])
            if out is None:
                cells = [-(-side // self.stride) for side in canvas]
                out = features.new_zeros(len(pixel_values), features.shape[1], *cells)
            out[chosen, :, : features.shape[2], : features.shape[3]] = features
        assert out is not None
        return out

    def _channels_first(self, features: Tensor) -> Tensor:
        if features.shape[1] != self.channels[-1]:  # windowed transformers give (B, h, w, C)
            features = features.permute(0, 3, 1, 2)
        return features


def _create(config: DetectionConfig) -> tuple[Any, list[str]]:
    """timm's network without what its last output does not need, and the names of the modules that are left out."""
    if config.backbone_config is not None:
        return resnet_of_sizes(config.backbone_config, config.output_stride), []
    name = PAPER_WEIGHTS.get(config.backbone, config.backbone)
    try:
        with torch.device("meta"):
            probe: Any = timm.create_model(name, features_only=True)
            strides = probe.feature_info.reduction()
    except Exception as error:  # timm's networks raise errors of many types
        reason = shown(str(error))[1:-1]
        raise ValueError(f"backbone {config.backbone!r} is not a timm network with features_only: {reason}") from None
    if config.output_stride not in strides:
        raise ValueError(f"backbone {config.backbone!r} has stages of stride {strides}, none of {config.output_stride}")
    options: dict[str, Any] = {"output_stride": 16} if config.dilation else {}
    if config.num_channels != 3:
        options["in_chans"] = config.num_channels
    build = partial(
        timm.create_model, name, features_only=True, out_indices=(strides.index(config.output_stride),), **options
    )
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
            skeleton = build()
    except Exception as error:
        reason = shown(str(error))[1:-1]
        raise ValueError(f"backbone {config.backbone!r} cannot be built with {options}: {reason}") from None
    with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
        left_out, unused = _without_use(skeleton, config.num_channels)
    net = _weighted(config, name, build)
    for module in left_out:
        net.set_submodule(module, _LeftOut())
    for parameter in unused:
        net.get_parameter(parameter).requires_grad_(False)
    return net, left_out


def _weighted(config: DetectionConfig, name: str, build: Any) -> Any:
    """timm's network with the weights that the configuration asks for."""
    if not config.use_pretrained_backbone:
        return build()
    source = timm.get_pretrained_cfg(name)
    try:
        if source is None or not source.hf_hub_id:
            return build(pretrained=True)
        weights = local_path(source.hf_hub_id, "model.safetensors")
        return build(pretrained=True, pretrained_cfg_overlay={"file": str(weights)})
    except (OSError, RuntimeError, ValueError) as error:  # no network and no cached file, or one that does not fit
        raise OSError(
            f"ImageNet weights of {name!r} are not on this machine and could not be downloaded "
            f"({type(error).__name__}). Connect once so that they are cached, start from a local checkpoint "
            "(--init_from FOLDER) or a file of them (--backbone_weights FILE), or train from scratch "
            "(--config scratch_small, or --model.use_pretrained_backbone false --model.backbone_norm batch)"
        ) from error


class _LeftOut(nn.Module):
    """Stands where a module stood whose output no feature needs: gives a map of the input's shape, without values."""

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        return torch.empty_like(x)  # not x, which may be a feature: what comes behind may work in place


def _without_use(net: Any, channels: int) -> tuple[list[str], list[str]]:
    """What of a network its last feature does not depend on: modules to leave out, and parameters of what must stay.

    timm's `FeatureDictNet` and `FeatureListNet` end at the last feature, its other wrappers (EfficientNet's,
    MobileNet's, HRNet's, those with hooks) hold and compute the rest of the network, too. A parameter that never gets a
    gradient stops training on several devices.

    Args:
        net: on the meta device; its modules are replaced.
    """
    left_out: list[str] = []
    unused: list[str] = []
    if isinstance(net, FeatureDictNet):
        return left_out, unused
    with suppress(Exception):  # some networks compute with values, which there are none of on the meta device
        unused = _unused_parameters(net, channels)
    if unused:
        modules = _unused_modules(net, "", set(unused))
        for name in modules:
            net.set_submodule(name, _LeftOut())
        with suppress(Exception):  # the rest of some networks does not run without them: then they stay, frozen
            left_out, unused = modules, _unused_parameters(net, channels)
    return left_out, unused


def _unused_parameters(net: Any, channels: int) -> list[str]:
    feature = net.eval()(torch.empty(1, channels, *net.pretrained_cfg["input_size"][1:]))[-1]
    names, parameters = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(feature.sum(), parameters, allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]


def _unused_modules(module: nn.Module, prefix: str, unused: set[str]) -> list[str]:
    """The largest modules all of whose parameters are among `unused`; none that a hook takes a feature from."""
    found = []
    for name, child in module.named_children():
        own = [f"{prefix}{name}.{parameter}" for parameter, _ in child.named_parameters()]
        hooked = any(part._forward_hooks or part._forward_pre_hooks for part in child.modules())
        if own and unused.issuperset(own) and not hooked:
            found.append(f"{prefix}{name}")
        elif not unused.isdisjoint(own):
            found += _unused_modules(child, f"{prefix}{name}.", unused)
    return found


def _pass_over_left_out(backbone: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Weights that were saved with all of timm's network fit: those of the modules left out are passed over."""
    assert isinstance(backbone, Backbone)
    left_out = tuple(f"{prefix}model.{module}." for module in backbone.left_out)
    for name in [name for name in state if name.startswith(left_out)]:
        del state[name]


def _is_plain_resnet(net: nn.Module) -> bool:
    """Whether `net` is a stem of one or more convolutions, maxpool and basic or bottleneck blocks, with nothing unusual
    inside: ResNet, its variants with deep stem or average-pooled shortcuts (resnet50d, resnet10t), ResNeXt, wide."""
    parts: dict[str, Any] = dict(net.named_children())
    if "layer1" not in parts or not isinstance(parts.get("conv1"), nn.Conv2d | nn.Sequential):
        return False
    blocks: list[Any] = [block for name, stage in parts.items() if name.startswith("layer") for block in stage]
    return (
        {type(part) for part in parts["conv1"].modules()} <= {nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU}
        and isinstance(parts.get("maxpool"), nn.MaxPool2d)
        and isinstance(parts.get("act1"), nn.ReLU)
        and all(
            type(block) in (BasicBlock, Bottleneck)
            and getattr(block, "se", None) is None
            and getattr(block, "drop_path", None) is None
            and isinstance(block.aa, nn.Identity | None)
            and (block.downsample is None or type(block.downsample[0]) in (nn.Conv2d, nn.Identity, nn.AvgPool2d))
            for block in blocks
        )
    )


def _replace_batch_by_group_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = nn.GroupNorm(math.gcd(GROUP_NORM_GROUPS, child.num_features), child.num_features)
            with torch.no_grad():
                norm.weight.copy_(child.weight)
                norm.bias.copy_(child.bias)
            setattr(module, name, norm)
        else:
            _replace_batch_by_group_norm(child)


def _stem(net: Any) -> list[tuple[nn.Conv2d, nn.Module]]:
    """The stem's convolutions, each with its norm; all are followed by a ReLU."""
    if isinstance(net["conv1"], nn.Conv2d):
        return [(net["conv1"], net["bn1"])]
    parts = [part for part in net["conv1"] if not isinstance(part, nn.ReLU)] + [net["bn1"]]
    return list(zip(parts[0::2], parts[1::2], strict=True))


def _convolutions(net: Any) -> Iterator[tuple[nn.Conv2d, Any]]:
    """Every convolution of a plain ResNet, with the norm that follows it."""
    yield from _stem(net)
    for stage in _stages(net):
        for block in stage:
            yield block.conv1, block.bn1
            yield block.conv2, block.bn2
            if isinstance(block, Bottleneck):
                yield block.conv3, block.bn3
            if block.downsample is not None:
                *_, conv, norm = block.downsample
                yield conv, norm


def _stages(net: Any) -> list[Any]:
    return [net[name] for name in ("layer1", "layer2", "layer3", "layer4") if name in net]


def _strided(mask: Tensor | None, stride: int) -> Tensor | None:
    return mask if mask is None or stride == 1 else mask[:, :, ::stride, ::stride]


def _like(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """A mask in the type of the features: under autocast a float32 one would make them float32 too."""
    return None if mask is None else mask.to(x.dtype)


def _block_stride(block: Any) -> int:
    return block.conv1.stride[0] * block.conv2.stride[0]


def _block_channels(block: Any) -> int:
    return (block.conv3 if isinstance(block, Bottleneck) else block.conv2).out_channels


def block_forward(block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    """One residual block of a ResNet. `mask` (B, 1, h, w) is 1 on real cells of the block's input, or None."""
    out_mask = _strided(mask, _block_stride(block))
    shortcut = x
    if block.downsample is not None:
        *pool, conv, norm = block.downsample
        for layer in pool:
            shortcut = _average(layer, shortcut, mask)
        shortcut = _conv_norm(conv, norm, shortcut, out_mask if pool else mask)
    x = _conv_norm_relu(block.conv1, block.bn1, x, mask)
    if isinstance(block, Bottleneck):
        x = _conv_norm_relu(block.conv2, block.bn2, x, mask)
        return _conv_norm_relu(block.conv3, block.bn3, x, out_mask, shortcut)
    return _conv_norm_relu(block.conv2, block.bn2, x, out_mask, shortcut)


def _average(pool: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Average pooling over the real cells of each window, as at the edge of an image without padding."""
    if mask is None or isinstance(pool, nn.Identity):
        return pool(x)
    return pool(x * mask) / pool(mask).clamp(min=1e-6)


def _conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Convolution and norm. A frozen norm is an affine map, so it is folded into the convolution's weights: the same
    values, without another pass over the feature map forward and back. `mask` is that of the convolution's input."""
    if mask is not None and conv.kernel_size != (1, 1):
        x = x * mask
    if isinstance(norm, FrozenBatchNorm2d):
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = conv.weight * scale[:, None, None, None]
        bias = norm.bias - norm.running_mean * scale
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    x = conv(x)
    if isinstance(norm, nn.GroupNorm) and (out_mask := _strided(mask, conv.stride[0])) is not None:
        return masked_group_norm(norm, x, out_mask)
    return norm(x)


def _conv_norm_relu(
    conv: nn.Conv2d, norm: nn.Module, x: Tensor, mask: Tensor | None, shortcut: Tensor | None = None
) -> Tensor:
    """`_conv_norm`, plus a shortcut, and ReLU; in place, since a new feature map costs more than the arithmetic."""
    if isinstance(conv, OneDnnConv2d) and isinstance(norm, nn.Identity) and computes_with_onednn(conv, x):
        return conv.with_relu(x if mask is None or conv.kernel_size == (1, 1) else x * mask, shortcut)
    x = _conv_norm(conv, norm, x, mask)
    if shortcut is not None:
        x = x.add_(shortcut)
    return F.relu(x, inplace=True)


def masked_group_norm(norm: nn.GroupNorm, x: Tensor, mask: Tensor) -> Tensor:
    """Group norm with mean and variance over real cells only.

    Args:
        x: (B, C, h, w).
        mask: (B, 1, h, w), 1 on real cells.

    Returns:
        (B, C, h, w); on real cells what `norm` gives for the image without its padding.
    """
    grouped = at_least_float32(x.unflatten(1, (norm.num_groups, -1)))  # (B, G, C/G, h, w)
    cells = mask[:, None].to(grouped.dtype)
    count = cells.sum((2, 3, 4), keepdim=True) * grouped.shape[2]
    mean = (grouped * cells).sum((2, 3, 4), keepdim=True) / count
    centred = grouped - mean
    variance = (centred.square() * cells).sum((2, 3, 4), keepdim=True) / count
    normed = (centred * (variance + norm.eps).rsqrt()).flatten(1, 2).to(x.dtype)
    return normed * norm.weight[:, None, None] + norm.bias[:, None, None]
