"""Segmentation: a detector with a mask for each query, computed for the queries that matter."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from ..config import DetectionConfig, Task
from ..losses.criterion import LossNormalizers, detection_loss, match_labels, normalizers_of_all_processes
from ..losses.mask_losses import MASK_STRIDE, mask_losses
from ..losses.matcher import to_device
from ..precision import at_least_float32
from .detection_model import DetectionBase, PrecomputedInputs, States, output_options
from .detector import ObjectDetectionModel, first_group, rest_of_output
from .labels import check_labels, mask_of_sizes
from .mask_head import GROUPS, MaskAttention, MaskHead
from .outputs import SegmentationOutput


class SegmentationModel(DetectionBase):
    """A detector and its mask head. Use a family's, such as `ConditionalDetrForSegmentation`.

    The detector is the submodule that transformers calls by the model type, `conditional_detr` or `detr`; see `detector`.

    Attributes:
        detector_class: the family's.
        detector_is_frozen: whether the mask head alone is trained; see `freeze_detector`.

    Raises:
        ValueError: the backbone is no plain ResNet, whose stages the mask head needs, or a width it cannot halve.
    """

    part = "segmenter"
    detector_class: ClassVar[type[ObjectDetectionModel]]

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.add_module(config.model_type, self.detector_class(self.config))
        config = self.fields
        backbone = self.detector.model.backbone
        if not backbone.is_plain_resnet:
            raise ValueError(f"masks need the stages of a ResNet; backbone {config.backbone!r} is another network")
        self.mask_head = MaskHead(config, backbone.channels, backbone.stride)
        self.bbox_attention = MaskAttention(config)
        self.detector_is_frozen = False

    @property
    def task(self) -> Task:
        """ "panoptic" where the configuration's `is_thing` says which classes are things, else "instance"."""
        return "instance" if self.config.is_thing is None else "panoptic"

    @property
    def detector(self) -> ObjectDetectionModel:
        detector: ObjectDetectionModel = getattr(self, self.config.model_type)
        return detector

    def freeze_backbone(self) -> None:
        self.detector.freeze_backbone()

    def unfreeze_backbone(self) -> None:
        self.detector.unfreeze_backbone()

    def freeze_detector(self) -> None:
        """Train the mask head alone, on a detector that stays as it is, without dropout (the original's
        `--frozen_weights`).

        Raises:
            ValueError: there are groups of queries, of which such a detector has the first only.
        """
        if self.config.query_groups > 1:
            raise ValueError(
                f"query_groups {self.config.query_groups}: groups of queries train a detector, which is to stay as it is; "
                "leave it at 1"
            )
        self.detector.requires_grad_(False)
        self.detector_is_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.detector_is_frozen:
            self.detector.eval()
        return self

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the detector; see `ObjectDetectionModel.compile`. Masks, whose number varies, stay eager."""
        self.detector.compile(*args, **options)

    def config_for_transformers(self) -> tuple[dict[str, Any], list[str]]:
        """See `PretrainedModel.config_for_transformers`."""
        values, limits = super().config_for_transformers()
        if len(self.detector.model.backbone.channels) < 4:
            limits.append("masks on a backbone of fewer than four stages")
        if (self.config.d_model + self.config.encoder_attention_heads) % GROUPS:
            limits.append(f"masks where d_model + encoder_attention_heads is no multiple of {GROUPS}")
        return values, limits

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
    ) -> SegmentationOutput | tuple[Any, ...]:
        """Detect and draw masks. Boxes and classes are the detector's; transformers' lack the reference point.

        Without the last two arguments there is a mask for every query, as in transformers; with them, and in training
        with labels (where only matched queries' masks have a loss), for some, and `mask_query_indices` says for which.

        Args:
            labels: B dicts with `class_labels` (n,), `boxes` (n, 4) cxcywh, relative to the image, and `masks`
                (n, h, w), bool or 0/1, at least as large as the image.
            mask_score_threshold: only queries whose best class scores above it, 0…1, best first.
            mask_limit: at most so many of an image, those with the best scores.

        The other arguments are those of `ObjectDetectionModel.forward`.

        Raises:
            ValueError: labels that are not one dict with these keys an image, or masks smaller than their image.
        """
        if labels is not None:
            check_labels(labels, len(pixel_values), ("class_labels", "boxes", "masks"))
            if pixel_mask is None:
                pixel_mask = mask_of_sizes(labels, pixel_values)
        attentions, hidden_states, as_dict = output_options(
            self.config, output_attentions, output_hidden_states, return_dict
        )
        precomputed = PrecomputedInputs.of(
            decoder_attention_mask, encoder_outputs, inputs_embeds, decoder_inputs_embeds
        )
        auxiliary = self.config.auxiliary_loss
        detector = self.detector
        with torch.no_grad() if self.detector_is_frozen else nullcontext():
            states = detector.model.states(
                pixel_values, pixel_mask, auxiliary, attentions, precomputed, all_stages=True
            )
            logits, boxes = detector.predict_from(states.decoded.normed, states.decoded.reference)
        output = SegmentationOutput()
        chosen = masks = None
        if labels is not None:
            loss, loss_dict, chosen, masks = self._loss(
                states, logits, boxes, labels, normalizers, _sizes(pixel_values, states.pixel_mask)
            )
            output.update(loss=loss, loss_dict=loss_dict)
        states, logits, boxes = first_group(states, logits, boxes)
        if labels is None or not self.training:
            chosen = self._best(logits[-1], mask_score_threshold, mask_limit)
            masks = self._draw_padded(states, chosen, whole=mask_score_threshold is None)
        output.update(logits=logits[-1], pred_boxes=boxes[-1], pred_masks=masks)
        output.update(rest_of_output(states, logits, boxes, auxiliary, attentions, hidden_states))
        if chosen is not None:
            output["mask_query_indices"] = chosen
        if states.pixel_mask is not None:
            output["mask_sizes"] = _heights_and_widths(states.pixel_mask[:, ::MASK_STRIDE, ::MASK_STRIDE])
        return output if as_dict else output.to_tuple()

    def _best(self, logits: Tensor, threshold: float | None, limit: int | None) -> Tensor | None:
        """The queries worth a mask: (B, K), best first, padded with -1; None for all of them. logits: (B, Q, …)."""
        if threshold is None and limit is None:
            return None
        scores = self.config.classes.scores(logits).amax(-1)  # (B, Q)
        most = scores.shape[1] if limit is None else min(limit, scores.shape[1])
        if threshold is None:
            return scores.topk(most, dim=1).indices
        most = min(most, int((scores > threshold).sum(1).max()))
        best, queries = scores.topk(most, dim=1)
        return queries.masked_fill(best <= threshold, -1)

    def _draw(self, states: States, chosen: Tensor | None, image: Tensor, place: Tensor) -> Tensor:
        """The masks of entries (image, place) of `chosen` (B, K), each an index (N,). (N, h, w)"""
        content = states.decoded.normed[-1]
        if chosen is not None:
            content = content.gather(1, chosen.clamp(min=0)[..., None].expand(-1, -1, content.shape[-1]))
        stride, pixel_mask = self.detector.model.backbone.stride, states.pixel_mask
        cell_mask = None if pixel_mask is None else pixel_mask[:, ::stride, ::stride].flatten(1)
        attention = self.bbox_attention(content, states.encoded[-1], cell_mask)[image, place]
        attention = attention.unflatten(-1, states.projected.shape[-2:])  # (N, heads, h, w)
        return self.mask_head(states.features, states.projected, attention, image, pixel_mask)

    def _draw_padded(self, states: States, chosen: Tensor | None, whole: bool) -> Tensor:
        """The masks of `chosen` (B, K), of all queries for None; `whole`: it has no padding. (B, K, h, w)"""
        shape = states.decoded.normed[-1].shape[:2] if chosen is None else chosen.shape
        if whole:
            # Not numel, which would make a constant of the batch where this is exported.
            every = torch.arange(shape[0] * shape[1], device=states.projected.device)
            return self._draw(states, chosen, every // max(shape[1], 1), every % max(shape[1], 1)).unflatten(0, shape)
        assert chosen is not None
        image, place = (chosen >= 0).nonzero(as_tuple=True)
        rows = self._draw(states, chosen, image, place)
        masks = rows.new_zeros((*shape, *rows.shape[1:]))
        masks[image, place] = rows
        return masks

    def _loss(
        self,
        states: States,
        logits: Tensor,
        boxes: Tensor,
        labels: list[dict[str, Any]],
        normalizers: LossNormalizers | None,
        sizes: list[tuple[int, int]],
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
        """The loss and its parts, the matched queries (B, K), padded with -1, and their masks (B, K, h, w).

        With groups of queries, masks and their losses are of the first group alone: it is the one that predicts, and to
        draw each object's mask once a group would cost more than all the rest of the step.
        """
        config, groups = self.config, states.decoded.groups
        if normalizers is None:
            normalizers = normalizers_of_all_processes(config, labels, logits.device)
        matched = match_labels(config, at_least_float32(logits), at_least_float32(boxes), labels, groups)
        _, matches = matched
        loss, loss_dict = detection_loss(config, logits, boxes, labels, normalizers, matched, groups)
        objects_of = [len(label["class_labels"]) for label in labels]
        counts = [min(count, config.num_queries) for count in objects_of]
        # Matches are in the order of layers, then of groups, then of images.
        last = len(matches.layer) - groups * sum(counts)
        image, query, target = (values[last : last + sum(counts)] for values in matches[1:])
        place = to_device(torch.cat([torch.arange(count) for count in counts]), image.device)
        chosen = query.new_full((len(counts), max(counts)), -1)
        chosen[image, place] = query
        rows = self._draw(states, chosen, image, place)
        first = to_device(torch.tensor([0, *objects_of]).cumsum(0), image.device)
        objects = target - first[image]  # counted in their own image
        target_masks = _matched_masks(labels, objects.split(counts), sizes)
        focal, dice = mask_losses(rows, target_masks, sizes)
        focal, dice = focal / normalizers.boxes, dice / normalizers.boxes
        mask_loss = config.mask_loss_coefficient * focal + config.dice_loss_coefficient * dice
        masks = rows.new_zeros((*chosen.shape, *rows.shape[1:]))
        masks[image, place] = rows
        parts = {**loss_dict, "loss_mask": focal.detach(), "loss_dice": dice.detach()}
        return mask_loss if self.detector_is_frozen else loss + mask_loss, parts, chosen, masks


def _sizes(pixel_values: Tensor, pixel_mask: Tensor | None) -> list[tuple[int, int]]:
    """Height and width of each image on its canvas."""
    if pixel_mask is None:
        return [(pixel_values.shape[-2], pixel_values.shape[-1])] * len(pixel_values)
    return [(height, width) for height, width in _heights_and_widths(pixel_mask).tolist()]


def _heights_and_widths(mask: Tensor) -> Tensor:
    """(B, H, W) bool, True at the top left of each -> (B, 2) int64, how many rows and columns are."""
    return torch.stack((mask.any(2).sum(1), mask.any(1).sum(1)), dim=1)


def _matched_masks(
    labels: list[dict[str, Any]], objects: tuple[Tensor, ...], sizes: list[tuple[int, int]]
) -> list[Tensor]:
    """The masks of each image's matched objects, given by their index in its labels. (n, H, W) each"""
    masks = []
    for label, chosen, (height, width) in zip(labels, objects, sizes, strict=True):
        own = label["masks"]
        if own.dim() != 3 or len(own) != len(label["class_labels"]) or own.shape[1] < height or own.shape[2] < width:
            raise ValueError(
                f"masks of image {label.get('image_id', '?')} have the shape {tuple(own.shape)}; its "
                f"{len(label['class_labels'])} objects and {height}×{width} pixels need "
                f"({len(label['class_labels'])}, {height}, {width}) or more"
            )
        masks.append(own[chosen.to(own.device)])
    return masks
