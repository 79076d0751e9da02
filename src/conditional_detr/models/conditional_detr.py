"""Conditional DETR (arXiv 2108.06152): all that is its own. Laid out like `detr.py`, so that the difference between the two
files is the paper's idea.

Content and place are kept apart (section 3.3): in cross-attention each head's query is [content ; spatial], each key
[content ; spatial], and the spatial query is the embedded reference point scaled by what the content so far says. Boxes
are predicted relative to the reference point.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..checkpoints.names import DECODER, ORIGINAL_DECODER, Row, name_table
from ..config import DetectionConfig
from ..families import ConditionalDetrConfig
from .attention import MLP, attend, join_groups, scaled_products, split_heads
from .decoder import Decoder, DecoderLayer
from .detection_model import DetectionModel
from .detector import ObjectDetectionModel
from .family import Family
from .pretrained import PretrainedModel
from .segmenter import SegmentationModel

NAMES = name_table(
    "conditional_detr",
    (
        Row("model.decoder.ref_point_head.layers.*", "=", "transformer.decoder.ref_point_head.layers.*"),
        Row("model.decoder.query_scale.layers.*", "=", "transformer.decoder.query_scale.layers.*"),
        *(
            Row(f"{DECODER}self_attn.{c}_proj.*", f"{DECODER}sa_{ab}_proj.*", f"{ORIGINAL_DECODER}sa_{ab}_proj.*")
            for c, ab in (
                ("q_content", "qcontent"),
                ("q_pos", "qpos"),
                ("k_content", "kcontent"),
                ("k_pos", "kpos"),
                ("v", "v"),
            )
        ),
        *(
            Row(f"{DECODER}encoder_attn.{c}_proj.*", f"{DECODER}ca_{ab}_proj.*", f"{ORIGINAL_DECODER}ca_{ab}_proj.*")
            for c, ab in (
                ("q_content", "qcontent"),
                ("q_pos", "qpos"),
                ("k_content", "kcontent"),
                ("k_pos", "kpos"),
                ("v", "v"),
                ("q_pos_sine", "qpos_sine"),
            )
        ),
        Row(
            DECODER + "encoder_attn.o_proj.*",
            DECODER + "encoder_attn.out_proj.*",
            ORIGINAL_DECODER + "cross_attn.out_proj.*",
        ),
    ),
)


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
        self, content: Tensor, object_queries: Tensor, query_mask: Tensor | None, need_weights: bool, groups: int
    ) -> tuple[Tensor, Tensor | None]:
        query = self.q_content_proj(content) + self.q_pos_proj(object_queries)
        key = self.k_content_proj(content) + self.k_pos_proj(object_queries)
        query, key, value = (split_heads(x, self.heads, groups) for x in (query, key, self.v_proj(content)))
        out, weights = attend(query, key, value, query_mask, self.dropout if self.training else 0.0, need_weights)
        return self.o_proj(join_groups(out, groups)), weights


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
        query, key = self._content(content, object_queries, memory, key_position)
        query = self._beside(query, self.q_pos_sine_proj(spatial_query))  # (B, h, Q, 2d/h)
        key = self._beside(key, key_position)  # (B, h, M, 2d/h)
        value = split_heads(self.v_proj(memory), self.heads)
        out, weights = attend(query, key, value, key_mask, self.dropout if self.training else 0.0, need_weights)
        return self.o_proj(out), weights

    def scores(
        self, content: Tensor, object_queries: Tensor, spatial_query: Tensor, memory: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `DecoderLayer.cross_attention_scores`: the products of the two halves of each head."""
        key_position = self.k_pos_proj(position)
        query, key = self._content(content, object_queries, memory, key_position)
        spatial = scaled_products(self.q_pos_sine_proj(spatial_query), key_position, self.heads, 2**-0.5)
        of_content = scaled_products(query, key, self.heads, 2**-0.5)
        return of_content, spatial.expand_as(of_content)

    def _content(
        self, content: Tensor, object_queries: Tensor, memory: Tensor, key_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The content halves of query and key, before they are split into heads."""
        query, key = self.q_content_proj(content), self.k_content_proj(memory)
        if self.q_pos_proj is not None:
            query, key = query + self.q_pos_proj(object_queries), key + key_position
        return query, key

    def _beside(self, content: Tensor, spatial: Tensor) -> Tensor:
        """(B, N, d) and (B or 1, N, d) -> (B, h, N, 2d/h): content and place concatenated inside each head."""
        halves = split_heads(content, self.heads), split_heads(spatial.expand_as(content), self.heads)
        return torch.cat(halves, dim=-1)


class ConditionalDetrDecoderLayer(DecoderLayer):
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
        need_weights: bool,
        groups: int,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        update, self_weights = self.self_attn(content, object_queries, query_mask, need_weights, groups)
        content = self.residual(content, update, self.self_attn_layer_norm)
        update, cross_weights = self.encoder_attn(
            content, object_queries, spatial_query, memory, position, key_mask, need_weights
        )
        content = self.residual(content, update, self.encoder_attn_layer_norm)
        return self.residual(content, self.mlp(content), self.final_layer_norm), self_weights, cross_weights

    def cross_attention_scores(
        self,
        content: Tensor,
        object_queries: Tensor,
        spatial_query: Tensor | None,
        memory: Tensor,
        position: Tensor,
    ) -> tuple[Tensor, Tensor]:
        assert spatial_query is not None, "the decoder gives one"
        return self.encoder_attn.scores(content, object_queries, spatial_query, memory, position)


class ConditionalDetrDecoder(Decoder):
    """With a reference point for each query, which the first layer's cross-attention looks at, and the later layers' at
    what the content so far makes of it."""

    has_reference_points = True
    layer_class = ConditionalDetrDecoderLayer

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        layers = [self.layer_class(config, first=i == 0) for i in range(config.decoder_layers)]
        self.query_scale = MLP(config.d_model, config.d_model, config.d_model, 2)
        self.ref_point_head = MLP(config.d_model, config.d_model, 2, 2)
        self.layers = nn.ModuleList(layers)
        self.layernorm = nn.LayerNorm(config.d_model)

    def reference_points(self, object_queries: Tensor) -> Tensor:
        return self.ref_point_head(object_queries)

    def spatial_query(self, point: Tensor, content: Tensor, layer: int) -> Tensor:
        return point if layer == 0 else point * self.query_scale(content)

    def exact_parts(self) -> list[nn.Module]:
        return [self.ref_point_head]


class ConditionalDetrModel(DetectionModel, PretrainedModel):
    """Conditional DETR without its heads; see `forward`."""

    config_class = ConditionalDetrConfig
    weight_names = NAMES
    decoder_class = ConditionalDetrDecoder


class ConditionalDetrForObjectDetection(ObjectDetectionModel, PretrainedModel):
    """Conditional DETR (arXiv 2108.06152). Logits are sigmoid scores over C classes; see `forward`."""

    config_class = ConditionalDetrConfig
    weight_names = NAMES
    model_class = ConditionalDetrModel


class ConditionalDetrForSegmentation(SegmentationModel, PretrainedModel):
    """Conditional DETR with masks. Logits are sigmoid scores over C classes; see `forward`."""

    config_class = ConditionalDetrConfig
    weight_names = NAMES
    detector_class = ConditionalDetrForObjectDetection


FAMILY = Family(ConditionalDetrModel, ConditionalDetrForObjectDetection, ConditionalDetrForSegmentation)
