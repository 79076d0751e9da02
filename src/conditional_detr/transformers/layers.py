"""Encoder and decoders whose layers are transformers' `GradientCheckpointingLayer`, which recompute themselves: so that its
`every_n_layers`, its arguments and its hooks are as in any of its models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..models import conditional_detr, detr, encoder

if TYPE_CHECKING:
    Layer = nn.Module
else:
    Layer = GradientCheckpointingLayer


class _Stack:
    """Stands before an encoder or decoder: what forgets is each layer, not the walk through them."""

    def kept_or_recomputed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as it is."""
        return function


class EncoderLayer(encoder.EncoderLayer, Layer):
    """See `models.encoder`."""


class Encoder(_Stack, encoder.Encoder):  # type: ignore[misc]
    """See `models.encoder`."""

    layer_class = EncoderLayer


class ConditionalDetrDecoderLayer(conditional_detr.ConditionalDetrDecoderLayer, Layer):
    """See `models.conditional_detr`."""


class ConditionalDetrDecoder(_Stack, conditional_detr.ConditionalDetrDecoder):  # type: ignore[misc]
    """See `models.conditional_detr`."""

    layer_class = ConditionalDetrDecoderLayer


class DetrDecoderLayer(detr.DetrDecoderLayer, Layer):
    """See `models.detr`."""


class DetrDecoder(_Stack, detr.DetrDecoder):  # type: ignore[misc]
    """See `models.detr`."""

    layer_class = DetrDecoderLayer
