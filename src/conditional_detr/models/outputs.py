"""What models return."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor


class ModelOutput(dict):
    """A dict whose values can also be read as attributes and by position, as with transformers' outputs.

    Fields that were not computed are not in the dict and read as None.
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in type(self).field_names():
            return None
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())

    @classmethod
    def field_names(cls) -> set[str]:
        return {name for base in cls.__mro__ for name in inspect.get_annotations(base)}


class DetectionModelOutput(ModelOutput):
    """Of `ConditionalDetrModel` and `DetrModel`. L layers, B images, Q queries, M cells, h heads, d channels."""

    last_hidden_state: Tensor  # (B, Q, d), after the shared norm
    decoder_hidden_states: tuple[Tensor, ...] | None  # L + 1 × (B, Q, d), the last one after the shared norm
    decoder_attentions: tuple[Tensor, ...] | None  # L × (B, h, Q, Q)
    cross_attentions: tuple[Tensor, ...] | None  # L × (B, h, Q, M)
    encoder_last_hidden_state: Tensor  # (B, M, d)
    encoder_hidden_states: tuple[Tensor, ...] | None  # layers + 1 × (B, M, d)
    encoder_attentions: tuple[Tensor, ...] | None  # layers × (B, h, M, M)
    intermediate_hidden_states: Tensor | None  # (L, B, Q, d), after the shared norm; with `auxiliary_loss`
    reference_points: Tensor | None  # (Q, B, 2) in [0, 1], queries first as in transformers; Conditional DETR only


class DetectionOutput(ModelOutput):
    """Of the `…ForObjectDetection` models, and with masks of the `…ForSegmentation` models."""

    loss: Tensor | None  # () weighted total, where labels were given
    loss_dict: dict[str, Tensor] | None  # its parts
    logits: Tensor  # (B, Q, C), for DETR (B, Q, C + 1)
    pred_boxes: Tensor  # (B, Q, 4) cxcywh, relative to the image without its padding
    auxiliary_outputs: list[dict[str, Tensor]] | None  # L - 1 × {logits, pred_boxes}; with `auxiliary_loss`
    last_hidden_state: Tensor
    decoder_hidden_states: tuple[Tensor, ...] | None
    decoder_attentions: tuple[Tensor, ...] | None
    cross_attentions: tuple[Tensor, ...] | None
    encoder_last_hidden_state: Tensor
    encoder_hidden_states: tuple[Tensor, ...] | None
    encoder_attentions: tuple[Tensor, ...] | None


class SegmentationOutput(DetectionOutput):
    """Of the `…ForSegmentation` models. K masks an image: of all Q queries, or of those that `forward` was asked for."""

    pred_masks: Tensor  # (B, K, ceil(H / 4), ceil(W / 4)) logits
    mask_query_indices: Tensor | None  # (B, K) int64: the query of each mask, -1 where padded; None where K = Q
    mask_sizes: Tensor | None  # (B, 2) int64: rows and columns of each image's own masks; None where nothing is padded
