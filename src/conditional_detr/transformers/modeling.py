"""The models as transformers' classes: this package's networks with `PreTrainedModel`'s side."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.utils import logging

from ..losses.criterion import LossNormalizers, detection_loss
from ..models import conditional_detr, detr
from ..models.detection_model import DetectionModel
from ..models.detector import ObjectDetectionModel
from ..models.labels import mask_of_sizes
from ..models.segmenter import SegmentationModel
from . import layers
from .configuration import ConditionalDetrConfig, DetrConfig
from .outputs import (
    ConditionalDetrModelOutput,
    ConditionalDetrObjectDetectionOutput,
    ConditionalDetrSegmentationOutput,
    DetrModelOutput,
    DetrObjectDetectionOutput,
    DetrSegmentationOutput,
)
from .pretrained import TransformersModel

logger: Any = logging.get_logger(__name__)

Side: Any = TransformersModel  # to type checkers the networks have this package's side already, see `DetectionBase`


class BareModel(DetectionModel, Side):
    """A network without heads. Use a family's."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        Side.post_init(self)

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **without_effect: Any,
    ) -> Any:
        """See `DetectionModel.forward`. Other keywords, such as `use_cache`, are taken and without effect, as in
        transformers."""
        output: Any = super().forward(
            pixel_values,
            pixel_mask,
            _of_queries(self, pixel_values, decoder_attention_mask),
            encoder_outputs,
            inputs_embeds,
            decoder_inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        return _returned(self, output, return_dict)


class Detector(ObjectDetectionModel, Side):
    """A network with heads for classes and boxes. Use a family's."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        Side.post_init(self)

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: list[dict[str, Any]] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        normalizers: LossNormalizers | None = None,
        **without_effect: Any,
    ) -> Any:
        """See `ObjectDetectionModel.forward`. Other keywords are taken and without effect, as in transformers."""
        own_loss, pixel_mask = _before_own_loss(self, pixel_values, pixel_mask, labels)
        output: Any = super().forward(
            pixel_values,
            pixel_mask,
            _of_queries(self, pixel_values, decoder_attention_mask),
            encoder_outputs,
            inputs_embeds,
            decoder_inputs_embeds,
            None if own_loss else labels,
            output_attentions,
            output_hidden_states,
            return_dict=True,
            normalizers=normalizers,
        )
        if own_loss:
            output = _with_loss(self, own_loss, output, labels)
        return _returned(self, output, return_dict)

    @property
    def loss_function(self) -> Any:
        """What computes the loss, called as transformers calls it; another can be set."""
        return self.__dict__.get("_loss_function") or detection_loss_of

    @loss_function.setter
    def loss_function(self, function: Any) -> None:
        self._loss_function = function


class Segmenter(SegmentationModel, Side):
    """A network with masks. Use a family's."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        Side.post_init(self)

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: list[dict[str, Any]] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        normalizers: LossNormalizers | None = None,
        mask_score_threshold: float | None = None,
        mask_limit: int | None = None,
        **without_effect: Any,
    ) -> Any:
        """See `SegmentationModel.forward`. Other keywords are taken and without effect, as in transformers."""
        own_loss, pixel_mask = _before_own_loss(self, pixel_values, pixel_mask, labels)
        output: Any = super().forward(
            pixel_values,
            pixel_mask,
            _of_queries(self, pixel_values, decoder_attention_mask),
            encoder_outputs,
            inputs_embeds,
            decoder_inputs_embeds,
            None if own_loss else labels,
            output_attentions,
            output_hidden_states,
            return_dict=True,
            normalizers=normalizers,
            mask_score_threshold=mask_score_threshold,
            mask_limit=mask_limit,
        )
        if own_loss:
            output = _with_loss(self, own_loss, output, labels)
        return _returned(self, output, return_dict)


def detection_loss_of(
    logits: Tensor,
    labels: list[dict[str, Any]],
    device: torch.device,
    pred_boxes: Tensor,
    config: Any,
    outputs_class: Tensor | None = None,
    outputs_coord: Tensor | None = None,
    **without_effect: Any,
) -> tuple[Tensor, dict[str, Tensor], list[dict[str, Tensor]] | None]:
    """`detection_loss`, called as transformers calls a model's `loss_function`.

    Args:
        logits, pred_boxes: of the last decoder layer, (B, Q, …).
        outputs_class, outputs_coord: of every layer, (L, B, Q, …), where the configuration asks for auxiliary losses.

    Returns:
        The loss, its parts by name, and what the earlier layers predict.
    """
    if outputs_class is None or outputs_coord is None:
        loss, parts = detection_loss(config, logits[None], pred_boxes[None], labels, None)
        return loss, parts, None
    loss, parts = detection_loss(config, outputs_class, outputs_coord, labels, None)
    earlier = zip(outputs_class[:-1], outputs_coord[:-1], strict=True)
    return loss, parts, [{"logits": a, "pred_boxes": b} for a, b in earlier]


