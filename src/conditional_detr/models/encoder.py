"""The transformer encoder: the same for all families."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DetectionConfig
from .attention import Attention, FeedForward
from .recompute import Recomputing


class EncoderLayer(nn.Module):
    """Post-norm layer: self-attention with positions added to queries and keys, then the MLP."""

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.self_attn = Attention(config, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.mlp = FeedForward(config, config.encoder_ffn_dim)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self, tokens: Tensor, position: Tensor, key_mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        placed = tokens + position
        update, weights = self.self_attn(placed, placed, tokens, key_mask, need_weights)
        tokens = self.self_attn_layer_norm(tokens + F.dropout(update, self.dropout, self.training))
        update = self.mlp(tokens)
        return self.final_layer_norm(tokens + F.dropout(update, self.dropout, self.training)), weights


class Encoder(Recomputing):
    """The walk through the layers.

    Attributes:
        layer_class: of its layers.
    """

    layer_class: ClassVar[type[EncoderLayer]] = EncoderLayer

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.layer_class(config) for _ in range(config.encoder_layers))

    def forward(
        self, tokens: Tensor, position: Tensor, key_mask: Tensor | None, need_weights: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Encode the cells of the feature map.

        Args:
            tokens: (B, M, d).
            position: (B or 1, M, d).
            key_mask: (B, 1, 1, M) bool, True for cells of the image; None if all are.

        Returns:
            The hidden states, input first and memory last, each (B, M, d); the attention weights if asked for.
        """
        states, attentions = [tokens], []
        for layer in self.layers:
            tokens, weights = self.kept_or_recomputed(layer)(tokens, position, key_mask, need_weights)
            states.append(tokens)
            attentions.append(weights)
        return states, attentions
