"""The detector: the model and its heads for classes and boxes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config import DetectionConfig, Task
from ..losses.criterion import LossNormalizers, detection_loss
from ..precision import at_least_float32
from .attention import MLP
from .detection_model import DetectionBase, DetectionModel, PrecomputedInputs, States, introspection, output_options
from .labels import check_labels, mask_of_sizes
from .outputs import DetectionOutput


class ObjectDetectionModel(DetectionBase):
    """A detector: the model and its two heads. Use a family's, such as `ConditionalDetrForObjectDetection`.

    Attributes:
        model_class: the family's.
        task: what it is for.
    """

    part = "detector"
    model_class: ClassVar[type[DetectionModel]]
    task: Task = "detection"

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.model = self.model_class(self.config)
        config = self.fields
        self.class_labels_classifier = nn.Linear(config.d_model, config.classes.outputs(config.num_labels))
        self.bbox_predictor = MLP(config.d_model, config.d_model, 4, 3)
        if config.classes.initial_bias is not None:
            nn.init.constant_(self.class_labels_classifier.bias, config.classes.initial_bias)
        if self.model.decoder.has_reference_points:  # boxes start around them
            for parameter in self.bbox_predictor.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def freeze_backbone(self) -> None:
        self.model.freeze_backbone()

    def unfreeze_backbone(self) -> None:
        self.model.unfreeze_backbone()

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile everything but heads and loss (which waits for the host to match) with `torch.compile`."""
        self.model.states = torch.compile(self.model.states, *args, **options)  # type: ignore[method-assign]

    def predict_from(self, normed: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        """The heads: (…, B, Q, d) to logits (…, B, Q, C) and boxes (…, B, Q, 4) cxcywh, relative.

        The reference point, in families that have one, is added to the centre before the sigmoid, through sigmoid and
        inverse sigmoid as Conditional DETR's original does. Boxes are computed in float32 at least.
        """
        normed = normed.to(
            self.model.query_position_embeddings.weight.dtype
        )  # the heads' too, whatever they are made of
        logits = self.class_labels_classifier(normed)
        offsets = at_least_float32(self.bbox_predictor(normed))
        if reference is not None:
            point = inverse_sigmoid(at_least_float32(reference).sigmoid())
            offsets = offsets + torch.cat((point, torch.zeros_like(point)), dim=-1)
        return logits, offsets.sigmoid()

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
    ) -> DetectionOutput | tuple[Any, ...]:
        """Detect; with labels, also compute the loss. Predictions depend neither on labels, but for a mask that is not
        given, nor on `auxiliary_loss`. With `query_groups`, the loss in training is the mean of the groups'; all else is of the first group.

        Args:
            pixel_values: (B, 3, H, W) float, normalised; images at the top left of the canvas.
            pixel_mask: (B, H, W), nonzero where a pixel belongs to the image; None if all do, or as far as the labels'
                `size` says.
            labels: B dicts with `class_labels` (n,) in 0…C-1 and `boxes` (n, 4) cxcywh, relative to the image; `size`
                matters where there is no mask, see `mask_of_sizes`.
            normalizers: see `detection_loss`; None takes this batch's.

        The other arguments are those of `DetectionModel.forward`.

        Raises:
            ValueError: labels that are not one dict with these keys an image, or have a size larger than the canvas.
        """
        if labels is not None:
            check_labels(labels, len(pixel_values), ("class_labels", "boxes"))
            if pixel_mask is None:
                pixel_mask = mask_of_sizes(labels, pixel_values)
        attentions, hidden_states, as_dict = output_options(
            self.config, output_attentions, output_hidden_states, return_dict
        )
        precomputed = PrecomputedInputs.of(
            decoder_attention_mask, encoder_outputs, inputs_embeds, decoder_inputs_embeds
        )
        auxiliary = self.config.auxiliary_loss
        states = self.model.states(pixel_values, pixel_mask, auxiliary, attentions, precomputed)
        logits, boxes = self.predict_from(states.decoded.normed, states.decoded.reference)  # (L or 1, B, groups · Q, …)
        output = DetectionOutput()
        if labels is not None:
            groups = states.decoded.groups
            loss, loss_dict = detection_loss(self.config, logits, boxes, labels, normalizers, groups=groups)
            output.update(loss=loss, loss_dict=loss_dict)
        states, logits, boxes = first_group(states, logits, boxes)
        output.update(logits=logits[-1], pred_boxes=boxes[-1])
        output.update(rest_of_output(states, logits, boxes, auxiliary, attentions, hidden_states))
        return output if as_dict else output.to_tuple()


def first_group(states: States, logits: Tensor, boxes: Tensor) -> tuple[States, Tensor, Tensor]:
    """What prediction has of states, logits (L, B, groups · Q, …) and boxes (L, B, groups · Q, 4)."""
    states = states.of_first_group()
    queries = states.decoded.normed.shape[2]
    return states, logits[:, :, :queries], boxes[:, :, :queries]


def inverse_sigmoid(p: Tensor, eps: float = 1e-5) -> Tensor:
    """log(p / (1 - p)), with both clamped at `eps`."""
    p = p.clamp(0, 1)
    return torch.log(p.clamp(min=eps) / (1 - p).clamp(min=eps))


def rest_of_output(
    states: States, logits: Tensor, boxes: Tensor, auxiliary: bool, output_attentions: bool, output_hidden_states: bool
) -> dict[str, Any]:
    """The output fields that come after the predictions, in transformers' order. logits, boxes: of all layers."""
    fields: dict[str, Any] = {}
    if auxiliary:
        earlier = zip(logits[:-1], boxes[:-1], strict=True)
        fields["auxiliary_outputs"] = [{"logits": a, "pred_boxes": b} for a, b in earlier]
    fields["last_hidden_state"] = states.decoded.normed[-1]
    return fields | introspection(states, output_attentions, output_hidden_states)