def _of_queries(model: Any, pixel_values: Tensor, mask: Tensor | None) -> Tensor | None:
    """A `decoder_attention_mask` as the network takes it. transformers' Conditional DETR takes one of any shape and uses
    none; here one of the queries is used."""
    if mask is None or model.config.model_type != ConditionalDetrConfig.model_type:
        return mask
    if tuple(mask.shape) == (len(pixel_values), model.config.num_queries):
        return mask
    logger.warning_once(f"decoder_attention_mask of shape {tuple(mask.shape)} is not of the queries and not used")
    return None


def _before_own_loss(model: Any, pixel_values: Tensor, pixel_mask: Tensor | None, labels: Any) -> tuple[Any, Any]:
    """The loss function that a caller has set, None where it is the model's or not asked for; and the mask, which the
    network then cannot read off the labels itself."""
    own_loss = model.__dict__.get("_loss_function") if labels is not None else None
    return own_loss, mask_of_sizes(labels, pixel_values) if own_loss and pixel_mask is None else pixel_mask


def _with_loss(model: Any, function: Any, output: Any, labels: Any) -> dict[str, Any]:
    """An output with the loss of a function that a caller has set."""
    layers: Any = (None, None)
    if output.auxiliary_outputs is not None:
        of_all = [*output.auxiliary_outputs, {"logits": output.logits, "pred_boxes": output.pred_boxes}]
        layers = tuple(torch.stack([layer[name] for layer in of_all]) for name in ("logits", "pred_boxes"))
    masks = [output.pred_masks] if "pred_masks" in output else []
    loss, parts, _ = function(output.logits, labels, model.device, output.pred_boxes, *masks, model.config, *layers)
    return {"loss": loss, "loss_dict": parts, **output}


def _returned(model: Any, output: Any, return_dict: bool | None) -> Any:
    """What the network gives, as transformers' class, or as a tuple where the call or the configuration asks for it."""
    returned = model.output_class(**output)
    return returned if (model.config.return_dict if return_dict is None else return_dict) else returned.to_tuple()


class ConditionalDetrModel(BareModel):
    """Conditional DETR without its heads."""

    config_class: ClassVar[Any] = ConditionalDetrConfig
    weight_names = conditional_detr.NAMES
    encoder_class = layers.Encoder
    decoder_class = layers.ConditionalDetrDecoder
    output_class = ConditionalDetrModelOutput


class ConditionalDetrForObjectDetection(Detector):
    """Conditional DETR (arXiv 2108.06152). Logits are sigmoid scores over C classes."""

    config_class: ClassVar[Any] = ConditionalDetrConfig
    weight_names = conditional_detr.NAMES
    model_class = ConditionalDetrModel
    output_class = ConditionalDetrObjectDetectionOutput


class ConditionalDetrForSegmentation(Segmenter):
    """Conditional DETR with masks."""

    config_class: ClassVar[Any] = ConditionalDetrConfig
    weight_names = conditional_detr.NAMES
    detector_class = ConditionalDetrForObjectDetection
    output_class = ConditionalDetrSegmentationOutput


class DetrModel(BareModel):
    """DETR without its heads."""

    config_class: ClassVar[Any] = DetrConfig
    weight_names = detr.NAMES
    encoder_class = layers.Encoder
    decoder_class = layers.DetrDecoder
    output_class = DetrModelOutput


class DetrForObjectDetection(Detector):
    """DETR (arXiv 2005.12872). Logits are softmax scores over C classes and "no object", last."""

    config_class: ClassVar[Any] = DetrConfig
    weight_names = detr.NAMES
    model_class = DetrModel
    output_class = DetrObjectDetectionOutput


class DetrForSegmentation(Segmenter):
    """DETR with masks (arXiv 2005.12872, section 4.4)."""

    config_class: ClassVar[Any] = DetrConfig
    weight_names = detr.NAMES
    detector_class = DetrForObjectDetection
    output_class = DetrSegmentationOutput
