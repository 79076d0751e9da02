"""Convolutions and matrix products on the CPU as oneDNN does them best: what torch.compile would call, without it.

These operators of PyTorch are made for its compiler; where a version lacks them, the ordinary ones compute the same.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn


@torch.library.custom_op("conditional_detr::onednn_linear", mutates_args=())
def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x · weightᵀ + bias, as a node that the compiler leaves alone."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@onednn_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


class OneDnnLinear(nn.Linear):
    """`nn.Linear` by oneDNN. PyTorch takes MKL for float32, which leaves processors that are not Intel's at half their
    rate (measured on AVX-512: 230 against 470 GFLOP/s)."""

    @classmethod
    def of(cls, layer: nn.Linear) -> OneDnnLinear:
        """A layer with the weights of another, not copied."""
        new = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        new.weight, new.bias = layer.weight, layer.bias
        return new.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != self.weight.dtype or x.dtype == torch.float64 or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        if torch.compiler.is_compiling():  # it packs bfloat16 weights for oneDNN, and float32 ones for MKL
            return onednn_linear(x, self.weight, self.bias) if x.dtype == torch.float32 else super().forward(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class OneDnnConv2d(nn.Conv2d):
    """A convolution that adds a shortcut and applies ReLU in the same pass."""

    @classmethod
    def of(cls, layer: nn.Conv2d) -> OneDnnConv2d:
        """A layer with the weights of another, not copied."""
        new = cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]  # tuples of any length, says PyTorch
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            device="meta",
        )
        new.weight, new.bias = layer.weight, layer.bias
        return new.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        if not computes_with_onednn(self, x):
            return super().forward(x)
        return torch.ops.mkldnn._convolution_pointwise(x, *self._arguments(), "none", [], "")

    def with_relu(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """relu(self(x) + shortcut). The shortcut's memory becomes the result's."""
        if shortcut is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *self._arguments(), "relu", [], "")
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut, x, *self._arguments(), "add", 1.0, "relu", [], ""
        )

    def _arguments(self) -> tuple[Any, ...]:
        return self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups


def computes_with_onednn(layer: OneDnnLinear | OneDnnConv2d, x: Tensor) -> bool:
    """Whether oneDNN's operators fit: they know neither autocast nor float64, and the compiler chooses its own."""
    return (
        x.device.type == "cpu"
        and x.dtype == layer.weight.dtype != torch.float64
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def use_onednn(model: nn.Module) -> None:
    """Put oneDNN's layers in the place of the linear layers and convolutions of a model that is to predict on the CPU.

    Layers that hooks watch, as those of some of timm's networks do, stay as they are.
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    operators = torch.ops.mkldnn
    if not x86 or not torch.backends.mkldnn.is_available():
        return
    if not all(hasattr(operators, name) for name in ("_linear_pointwise", "_convolution_pointwise_")):
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if child._forward_hooks or child._forward_pre_hooks:
                continue
            if type(child) is nn.Linear:
                setattr(parent, name, OneDnnLinear.of(child))
            elif type(child) is nn.Conv2d:
                setattr(parent, name, OneDnnConv2d.of(child))
