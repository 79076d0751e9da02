"""What the decoders of all families have in common: the frame around a layer's three parts, and the walk through the
layers. A family's own file has the layers themselves.

Content starts at zero, every layer's output passes one shared LayerNorm before it reaches the heads, and it is the
*un-normalised* output that feeds the next layer, auxiliary losses or not.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DetectionConfig
from ..precision import at_least_float32
from .attention import FeedForward
from .position import sine_point_embedding
from .recompute import Recomputing


class DecoderStates(NamedTuple):
    """What a decoder leaves behind. L layers, B images, Q queries, M cells, h heads; in training Q counts the queries of
    all groups, one group after another, but in `self_attentions`."""

    raw: list[
        Tensor
    ]  # L + 1 × (B, Q, d): the content at first (zeros), then each layer's output before the shared norm
    normed: Tensor  # (L or 1, B, Q, d): each layer's (or only the last layer's) output after the shared norm
    reference: Tensor | None  # (1, Q, 2): logits of the reference points; None for families without
    self_attentions: list[Tensor | None]  # L × (B · groups, h, Q, Q) where asked for, Q of a group
    cross_attentions: list[Tensor | None]  # L × (B, h, Q, M) where asked for
    groups: int = 1

    def of_first_group(self) -> DecoderStates:
        """The states as prediction has them."""
        if self.groups == 1:
            return self
        queries = self.normed.shape[2] // self.groups
        return DecoderStates(
            [content[:, :queries] for content in self.raw],
            self.normed[:, :, :queries],
            None if self.reference is None else self.reference[:, :queries],
            [None if weights is None else weights[:: self.groups] for weights in self.self_attentions],
            [None if weights is None else weights[:, :, :queries] for weights in self.cross_attentions],
        )


class DecoderLayer(nn.Module):
    """The post-norm frame around self-attention, cross-attention and MLP. A family adds the two attentions, `self_attn` and
    `encoder_attn`, and a `forward` with the arguments

    - content: (B, Q, d), what the queries say so far.
    - object_queries: (1, Q, d), learned.
    - spatial_query: (B or 1, Q, d), what `Decoder.spatial_query` gives; None for families without.
    - memory, position: (B, M, d) and (B or 1, M, d), the encoder's output and where its cells are.
    - key_mask, query_mask: (B, 1, 1, M) and (B, 1, 1, Q) bool, True where attended to; None for everywhere.
    - need_weights: whether to return attention weights.
    - groups: how many groups the queries are of, which self-attention keeps apart; Q counts those of all.

    that returns the content after the layer, and the weights of self-attention (B · groups, h, Q / groups, Q / groups)
    and cross-attention (B, h, Q, M), None where not asked for. `query_mask` is as the weights of self-attention.
    """

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.mlp = FeedForward(config, config.decoder_ffn_dim)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def cross_attention_scores(
        self,
        content: Tensor,
        object_queries: Tensor,
        spatial_query: Tensor | None,
        memory: Tensor,
        position: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What cross-attention compares, in two parts whose sum goes into its softmax: content and place, each
        (B, h, Q, M), scaled, float32 at least. A family says what belongs to which.

        Args:
            content: (B, Q, d), after self-attention; the others as in `forward`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its cross-attention compares")

    def residual(self, content: Tensor, update: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm(content + F.dropout(update, self.dropout, self.training))


class Decoder(Recomputing):
    """The walk through the layers. A family's constructor makes `layers` and `layernorm`, and what is its own. The order in
    which it makes them decides what weights a seed gives, the order in which it keeps them is that of training checkpoints.

    Attributes:
        has_reference_points: whether boxes are predicted relative to a point of each query, see `reference_points`.
        layer_class: the family's, with which its constructor makes `layers`.
    """

    has_reference_points: ClassVar[bool] = False
    layer_class: ClassVar[Any]
    layers: nn.ModuleList
    layernorm: nn.LayerNorm

    def reference_points(self, object_queries: Tensor) -> Tensor | None:
        """(1, Q, d) -> (1, Q, 2), logits of the points (x, y) that boxes are predicted relative to; None without."""
        return None

    def spatial_query(self, point: Tensor, content: Tensor, layer: int) -> Tensor:
        """What a layer's cross-attention looks for places by, in families with reference points.

        Args:
            point: (1, Q, d), the embedded reference points.
            content: (B, Q, d), the layer's input.
            layer: its index.

        Returns:
            (B or 1, Q, d)
        """
        return point

    def exact_parts(self) -> list[nn.Module]:
        """Parts that prediction computes in float32 whatever the type of the rest: a rounded reference point would move
        boxes by pixels."""
        return []

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
        groups: int = 1,
    ) -> DecoderStates:
        """Decode the queries against the memory.

        Self-attention alone keeps groups apart; all else treats a query by itself, and cross-attention's keys and values
        are computed once.

        Args:
            object_queries: (groups · Q, d), learned, one group after another.
            memory: (B, M, d).
            position: (B or 1, M, d).
            key_mask: (B, 1, 1, M) bool, True for cells of the image; None if all are.
            all_layers: normalise every layer's output, not only the last one's.
            content: (B, Q, d) for each group to start from; None for zeros.
            query_mask: (B, 1, 1, Q) bool, True for queries that others of their group may attend to; None if all are.
        """
        placed = object_queries[None]  # (1, Q, d): the same for every image, so projected once for the batch
        if content is None:
            content = memory.new_zeros(memory.shape[0], *object_queries.shape)
        elif groups > 1:
            content = content.repeat(1, groups, 1)
        if query_mask is not None and groups > 1:
            query_mask = query_mask.repeat_interleave(groups, 0)
        reference, point = self.reference_points(placed), None
        if reference is not None:
            point = sine_point_embedding(at_least_float32(reference).sigmoid(), placed.shape[-1])  # (1, Q, d)
            point = point.to(memory.dtype)
        placed = placed.to(memory.dtype)  # reference points may be computed more exactly than the rest
        raw, self_attentions, cross_attentions = [content], [], []
        for i, layer in enumerate(self.layers):
            spatial_query = None if point is None else self.spatial_query(point, content, i)
            content, self_weights, cross_weights = self.kept_or_recomputed(layer)(
                content, placed, spatial_query, memory, position, key_mask, query_mask, need_weights, groups
            )
            raw.append(content)
            self_attentions.append(self_weights)
            cross_attentions.append(cross_weights)
        normed = self.layernorm(torch.stack(raw[1:] if all_layers else raw[-1:]))
        return DecoderStates(raw, normed, reference, self_attentions, cross_attentions, groups)
