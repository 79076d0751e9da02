"""From queries to masks: where a query looks, drawn ever finer over the backbone's features."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DetectionConfig
from ..losses.mask_losses import MASK_STRIDE
from .attention import FUNCTIONS
from .backbone import masked_group_norm
from .recompute import Recomputing

GROUPS = 8
CHUNK_BYTES = 256 * 2**20


class MaskAttention(nn.Module):
    """Where each query looks: attention weights without values, one softmax over all heads and cells of an image."""

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.heads = config.encoder_attention_heads
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        for projection in (self.q_proj, self.k_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, queries: Tensor, memory: Tensor, cell_mask: Tensor | None) -> Tensor:
        """Compute the weights.

        Args:
            queries: (B, K, d).
            memory: (B, M, d).
            cell_mask: (B, M) bool, the cells of each image; None if all are.

        Returns:
            (B, K, heads, M), summing to 1 over heads and real cells.
        """
        q = self.q_proj(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, K, d/heads)
        k = self.k_proj(memory).unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1)  # (B, heads, d/heads, M)
        scores = (q * q.shape[-1] ** -0.5 @ k).transpose(1, 2)
        if cell_mask is not None:
            scores = scores.masked_fill(~cell_mask[:, None, None], float("-inf"))
        return scores.flatten(2).softmax(-1).view_as(scores)


class ConvNorm(nn.Module):
    """3×3 convolution, group norm over real cells, activation."""

    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.conv = _new_conv(inputs, outputs, 3)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, outputs), outputs)
        # In place: at stride 4 every new tensor costs as much as the convolution beside it.
        self.activation = partial(F.relu, inplace=True) if activation == "relu" else FUNCTIONS[activation]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (N, C, h, w), zero on padded cells. mask: (N, 1, h, w), 1 on real cells; None if all are."""
        return self.finish(self.conv(x), mask)

    def finish(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What comes after the convolution; zero on padded cells again, for the next one."""
        if mask is None:
            return self.activation(self.norm(x))
        return self.activation(masked_group_norm(self.norm, x, mask)) * mask


class FusionStage(nn.Module):
    """Enlarge to the size of a finer stage of the backbone, add its features, refine."""

    def __init__(self, finer: int, inputs: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.fpn_adapter = _new_conv(finer, inputs, 1)
        self.refine = ConvNorm(inputs, outputs, activation)


class MaskHead(Recomputing):
    """The convolutional mask head of DETR (arXiv 2005.12872, figure 8), for any subset of an image's queries.

    What does not depend on the query is computed once an image: the half of the first convolution that sees the image's
    features, and the backbone's features adapted to each level. The known implementations repeat both for each query.

    Args:
        stages: channels of the backbone's stages, the deepest last. The first has stride 4.
        stride: pixels per cell of the deepest.

    Raises:
        ValueError: a width that the head cannot halve from stage to stage.
    """

    def __init__(self, config: DetectionConfig, stages: list[int], stride: int) -> None:
        super().__init__()
        width, inputs = config.d_model, config.d_model + config.encoder_attention_heads
        levels = len(stages) - 1
        if width % (2 ** (levels + 1)):
            raise ValueError(f"masks need a d_model divisible by {2 ** (levels + 1)}, got {width}")
        activation = config.activation_function
        self.width = width
        self.strides = [min(MASK_STRIDE << level, stride) for level in range(len(stages))]  # DC5: 4, 8, 16, 16
        self.conv1 = ConvNorm(inputs, inputs, activation)
        self.conv2 = ConvNorm(inputs, width // 2, activation)
        self.fpn_stages: Any = nn.ModuleList(
            FusionStage(finer, width // 2 ** (level + 1), width // 2 ** (level + 2), activation)
            for level, finer in enumerate(reversed(stages[:-1]))
        )
        self.output_conv = _new_conv(width // 2 ** (levels + 1), 1, 3)

    def forward(
        self, features: list[Tensor], projected: Tensor, attention: Tensor, image: Tensor, pixel_mask: Tensor | None
    ) -> Tensor:
        """Draw masks, so many at a time that a chunk's tensors stay within a budget (about `CHUNK_BYTES`).

        Args:
            features: of the backbone's stages, (B, C, h, w), the deepest last.
            projected: (B, d, h, w), the deepest projected.
            attention: (N, heads, h, w), where each of N queries looks.
            image: (N,) int64, the image of each.
            pixel_mask: (B, H, W) bool, True where a pixel belongs to the image; None where nothing is padded.

        Returns:
            (N, H/4, W/4) logits; without meaning on padded cells.
        """
        masks = [
            None if pixel_mask is None else pixel_mask[:, None, ::stride, ::stride].to(projected.dtype)
            for stride in self.strides
        ][::-1]
        with_image, with_query = self.conv1.conv.weight.split([self.width, attention.shape[1]], dim=1)
        start = projected if masks[0] is None else projected * masks[0]
        once = F.conv2d(start, with_image, self.conv1.conv.bias, padding=1)  # (B, C, h, w)
        finer = [stage.fpn_adapter(x) for stage, x in zip(self.fpn_stages, features[-2::-1], strict=True)]
        draw = self.kept_or_recomputed(partial(self._draw, once, with_query, finer, masks))
        if torch.compiler.is_exporting():  # a graph has no loop of so many turns as the sizes ask for
            return draw(attention, image)
        height, width = features[0].shape[-2:]
        chunk = max(1, CHUNK_BYTES // (height * width * self.width // 2 * 4))
        parts = [draw(a, i) for a, i in zip(attention.split(chunk), image.split(chunk), strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _draw(
        self,
        once: Tensor,
        with_query: Tensor,
        finer: list[Tensor],
        masks: list[Tensor | None],
        attention: Tensor,
        image: Tensor,
    ) -> Tensor:
        own = [None if mask is None else _of_images(mask, image) for mask in masks]
        x = self.conv1.finish(F.conv2d(attention, with_query, padding=1).add_(_of_images(once, image)), own[0])
        x = self.conv2(x, own[0])
        for stage, features, mask in zip(self.fpn_stages, finer, own[1:], strict=True):
            x = F.interpolate(x, size=features.shape[-2:], mode="nearest").add_(_of_images(features, image))
            x = stage.refine(x if mask is None else x * mask, mask)
        return self.output_conv(x)[:, 0]


def _of_images(features: Tensor, image: Tensor) -> Tensor:
    """(B, C, h, w) at `image` (N,) -> (N, C, h, w); of a single image not copied, but broadcast."""
    if torch.compiler.is_exporting():  # the graph is for any number
        return features[image]
    return features if len(features) == 1 else features[image]


def _new_conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.kaiming_uniform_(conv.weight, a=1)  # as the original starts
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
