"""The model without heads: backbone, encoder and decoder put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..config import DetectionConfig
from .attention import Attention
from .backbone import Backbone
from .decoder import Decoder, DecoderStates
from .encoder import Encoder
from .outputs import DetectionModelOutput
from .position import LearnedPositionEmbedding, sine_position_embedding, whole_sine_position_embedding
from .pretrained import PretrainedModel

# Loading, saving and what comes with them is of the class that completes a model: `PretrainedModel` here, transformers'
# `PreTrainedModel` in its room. Both have what the rest of the package calls.
if TYPE_CHECKING:
    Base = PretrainedModel
else:
    Base = nn.Module


class DetectionBase(Base):
    """What the bare model, the detector and the segmenter share: the network, without loading and saving.

    Attributes:
        canvas_step: prediction rounds the sides of its canvases up to multiples of it; see `deploy.compile_model`.
        recorded_shapes: of batches for which a GPU has recorded a graph; None where it records none.
        is_compiled: whether `compile_model` took effect.
    """

    canvas_step = 1
    recorded_shapes: set[tuple[Any, ...]] | None = None
    is_compiled = False


class PrecomputedInputs(NamedTuple):
    """What a caller of `forward` brings along instead of having it computed."""

    encoded: list[Tensor] | None = None  # the encoder's states, the memory last, each (B, M, d)
    encoder_attentions: list[Tensor] = []
    content: Tensor | None = None  # (B, Q, d)
    query_mask: Tensor | None = None  # (B, Q)

    @classmethod
    def of(
        cls, query_mask: Tensor | None, encoder_outputs: Any, inputs_embeds: Tensor | None, content: Tensor | None
    ) -> PrecomputedInputs:
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
    pixel_mask: Tensor | None  # (B, H, W) bool, True where a pixel belongs to the image; None where nothing is padded

    def of_first_group(self) -> States:
        """The states as prediction has them, without the groups of queries that training adds."""
        return self._replace(decoded=self.decoded.of_first_group())


class DetectionModel(DetectionBase):
    """Backbone, encoder and decoder. Use a family's, such as `ConditionalDetrModel`.

    Attributes:
        encoder_class: the same for all families.
        decoder_class: the family's.
    """

    part = "model"
    encoder_class: ClassVar[type[Encoder]] = Encoder
    decoder_class: ClassVar[type[Decoder]]

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        config = self.fields
        self.backbone = Backbone(config)
        self.input_projection = nn.Conv2d(self.backbone.channels[-1], config.d_model, 1)
        self.query_position_embeddings = nn.Embedding(config.num_queries, config.d_model)
        if config.position_embedding_type == "learned":
            self.position_embedding = LearnedPositionEmbedding(config.d_model)
        self.encoder = self.encoder_class(config)
        self.decoder = self.decoder_class(config)
        _initialise(self.encoder)
        _initialise(self.decoder)
        if config.query_groups > 1:
            further = (config.query_groups - 1) * config.num_queries
            self.further_query_groups = nn.Embedding(
                further, config.d_model
            )  # of training alone, and of its checkpoints

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
        precomputed: PrecomputedInputs | None = None,
        all_stages: bool = False,
    ) -> States:
        """Pixels to the decoder's states, and what was computed on the way; see `Encoder.forward`, `DecoderStates`. In
        training they are those of all groups of queries, else of the first.

        Args:
            pixel_values, pixel_mask: see `forward`.
            all_layers: every decoder layer's states, for auxiliary losses.
            need_weights: attention weights too.
            precomputed: what is not to be computed.
            all_stages: every stage's features too, for masks.
        """
        precomputed = precomputed or PrecomputedInputs()
        if pixel_mask is not None:
            pixel_mask = pixel_mask.bool()
        # Without padding there is no mask arithmetic at all. Looking is free on the CPU only: elsewhere it would wait
        # for the device, so there the caller says so by passing None.
        on_cpu = pixel_mask is not None and pixel_mask.device.type == "cpu"
        if pixel_mask is not None and on_cpu and not torch.compiler.is_compiling() and bool(pixel_mask.all()):
            pixel_mask = None
        features = self.backbone(pixel_values, pixel_mask, all_stages)
        stride = self.backbone.stride
        cell_mask = None if pixel_mask is None else pixel_mask[:, ::stride, ::stride]
        projected = self.input_projection(features[-1])  # (B, d, h, w)
        tokens = projected.flatten(2).transpose(1, 2)
        position = self._position(projected, cell_mask).to(projected.dtype)
        key_mask = None if cell_mask is None else cell_mask.flatten(1)[:, None, None]  # (B, 1, 1, M)
        if precomputed.encoded is None:
            encoded, encoder_attentions = self.encoder(tokens, position, key_mask, need_weights)
        else:
            encoded, encoder_attentions = precomputed.encoded, precomputed.encoder_attentions
            if encoded[-1].shape != tokens.shape:
                raise ValueError(
                    f"encoder_outputs of shape {tuple(encoded[-1].shape)} are not of these pixel_values, "
                    f"which have {tuple(tokens.shape)}"
                )
        queries, content, query_mask = (
            self.query_position_embeddings.weight,
            precomputed.content,
            precomputed.query_mask,
        )
        for what, value, shape in (
            ("decoder_inputs_embeds", content, (tokens.shape[0], *queries.shape)),
            ("decoder_attention_mask", query_mask, (tokens.shape[0], queries.shape[0])),
        ):
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{what} must have the shape {shape}, got {tuple(value.shape)}")
        if query_mask is not None:
            query_mask = query_mask.bool()[:, None, None]  # (B, 1, 1, Q)
        groups = self.config.query_groups if self.training else 1
        if groups > 1:
            queries = torch.cat((queries, self.further_query_groups.weight))
        decoded = self.decoder(
            queries, encoded[-1], position, key_mask, all_layers, need_weights, content, query_mask, groups
        )
        return States(encoded, encoder_attentions, decoded, features, projected, pixel_mask)

    def _position(self, projected: Tensor, cell_mask: Tensor | None) -> Tensor:
        """Where the cells of (B, d, h, w) are. (B or 1, h·w, d)"""
        height, width = projected.shape[-2:]
        if self.config.position_embedding_type == "learned":
            return self.position_embedding(height, width)
        if cell_mask is None and not torch.compiler.is_compiling():
            return whole_sine_position_embedding(height, width, self.config.d_model, projected.device)
        if cell_mask is None:
            cell_mask = torch.ones(1, height, width, dtype=torch.bool, device=projected.device)
        return sine_position_embedding(cell_mask, self.config.d_model)

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
        attentions, hidden_states, as_dict = output_options(
            self.config, output_attentions, output_hidden_states, return_dict
        )
        precomputed = PrecomputedInputs.of(
            decoder_attention_mask, encoder_outputs, inputs_embeds, decoder_inputs_embeds
        )
        auxiliary = self.config.auxiliary_loss
        states = self.states(pixel_values, pixel_mask, auxiliary, attentions, precomputed).of_first_group()
        decoded = states.decoded
        output = DetectionModelOutput(
            last_hidden_state=decoded.normed[-1],
            **introspection(states, attentions, hidden_states),
        )
        if auxiliary:
            output["intermediate_hidden_states"] = decoded.normed
        if decoded.reference is not None:
            output["reference_points"] = decoded.reference.sigmoid().transpose(0, 1).expand(-1, len(pixel_values), -1)
        return output if as_dict else output.to_tuple()


def output_options(
    config: DetectionConfig, attentions: bool | None, hidden_states: bool | None, as_dict: bool | None
) -> tuple[bool, bool, bool]:
    """Whether to return attention weights, hidden states and a dict, as the call says or else the configuration."""
    return (
        config.output_attentions if attentions is None else attentions,
        config.output_hidden_states if hidden_states is None else hidden_states,
        config.return_dict if as_dict is None else as_dict,
    )


def introspection(states: States, output_attentions: bool, output_hidden_states: bool) -> dict[str, Any]:
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


def _initialise(part: Encoder | Decoder) -> None:
    """Xavier-uniform matrices, as the originals start.

    `Attention` is PyTorch's in the originals, which packs q, k and v into one (3d, d) matrix: the bound is that of the
    packed shape, a gain of 1/√2 for each of the three, and their biases are zero. Output projections of attention have
    their bias at zero everywhere.
    """
    packed = {
        parameter
        for attention in part.modules()
        if isinstance(attention, Attention)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        for parameter in projection.parameters()
    }
    for name, parameter in part.named_parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter, gain=2**-0.5 if parameter in packed else 1.0)
        elif name.endswith("o_proj.bias") or parameter in packed:
            nn.init.zeros_(parameter)
