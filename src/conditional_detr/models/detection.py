"""The detectors: backbone, encoder, decoder and heads put together, for both families in one frame."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.pretrained import PretrainedModel
from ..config import ConditionalDetrConfig, DetectionConfig, DetrConfig
from ..losses.criterion import LossNormalizers, detection_loss
from .attention import MLP
from .backbone import Backbone
from .decoder import Decoder, DecoderStates
from .encoder import Encoder
from .outputs import DetectionModelOutput, DetectionOutput
from .position import LearnedPositionEmbedding, sine_position_embedding

CLASS_PRIOR = 0.01  # share of queries that claim a class at the start of Conditional DETR's training


class DetectionBase(PretrainedModel):
    """What the bare model, the detector and the segmenter share."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Trade time for memory in training: keep only the inputs of blocks and layers, recompute the rest."""
        self._set_gradient_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        self._set_gradient_checkpointing(False)

    def _set_gradient_checkpointing(self, value: bool) -> None:
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = value  # type: ignore[assignment]


class DetectionModel(DetectionBase):
    """Backbone, encoder and decoder. Use `ConditionalDetrModel` or `DetrModel`."""

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.backbone = Backbone(config)
        self.input_projection = nn.Conv2d(self.backbone.channels[-1], config.d_model, 1)
        self.query_position_embeddings = nn.Embedding(config.num_queries, config.d_model)
        if config.position_embedding_type == "learned":
            self.position_embedding = LearnedPositionEmbedding(config.d_model)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        _initialise_transformer(self)

    def freeze_backbone(self) -> None:
        self.backbone.requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        self.backbone.requires_grad_(True)

    def states(
        self, pixel_values: Tensor, pixel_mask: Tensor | None, all_layers: bool, need_weights: bool = False
    ) -> tuple[list[Tensor], list[Tensor], DecoderStates]:
        """Encoder states, encoder attentions and decoder states; see `Encoder.forward` and `DecoderStates`."""
        real = None if pixel_mask is None else pixel_mask.bool()
        # Without padding there is no mask arithmetic at all. Looking is free on the CPU only: elsewhere it would wait
        # for the device, so there the caller says so by passing None.
        if real is not None and real.device.type == "cpu" and not torch.compiler.is_compiling() and bool(real.all()):
            real = None
        features = self.backbone(pixel_values, real)[-1]
        if real is not None:
            stride = self.backbone.stride
            real = real[:, ::stride, ::stride]
        tokens = self.input_projection(features)  # (B, d, h, w)
        height, width = tokens.shape[-2:]
        if self.config.position_embedding_type == "learned":
            position = self.position_embedding(height, width)
        else:
            cells = real if real is not None else torch.ones(1, height, width, dtype=torch.bool, device=tokens.device)
            position = sine_position_embedding(cells, self.config.d_model)
        tokens, position = tokens.flatten(2).transpose(1, 2), position.to(tokens.dtype)
        key_mask = None if real is None else real.flatten(1)[:, None, None]  # (B, 1, 1, M)
        encoded, encoder_attentions = self.encoder(tokens, position, key_mask, need_weights)
        queries = self.query_position_embeddings.weight
        decoded = self.decoder(queries, encoded[-1], position, key_mask, all_layers, need_weights)
        return encoded, encoder_attentions, decoded

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> DetectionModelOutput | tuple[Any, ...]:
        """Compute features of the queries.

        Args:
            pixel_values: (B, 3, H, W) float, normalised; images at the top left of the canvas.
            pixel_mask: (B, H, W), nonzero where a pixel belongs to the image; None if all do.
            return_dict: False returns a tuple.
        """
        encoded, encoder_attentions, decoded = self.states(
            pixel_values, pixel_mask, self.config.auxiliary_loss, output_attentions
        )
        output = DetectionModelOutput(
            last_hidden_state=decoded.normed[-1],
            **_introspection(encoded, encoder_attentions, decoded, output_attentions, output_hidden_states),
        )
        if self.config.auxiliary_loss:
            output["intermediate_hidden_states"] = decoded.normed
        if decoded.reference is not None:
            output["reference_points"] = decoded.reference.sigmoid().expand(len(pixel_values), -1, -1)
        return output if return_dict else output.to_tuple()


