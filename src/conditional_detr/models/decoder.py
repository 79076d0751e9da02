"""The two decoders, side by side: the paper's idea is the difference between them.

DETR's cross-attention adds content and position before one shared projection. Conditional DETR keeps them apart: each
head's query is [content ; spatial], each key [content ; spatial], and the spatial query is the embedded reference point
scaled by what the content so far says (section 3.3 of arXiv 2108.06152).

Both decoders take and give the same: content starts at zero, every layer's output passes one shared LayerNorm before it
reaches the heads, and it is the *un-normalised* output that feeds the next layer, auxiliary losses or not.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import DetectionConfig
from ..precision import at_least_float32
from .attention import MLP, Attention, FeedForward, attend, split_heads
from .position import sine_point_embedding


class DecoderStates(NamedTuple):
    """What a decoder leaves behind. L layers, B images, Q queries, M cells, h heads."""

    raw: list[
        Tensor
    ]  # L + 1 × (B, Q, d): the content at first (zeros), then each layer's output before the shared norm
    normed: Tensor  # (L or 1, B, Q, d): each layer's (or only the last layer's) output after the shared norm
    reference: Tensor | None  # (1, Q, 2): logits of the reference points; None for DETR
    self_attentions: list[Tensor | None]  # L × (B, h, Q, Q) where asked for
    cross_attentions: list[Tensor | None]  # L × (B, h, Q, M) where asked for


class ResidualLayer(nn.Module):
    """The post-norm frame around self-attention, cross-attention and MLP, shared by both families."""

    self_attn: nn.Module
    encoder_attn: nn.Module

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.mlp = FeedForward(config, config.decoder_ffn_dim)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def residual(self, content: Tensor, update: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm(content + F.dropout(update, self.dropout, self.training))


# --------------------------------------------------------------------------------------------------------- DETR


class DetrDecoderLayer(ResidualLayer):
    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.self_attn = Attention(config, config.decoder_attention_heads)
        self.encoder_attn = Attention(config, config.decoder_attention_heads)

    def forward(
        self,
        content: Tensor,
        object_queries: Tensor,
        memory: Tensor,
        position: Tensor,
        key_mask: Tensor | None,
        query_mask: Tensor | None,
        need: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        placed = content + object_queries
        update, self_weights = self.self_attn(placed, placed, content, query_mask, need)
        content = self.residual(content, update, self.self_attn_layer_norm)
        update, cross_weights = self.encoder_attn(content + object_queries, memory + position, memory, key_mask, need)
        content = self.residual(content, update, self.encoder_attn_layer_norm)
        return self.residual(content, self.mlp(content), self.final_layer_norm), self_weights, cross_weights


# --------------------------------------------------------------------------------------------- Conditional DETR


class ConditionalSelfAttention(nn.Module):
    """Self-attention among queries, with separate projections for content and object query."""

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.heads = config.decoder_attention_heads
        self.dropout = config.attention_dropout
        self.q_content_proj = nn.Linear(config.d_model, config.d_model)
        self.q_pos_proj = nn.Linear(config.d_model, config.d_model)
        self.k_content_proj = nn.Linear(config.d_model, config.d_model)
        self.k_pos_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.o_proj = nn.Linear(config.d_model, config.d_model)

    def forward(
        self, content: Tensor, object_queries: Tensor, query_mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        query = self.q_content_proj(content) + self.q_pos_proj(object_queries)
        key = self.k_content_proj(content) + self.k_pos_proj(object_queries)
        query, key, value = (split_heads(x, self.heads) for x in (query, key, self.v_proj(content)))
        out, weights = attend(query, key, value, query_mask, self.dropout if self.training else 0.0, need_weights)
        return self.o_proj(out), weights


class ConditionalCrossAttention(nn.Module):
    """Cross-attention whose every head scores content and place apart and adds the two.

    The object queries and the positions enter the content half in the first layer only.
    """

    def __init__(self, config: DetectionConfig, first: bool) -> None:
        super().__init__()
        self.heads = config.decoder_attention_heads
        self.dropout = config.attention_dropout
        self.q_content_proj = nn.Linear(config.d_model, config.d_model)
        self.q_pos_proj = nn.Linear(config.d_model, config.d_model) if first else None
        self.k_content_proj = nn.Linear(config.d_model, config.d_model)
        self.k_pos_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_pos_sine_proj = nn.Linear(config.d_model, config.d_model)
        self.o_proj = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        content: Tensor,
        object_queries: Tensor,
        spatial_query: Tensor,
        memory: Tensor,
        position: Tensor,
        key_mask: Tensor | None,
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        key_position = self.k_pos_proj(position)  # (B or 1, M, d)
        query, key = self.q_content_proj(content), self.k_content_proj(memory)
        if self.q_pos_proj is not None:
            query, key = query + self.q_pos_proj(object_queries), key + key_position
        query = self._beside(query, self.q_pos_sine_proj(spatial_query))  # (B, h, Q, 2d/h)
        key = self._beside(key, key_position)  # (B, h, M, 2d/h)
        value = split_heads(self.v_proj(memory), self.heads)
        out, weights = attend(query, key, value, key_mask, self.dropout if self.training else 0.0, need_weights)
        return self.o_proj(out), weights

    def _beside(self, content: Tensor, spatial: Tensor) -> Tensor:
        """(B, N, d) and (B or 1, N, d) -> (B, h, N, 2d/h): content and place concatenated inside each head."""
        halves = split_heads(content, self.heads), split_heads(spatial.expand_as(content), self.heads)
        return torch.cat(halves, dim=-1)


class ConditionalDetrDecoderLayer(ResidualLayer):
    def __init__(self, config: DetectionConfig, first: bool) -> None:
        super().__init__(config)
        self.self_attn = ConditionalSelfAttention(config)
        self.encoder_attn = ConditionalCrossAttention(config, first)

    def forward(
        self,
        content: Tensor,
        object_queries: Tensor,
        spatial_query: Tensor,
        memory: Tensor,
        position: Tensor,
        key_mask: Tensor | None,
        query_mask: Tensor | None,
        need: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        update, self_weights = self.self_attn(content, object_queries, query_mask, need)
        content = self.residual(content, update, self.self_attn_layer_norm)
        update, cross_weights = self.encoder_attn(
            content, object_queries, spatial_query, memory, position, key_mask, need
        )
        content = self.residual(content, update, self.encoder_attn_layer_norm)
        return self.residual(content, self.mlp(content), self.final_layer_norm), self_weights, cross_weights


# ---------------------------------------------------------------------------------------------- around the layers


class Decoder(nn.Module):
    """Either family's decoder: `config.model_type` chooses the layers, and whether there are reference points."""

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.conditional = config.model_type == "conditional_detr"
        layers: list[ResidualLayer]
        if self.conditional:
            layers = [ConditionalDetrDecoderLayer(config, first=i == 0) for i in range(config.decoder_layers)]
            self.query_scale = MLP(config.d_model, config.d_model, config.d_model, 2)
            self.ref_point_head = MLP(config.d_model, config.d_model, 2, 2)
        else:
            layers = [DetrDecoderLayer(config) for _ in range(config.decoder_layers)]
        self.layers = nn.ModuleList(layers)
        self.layernorm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        object_queries: Tensor,
        memory: Tensor,
        position: Tensor,
        key_mask: Tensor | None,
        all_layers: bool,
        need_weights: bool = False,
        content: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> DecoderStates:
        """Decode the queries against the memory.

        Args:
            object_queries: (Q, d), learned.
            memory: (B, M, d).
            position: (B or 1, M, d).
            key_mask: (B, 1, 1, M) bool, True for cells of the image; None if all are.
            all_layers: normalise every layer's output, not only the last one's.
            content: (B, Q, d) to start from; None for zeros.
            query_mask: (B, 1, 1, Q) bool, True for queries that others may attend to; None if all are.
        """
        placed = object_queries[None]  # (1, Q, d): the same for every image, so projected once for the batch
        if content is None:
            content = memory.new_zeros(len(memory), *object_queries.shape)
        reference = point = None
        if self.conditional:
            reference = self.ref_point_head(placed)  # (1, Q, 2)
            point = sine_point_embedding(at_least_float32(reference).sigmoid(), placed.shape[-1])  # (1, Q, d)
            point = point.to(memory.dtype)
        placed = placed.to(memory.dtype)  # reference points may be computed more exactly than the rest
        raw, self_attentions, cross_attentions = [content], [], []
        for i, layer in enumerate(self.layers):
            spatial = () if point is None else (point if i == 0 else point * self.query_scale(content),)
            run = (
                partial(checkpoint, layer, use_reentrant=False)
                if self.gradient_checkpointing and self.training
                else layer
            )
            content, self_weights, cross_weights = run(
                content, placed, *spatial, memory, position, key_mask, query_mask, need_weights
            )
            raw.append(content)
            self_attentions.append(self_weights)
            cross_attentions.append(cross_weights)
        normed = self.layernorm(torch.stack(raw[1:] if all_layers else raw[-1:]))
        return DecoderStates(raw, normed, reference, self_attentions, cross_attentions)
