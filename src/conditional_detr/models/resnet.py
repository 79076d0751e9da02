"""A ResNet of any sizes, in timm's blocks and under timm's names: what transformers' `ResNetConfig` describes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from timm.models._features import FeatureInfo
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

STRIDES = (4, 8, 16, 32)


class ResNet(nn.ModuleDict):
    """The parts of timm's ResNets that end in features: `conv1`, `bn1`, `act1`, `maxpool`, `layer1`, …

    Attributes:
        feature_info: of the last stage, as timm's networks have it.
    """

    def __init__(self, parts: dict[str, nn.Module], channels: list[int]) -> None:
        super().__init__(parts)
        stages: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": 2 ** (stage + 1), "module": f"layer{stage}" if stage else "act1"}
            for stage, width in enumerate(channels)
        ]
        self.feature_info = FeatureInfo(stages, (len(stages) - 1,))


def resnet_of_sizes(sizes: dict[str, Any], output_stride: int) -> ResNet:
    """Build the network up to the stage of a stride.

    Args:
        sizes: as `config.resnet_sizes` gives them.
    """
    widths, stem = sizes["hidden_sizes"], sizes["embedding_size"]
    parts: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(sizes["num_channels"], stem, 7, 2, 3, bias=False),
        "bn1": nn.BatchNorm2d(stem),
        "act1": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, 2, 1),
    }
    stages = STRIDES.index(output_stride) + 1
    for stage, (inputs, outputs) in enumerate(pairwise([stem, *widths[:stages]])):
        blocks = [
            _block(sizes["layer_type"], inputs if i == 0 else outputs, outputs, 2 if i == 0 and stage > 0 else 1)
            for i in range(sizes["depths"][stage])
        ]
        parts[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    for part in parts.values():
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return ResNet(parts, [stem, *widths[:stages]])


def _block(kind: str, inputs: int, outputs: int, stride: int) -> nn.Module:
    downsample = None
    if stride != 1 or inputs != outputs:
        downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    if kind == "basic":
        return BasicBlock(inputs, outputs, stride, downsample)
    block = Bottleneck(inputs, outputs // 4, stride, downsample)
    if outputs % 4:  # timm's are as wide as four times their middle
        block.conv3 = nn.Conv2d(outputs // 4, outputs, 1, bias=False)
        block.bn3 = nn.BatchNorm2d(outputs)
    return block