class DetectionHead(DetectionBase):
    """A detector: the model and its two heads. Use `ConditionalDetrForObjectDetection` or `DetrForObjectDetection`."""

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.model = DetectionModel(config)
        conditional = config.model_type == "conditional_detr"
        self.class_labels_classifier = nn.Linear(config.d_model, config.num_labels + (0 if conditional else 1))
        self.bbox_predictor = MLP(config.d_model, config.d_model, 4, 3)
        if conditional:
            nn.init.constant_(self.class_labels_classifier.bias, -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
            for parameter in self.bbox_predictor.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def freeze_backbone(self) -> None:
        self.model.freeze_backbone()

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile everything but heads and loss (which waits for the host to match) with `torch.compile`."""
        self.model.states = torch.compile(self.model.states, *args, **options)  # type: ignore[method-assign]

    def predict_from(self, normed: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        """The heads: (…, B, Q, d) to logits (…, B, Q, C) and boxes (…, B, Q, 4) cxcywh, relative.

        Conditional DETR adds the reference point, through sigmoid and inverse sigmoid as the original does, to the
        centre before the sigmoid. Boxes are computed in float32.
        """
        logits = self.class_labels_classifier(normed)
        offsets = self.bbox_predictor(normed).float()
        if reference is not None:
            point = inverse_sigmoid(reference.float().sigmoid())
            offsets = offsets + torch.cat((point, torch.zeros_like(point)), dim=-1)
        return logits, offsets.sigmoid()

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        labels: list[dict[str, Any]] | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        normalizers: LossNormalizers | None = None,
    ) -> DetectionOutput | tuple[Any, ...]:
        """Detect; with labels, also compute the loss. Predictions depend neither on labels nor on `auxiliary_loss`.

        Args:
            pixel_values: (B, 3, H, W) float, normalised; images at the top left of the canvas.
            pixel_mask: (B, H, W), nonzero where a pixel belongs to the image; None if all do.
            labels: B dicts with `class_labels` (n,) in 0…C-1 and `boxes` (n, 4) cxcywh, relative to the image.
            return_dict: False returns a tuple.
            normalizers: see `detection_loss`; None takes this batch's.
        """
        auxiliary = self.config.auxiliary_loss
        encoded, encoder_attentions, decoded = self.model.states(pixel_values, pixel_mask, auxiliary, output_attentions)
        logits, boxes = self.predict_from(decoded.normed, decoded.reference)  # (L or 1, B, Q, …)
        output = DetectionOutput()
        if labels is not None:
            loss, loss_dict = detection_loss(self.config, logits, boxes, labels, normalizers)
            output.update(loss=loss, loss_dict=loss_dict)
        output.update(logits=logits[-1], pred_boxes=boxes[-1])
        if auxiliary:
            output["auxiliary_outputs"] = [
                {"logits": a, "pred_boxes": b} for a, b in zip(logits[:-1], boxes[:-1], strict=True)
            ]
        output.update(
            last_hidden_state=decoded.normed[-1],
            **_introspection(encoded, encoder_attentions, decoded, output_attentions, output_hidden_states),
        )
        return output if return_dict else output.to_tuple()


class ConditionalDetrModel(DetectionModel):
    """Conditional DETR without its heads; see `forward`."""

    config_class = ConditionalDetrConfig


class DetrModel(DetectionModel):
    """DETR without its heads; see `forward`."""

    config_class = DetrConfig


class ConditionalDetrForObjectDetection(DetectionHead):
    """Conditional DETR (arXiv 2108.06152). Logits are sigmoid scores over C classes; see `forward`."""

    config_class = ConditionalDetrConfig


class DetrForObjectDetection(DetectionHead):
    """DETR (arXiv 2005.12872). Logits are softmax scores over C classes and "no object", last; see `forward`."""

    config_class = DetrConfig


DETECTORS: dict[str, type[DetectionHead]] = {
    c.config_class.model_type: c for c in (ConditionalDetrForObjectDetection, DetrForObjectDetection)
}


def inverse_sigmoid(p: Tensor, eps: float = 1e-5) -> Tensor:
    """log(p / (1 - p)), with both clamped at `eps`."""
    p = p.clamp(0, 1)
    return torch.log(p.clamp(min=eps) / (1 - p).clamp(min=eps))


def _introspection(
    encoded: list[Tensor],
    encoder_attentions: list[Tensor],
    decoded: DecoderStates,
    output_attentions: bool,
    output_hidden_states: bool,
) -> dict[str, Any]:
    """The output fields about the inside of the model that the caller asked for, in transformers' order."""
    fields: dict[str, Any] = {}
    if output_hidden_states:
        fields["decoder_hidden_states"] = tuple(decoded.raw)
    if output_attentions:
        fields["decoder_attentions"] = tuple(decoded.self_attentions)
        fields["cross_attentions"] = tuple(decoded.cross_attentions)
    fields["encoder_last_hidden_state"] = encoded[-1]
    if output_hidden_states:
        fields["encoder_hidden_states"] = tuple(encoded)
    if output_attentions:
        fields["encoder_attentions"] = tuple(encoder_attentions)
    return fields


def _initialise_transformer(model: DetectionModel) -> None:
    """Xavier-uniform matrices, as the originals start (docs: model facts, "Shared by both").

    Where the originals pack q, k and v into one (3d, d) matrix, the bound is that of the packed shape: a gain of 1/√2
    for each part, and biases at zero. Output projections of attention have their bias at zero everywhere.
    """
    packed_families = {"encoder"} if model.config.model_type == "conditional_detr" else {"encoder", "decoder"}
    for part in ("encoder", "decoder"):
        for name, parameter in getattr(model, part).named_parameters():
            in_packed = part in packed_families and name.split(".")[-2] in ("q_proj", "k_proj", "v_proj")
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter, gain=2**-0.5 if in_packed else 1.0)
            elif name.endswith("o_proj.bias") or (in_packed and name.endswith(".bias")):
                nn.init.zeros_(parameter)
