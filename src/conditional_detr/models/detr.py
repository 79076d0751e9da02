"""DETR (arXiv 2005.12872): all that is its own. Laid out like `conditional_detr.py`, so that the difference between the two
files is the idea of the later paper.

Each query and each cell is one vector, content and place added, and cross-attention compares these vectors.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.names import DECODER, ORIGINAL_DECODER, Row, name_table
from ..config import DetectionConfig
from ..families import DetrConfig
from .attention import Attention, scaled_products
from .decoder import Decoder, DecoderLayer
from .detection_model import DetectionModel
from .detector import ObjectDetectionModel
from .family import Family
from .pretrained import PretrainedModel
from .segmenter import SegmentationModel

NAMES = name_table(
    "detr",
    (
        Row(DECODER + "self_attn.q_proj.*", "=", ORIGINAL_DECODER + "self_attn.in_proj_*[q]"),
        Row(DECODER + "self_attn.k_proj.*", "=", ORIGINAL_DECODER + "self_attn.in_proj_*[k]"),
        Row(DECODER + "self_attn.v_proj.*", "=", ORIGINAL_DECODER + "self_attn.in_proj_*[v]"),
        Row(DECODER + "encoder_attn.q_proj.*", "=", ORIGINAL_DECODER + "multihead_attn.in_proj_*[q]"),
        Row(DECODER + "encoder_attn.k_proj.*", "=", ORIGINAL_DECODER + "multihead_attn.in_proj_*[k]"),
        Row(DECODER + "encoder_attn.v_proj.*", "=", ORIGINAL_DECODER + "multihead_attn.in_proj_*[v]"),
        Row(
            DECODER + "encoder_attn.o_proj.*",
            DECODER + "encoder_attn.out_proj.*",
            ORIGINAL_DECODER + "multihead_attn.out_proj.*",
        ),
    ),
)


class DetrDecoderLayer(DecoderLayer):
    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.self_attn = Attention(config, config.decoder_attention_heads)
        self.encoder_attn = Attention(config, config.decoder_attention_heads)

    def forward(
        self,
        content: Tensor,
        object_queries: Tensor,
        spatial_query: None,
        memory: Tensor,
        position: Tensor,
        key_mask: Tensor | None,
        query_mask: Tensor | None,
        need_weights: bool,
        groups: int,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        placed = content + object_queries
        update, self_weights = self.self_attn(placed, placed, content, query_mask, need_weights, groups)
        content = self.residual(content, update, self.self_attn_layer_norm)
        update, cross_weights = self.encoder_attn(
            content + object_queries, memory + position, memory, key_mask, need_weights
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
        """The query is one vector of content and place; the key's two parts are compared with it apart, as in figure 1 of
        Conditional DETR's paper."""
        attention = self.encoder_attn
        query, key = attention.q_proj(content + object_queries), attention.k_proj(memory)
        key_position = F.linear(position, attention.k_proj.weight)
        return scaled_products(query, key, attention.heads), scaled_products(query, key_position, attention.heads)


class DetrDecoder(Decoder):
    """Without reference points: boxes are predicted from the content alone."""

    layer_class = DetrDecoderLayer

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        layers = [self.layer_class(config) for _ in range(config.decoder_layers)]
        self.layers = nn.ModuleList(layers)
        self.layernorm = nn.LayerNorm(config.d_model)


class DetrModel(DetectionModel, PretrainedModel):
    """DETR without its heads; see `forward`."""

    config_class = DetrConfig
    weight_names = NAMES
    decoder_class = DetrDecoder


class DetrForObjectDetection(ObjectDetectionModel, PretrainedModel):
    """DETR (arXiv 2005.12872). Logits are softmax scores over C classes and "no object", last; see `forward`."""

    config_class = DetrConfig
    weight_names = NAMES
    model_class = DetrModel


class DetrForSegmentation(SegmentationModel, PretrainedModel):
    """DETR with masks (arXiv 2005.12872, section 4.4). Logits are softmax scores with "no object" last; see `forward`."""

    config_class = DetrConfig
    weight_names = NAMES
    detector_class = DetrForObjectDetection


FAMILY = Family(DetrModel, DetrForObjectDetection, DetrForSegmentation)
