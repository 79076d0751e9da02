"""Attention as encoder and decoders use it, and the MLPs beside it.

Every function takes and gives (B, N, D): batch, tokens, channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ACTIVATIONS, DetectionConfig
from ..precision import at_least_float32

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {name: getattr(F, name) for name in ACTIVATIONS}


def split_heads(tokens: Tensor, heads: int, groups: int = 1) -> Tensor:
    """(B, N, D) -> (B, heads, N, D / heads); of several groups (B · groups, heads, N / groups, D / heads): in the place
    of images, groups see nothing of each other. `join_groups` is the reverse."""
    if groups > 1:
        tokens = tokens.unflatten(1, (groups, -1)).flatten(0, 1)
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_groups(tokens: Tensor, groups: int) -> Tensor:
    """(B · groups, N / groups, D) -> (B, N, D)."""
    return tokens if groups == 1 else tokens.unflatten(0, (-1, groups)).flatten(1, 2)


def attend(
    query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, dropout: float, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention: softmax(query · keyᵀ / √D) · value.

    Args:
        query, key: (B, heads, N, D) and (B, heads, M, D).
        value: (B, heads, M, E); E may differ from D.
        key_mask: (B, 1, 1, M) bool, True where a key may be attended to; None for everywhere.
        dropout: probability of dropping an attention weight.
        need_weights: also return the weights (B, heads, N, M), computed openly instead of by the fused kernel.

    Returns:
        (B, N, heads·E), and the weights or None.
    """
    weights = None
    if need_weights:
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask, float("-inf"))
        weights = scores.softmax(-1)
        out = F.dropout(weights, dropout, training=dropout > 0) @ value
    else:
        width = value.shape[-1]
        # PyTorch's fused kernel for CPUs takes values as wide as queries and keys alone; otherwise every product is
        # written to memory. Columns of zeros change nothing and cost half of what that does.
        if width < query.shape[-1] and query.device.type == "cpu" and not torch.compiler.is_compiling():
            value = F.pad(value, (0, query.shape[-1] - width))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask, dropout_p=dropout)[..., :width]
    return out.transpose(1, 2).flatten(2), weights


def scaled_products(query: Tensor, key: Tensor, heads: int, factor: float = 1.0) -> Tensor:
    """Each query's product with each key, (B, heads, N, M), over √(D / heads) and times `factor`; float32 at least.

    Args:
        query, key: (B or 1, N, D) and (B or 1, M, D), projected.
    """
    query, key = (split_heads(at_least_float32(x), heads) for x in (query, key))
    return query @ key.transpose(-2, -1) * (factor * query.shape[-1] ** -0.5)


class Attention(nn.Module):
    """Multi-head attention with one projection each for queries, keys, values and output: PyTorch's
    `nn.MultiheadAttention`, whose packed matrix of three projections is apart here."""

    def __init__(self, config: DetectionConfig, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = config.attention_dropout
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.o_proj = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_mask: Tensor | None = None,
        need_weights: bool = False,
        groups: int = 1,
    ) -> tuple[Tensor, Tensor | None]:
        out, weights = attend(
            split_heads(self.q_proj(query), self.heads, groups),
            split_heads(self.k_proj(key), self.heads, groups),
            split_heads(self.v_proj(value), self.heads, groups),
            key_mask,
            self.dropout if self.training else 0.0,
            need_weights,
        )
        return self.o_proj(join_groups(out, groups)), weights


class FeedForward(nn.Module):
    """The two-layer MLP of an encoder or decoder layer, with dropout inside."""

    def __init__(self, config: DetectionConfig, width: int) -> None:
        super().__init__()
        self.activation = FUNCTIONS[config.activation_function]
        self.dropout = config.activation_dropout
        self.fc1 = nn.Linear(config.d_model, width)
        self.fc2 = nn.Linear(width, config.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = F.dropout(self.activation(self.fc1(tokens)), self.dropout, self.training)
        return self.fc2(hidden)


class MLP(nn.Module):
    """Linear layers with ReLU between them: the box head, the reference-point head, the query scale."""

    def __init__(self, in_width: int, hidden_width: int, out_width: int, layers: int) -> None:
        super().__init__()
        widths = [in_width, *[hidden_width] * (layers - 1), out_width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)
