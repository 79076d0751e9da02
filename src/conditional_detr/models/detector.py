"""The detectors: backbone, encoder, decoder and heads put together, for both families in one frame."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints.pretrained import PretrainedModel
from ..config import WHOLE_NUMBERS, ConditionalDetrConfig, DetectionConfig, DetrConfig, Task
from ..losses.criterion import LossNormalizers, detection_loss
from ..precision import at_least_float32
from .attention import MLP
from .backbone import Backbone
from .decoder import Decoder, DecoderStates
from .encoder import Encoder
from .outputs import DetectionModelOutput, DetectionOutput
from .position import LearnedPositionEmbedding, sine_position_embedding, whole_sine_position_embedding

LAST_STAGE = 4  # timm's index of a ResNet's last stage, where transformers ends unless told otherwise
CLASS_PRIOR = 0.01  # share of queries that claim a class at the start of Conditional DETR's training


class DetectionBase(PretrainedModel):
    """What the bare model, the detector and the segmenter share.

    Attributes:
        canvas_step: prediction rounds the sides of its canvases up to multiples of it; see `deploy.compile_model`.
        recorded_shapes: of batches for which a GPU has recorded a graph; None where it records none.
        is_compiled: whether `compile_model` took effect.
    """

    canvas_step = 1
    recorded_shapes: set[tuple[Any, ...]] | None = None
    is_compiled = False

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def config_for_transformers(self) -> tuple[dict[str, Any], list[str]]:
        """`config.json` as transformers is to read it, and what it cannot express, each in a few words.

        A backbone that ends before a fifth stage is said by `backbone_config`, which transformers 5 reads and
        transformers 4 does not; any other by `backbone`, which both read.
        """
        values, config = self.config.to_dict(), self.config
        (backbone,) = (part for part in self.modules() if isinstance(part, Backbone))
        limit = backbone.not_in_transformers()
        limits = [limit] if limit else []
        limits += [
            f"{name} {values[name]} (it takes whole numbers)"
            for name in WHOLE_NUMBERS
            if name in values and not isinstance(values[name], int)
        ]
        if backbone.stage != LAST_STAGE:
            for name in ("backbone", "use_timm_backbone", "use_pretrained_backbone"):
                values.pop(name, None)
            values["backbone_config"] = {
                "model_type": "timm_backbone",
                "backbone": config.backbone,
                "num_channels": config.num_channels,
                "features_only": True,
                "use_pretrained_backbone": False,
                "out_indices": [backbone.stage],
                **({"output_stride": 16} if config.dilation else {}),
            }
        return values, limits

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Trade time for memory in training: keep only the inputs of blocks and layers, recompute the rest.

        Args:
            activation_checkpointing_kwargs: of `torch.utils.checkpoint`, for transformers' sake; without effect.
            every_n_layers, offload: as transformers has them; only their defaults are supported.

        Raises:
            ValueError: `every_n_layers` or `offload` is another.
        """
        if every_n_layers != 1 or offload:
            raise ValueError(
                "activation checkpointing here is of every layer, on the device: no every_n_layers, no offload"
            )
        self._set_gradient_checkpointing(True)

    def activation_checkpointing_disable(self) -> None:
        self._set_gradient_checkpointing(False)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """Older name of `activation_checkpointing_disable`."""
        self._set_gradient_checkpointing(False)

    @property
    def is_gradient_checkpointing(self) -> bool:
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def num_parameters(self, only_trainable: bool = False) -> int:
        """How many weights there are."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def _set_gradient_checkpointing(self, value: bool) -> None:
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = value  # type: ignore[assignment]


class Given(NamedTuple):
    """What a caller of `forward` brings along instead of having it computed."""

    encoded: list[Tensor] | None = None  # the encoder's states, the memory last, each (B, M, d)
    encoder_attentions: list[Tensor] = []
    content: Tensor | None = None  # (B, Q, d)
    query_mask: Tensor | None = None  # (B, Q)

    @classmethod
    def of(
        cls, query_mask: Tensor | None, encoder_outputs: Any, inputs_embeds: Tensor | None, content: Tensor | None
    ) -> Given:
        """Read the arguments of `DetectionModel.forward`."""
        if inputs_embeds is not None:
            raise ValueError("inputs_embeds is not supported: its cells have no height and width; give encoder_outputs")
        if encoder_outputs is None:
            return cls(content=content, query_mask=query_mask)
        if isinstance(encoder_outputs, tuple | list):
            memory, hidden_states, attentions = (*encoder_outputs, None, None)[:3]
        else:
            names = ("last_hidden_state", "hidden_states", "attentions")
            memory, hidden_states, attentions = (getattr(encoder_outputs, name, None) for name in names)
        return cls([*(hidden_states or ())[:-1], memory], list(attentions or ()), content, query_mask)


class States(NamedTuple):
    """What `DetectionModel.states` computes. B images, M cells, d channels."""

    encoded: list[Tensor]  # the encoder's states, the memory last, each (B, M, d)
    encoder_attentions: list[Tensor]
    decoded: DecoderStates
    features: list[Tensor]  # of the backbone's stages, (B, C, h, w); the last one's alone unless all were asked for
    projected: Tensor  # (B, d, h, w): the last stage's, as they enter the encoder
    real: Tensor | None  # (B, H, W) bool, True where a pixel belongs to the image; None where nothing is padded


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
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None,
        all_layers: bool,
        need_weights: bool = False,
        given: Given | None = None,
        all_stages: bool = False,
    ) -> States:
        """Pixels to the decoder's states, and what was computed on the way; see `Encoder.forward`, `DecoderStates`.

        Args:
            pixel_values, pixel_mask: see `forward`.
            all_layers: every decoder layer's states, for auxiliary losses.
            need_weights: attention weights too.
            all_stages: every stage's features too, for masks.
        """
        given = given or Given()
        real = None if pixel_mask is None else pixel_mask.bool()
        # Without padding there is no mask arithmetic at all. Looking is free on the CPU only: elsewhere it would wait
        # for the device, so there the caller says so by passing None.
        if real is not None and real.device.type == "cpu" and not torch.compiler.is_compiling() and bool(real.all()):
            real = None
        features = self.backbone(pixel_values, real, all_stages)
        stride = self.backbone.stride
        real_cells = None if real is None else real[:, ::stride, ::stride]
        projected = self.input_projection(features[-1])  # (B, d, h, w)
        height, width = projected.shape[-2:]
        if self.config.position_embedding_type == "learned":
            position = self.position_embedding(height, width)
        elif real_cells is None and not torch.compiler.is_compiling():
            position = whole_sine_position_embedding(height, width, self.config.d_model, projected.device)
        else:
            cells = real_cells
            if cells is None:
                cells = torch.ones(1, height, width, dtype=torch.bool, device=projected.device)
            position = sine_position_embedding(cells, self.config.d_model)
        tokens, position = projected.flatten(2).transpose(1, 2), position.to(projected.dtype)
        key_mask = None if real_cells is None else real_cells.flatten(1)[:, None, None]  # (B, 1, 1, M)
        if given.encoded is None:
            encoded, encoder_attentions = self.encoder(tokens, position, key_mask, need_weights)
        else:
            encoded, encoder_attentions = given.encoded, given.encoder_attentions
            if encoded[-1].shape != tokens.shape:
                raise ValueError(
                    f"encoder_outputs of shape {tuple(encoded[-1].shape)} are not of these pixel_values, "
                    f"which have {tuple(tokens.shape)}"
                )
        queries = self.query_position_embeddings.weight
        for what, value, shape in (
            ("decoder_inputs_embeds", given.content, (len(tokens), *queries.shape)),
            ("decoder_attention_mask", given.query_mask, (len(tokens), len(queries))),
        ):
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{what} must have the shape {shape}, got {tuple(value.shape)}")
        query_mask = None if given.query_mask is None else given.query_mask.bool()[:, None, None]  # (B, 1, 1, Q)
        decoded = self.decoder(
            queries, encoded[-1], position, key_mask, all_layers, need_weights, given.content, query_mask
        )
        return States(encoded, encoder_attentions, decoded, features, projected, real)

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
    ) -> DetectionModelOutput | tuple[Any, ...]:
        """Compute features of the queries.

        Args:
            pixel_values: (B, 3, H, W) float, normalised; images at the top left of the canvas.
            pixel_mask: (B, H, W), nonzero where a pixel belongs to the image; None if all do.
            decoder_attention_mask: (B, Q), nonzero for queries that the others may attend to; None if all are.
            encoder_outputs: the encoder's (last_hidden_state (B, M, d), hidden_states, attentions), a tuple or an
                object with these names, to be used in place of computing them.
            inputs_embeds: must be None: cells of the feature map without the map's height and width have no place.
            decoder_inputs_embeds: (B, Q, d), the queries' content before the first layer; None for zeros.
            output_attentions, output_hidden_states, return_dict: None does as the configuration says. `return_dict`
                False returns a tuple.

        Raises:
            ValueError: an argument of the wrong shape, or `inputs_embeds`.
        """
        attentions, hidden_states, as_dict = wanted(self.config, output_attentions, output_hidden_states, return_dict)
        given = Given.of(decoder_attention_mask, encoder_outputs, inputs_embeds, decoder_inputs_embeds)
        auxiliary = self.config.auxiliary_loss
        states = self.states(pixel_values, pixel_mask, auxiliary, attentions, given)
        decoded = states.decoded
        output = DetectionModelOutput(
            last_hidden_state=decoded.normed[-1],
            **_introspection(states, attentions, hidden_states),
        )
        if auxiliary:
            output["intermediate_hidden_states"] = decoded.normed
        if decoded.reference is not None:
            output["reference_points"] = decoded.reference.sigmoid().transpose(0, 1).expand(-1, len(pixel_values), -1)
        return output if as_dict else output.to_tuple()


class DetectionHead(DetectionBase):
    """A detector: the model and its two heads. Use `ConditionalDetrForObjectDetection` or `DetrForObjectDetection`."""

    task: Task = "detection"

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

    def unfreeze_backbone(self) -> None:
        self.model.unfreeze_backbone()

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile everything but heads and loss (which waits for the host to match) with `torch.compile`."""
        self.model.states = torch.compile(self.model.states, *args, **options)  # type: ignore[method-assign]

    def predict_from(self, normed: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        """The heads: (…, B, Q, d) to logits (…, B, Q, C) and boxes (…, B, Q, 4) cxcywh, relative.

        Conditional DETR adds the reference point, through sigmoid and inverse sigmoid as the original does, to the
        centre before the sigmoid. Boxes are computed in float32 at least.
        """
        normed = normed.to(self.class_labels_classifier.weight.dtype)
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
        """Detect; with labels, also compute the loss. Predictions depend neither on labels nor on `auxiliary_loss`.

        Args:
            pixel_values: (B, 3, H, W) float, normalised; images at the top left of the canvas.
            pixel_mask: (B, H, W), nonzero where a pixel belongs to the image; None if all do.
            labels: B dicts with `class_labels` (n,) in 0…C-1 and `boxes` (n, 4) cxcywh, relative to the image.
            normalizers: see `detection_loss`; None takes this batch's.

        The other arguments are those of `DetectionModel.forward`.

        Raises:
            ValueError: labels that are not one dict with these keys an image.
        """
        if labels is not None:
            check_labels(labels, len(pixel_values), ("class_labels", "boxes"))
        attentions, hidden_states, as_dict = wanted(self.config, output_attentions, output_hidden_states, return_dict)
        given = Given.of(decoder_attention_mask, encoder_outputs, inputs_embeds, decoder_inputs_embeds)
        auxiliary = self.config.auxiliary_loss
        states = self.model.states(pixel_values, pixel_mask, auxiliary, attentions, given)
        logits, boxes = self.predict_from(states.decoded.normed, states.decoded.reference)  # (L or 1, B, Q, …)
        output = DetectionOutput()
        if labels is not None:
            loss, loss_dict = detection_loss(self.config, logits, boxes, labels, normalizers)
            output.update(loss=loss, loss_dict=loss_dict)
        output.update(logits=logits[-1], pred_boxes=boxes[-1])
        output.update(rest_of_output(states, logits, boxes, auxiliary, attentions, hidden_states))
        return output if as_dict else output.to_tuple()


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


def check_labels(labels: list[dict[str, Any]], images: int, names: tuple[str, ...]) -> None:
    """Raises ValueError unless `labels` is one dict with these keys for each image."""
    if len(labels) != images:
        raise ValueError(f"{len(labels)} labels for {images} images")
    for i, label in enumerate(labels):
        missing = [name for name in names if name not in label]
        if missing:
            raise ValueError(f"labels[{i}] lacks {' and '.join(missing)}")


def wanted(
    config: DetectionConfig, attentions: bool | None, hidden_states: bool | None, as_dict: bool | None
) -> tuple[bool, bool, bool]:
    """What to return, as the call says or else the configuration."""
    return (
        config.output_attentions if attentions is None else attentions,
        config.output_hidden_states if hidden_states is None else hidden_states,
        config.return_dict if as_dict is None else as_dict,
    )


def rest_of_output(
    states: States, logits: Tensor, boxes: Tensor, auxiliary: bool, output_attentions: bool, output_hidden_states: bool
) -> dict[str, Any]:
    """The output fields that come after the predictions, in transformers' order. logits, boxes: of all layers."""
    fields: dict[str, Any] = {}
    if auxiliary:
        earlier = zip(logits[:-1], boxes[:-1], strict=True)
        fields["auxiliary_outputs"] = [{"logits": a, "pred_boxes": b} for a, b in earlier]
    fields["last_hidden_state"] = states.decoded.normed[-1]
    return fields | _introspection(states, output_attentions, output_hidden_states)


def _introspection(states: States, output_attentions: bool, output_hidden_states: bool) -> dict[str, Any]:
    """The output fields about the inside of the model that the caller asked for, in transformers' order."""
    fields: dict[str, Any] = {}
    encoded, decoded = states.encoded, states.decoded
    if output_hidden_states:
        fields["decoder_hidden_states"] = (*decoded.raw[:-1], decoded.normed[-1])
    if output_attentions:
        fields["decoder_attentions"] = tuple(decoded.self_attentions)
        fields["cross_attentions"] = tuple(decoded.cross_attentions)
    fields["encoder_last_hidden_state"] = encoded[-1]
    if output_hidden_states:
        fields["encoder_hidden_states"] = tuple(encoded)
    if output_attentions:
        fields["encoder_attentions"] = tuple(states.encoder_attentions)
    return fields


def _initialise_transformer(model: DetectionModel) -> None:
    """Xavier-uniform matrices, as the originals start.

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
