"""Queries chosen from the picture: an experiment on top of Conditional DETR, whose reference points are learned and the same in
every picture. Here every cell of the encoder says how sure it is to hold an object's centre, and the cells that say so
louder than their neighbours are the reference points.

What decided in first runs (generated scenes, 750 steps, one seed): cells chosen by their score alone crowd around the same
objects and learn more slowly than learned points do; chosen where they are peaks, faster. Conditional DETR V2 also chooses
queries by the picture; neither its equations nor its code were at hand, and this is no reproduction of it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conditional_detr.config import DetectionConfig
from conditional_detr.models.attention import MLP
from conditional_detr.models.conditional_detr import ConditionalDetrDecoder
from conditional_detr.models.decoder import DecoderStates
from conditional_detr.models.detection_model import DetectionModel
from conditional_detr.models.detector import ObjectDetectionModel, inverse_sigmoid
from conditional_detr.models.outputs import DetectionOutput
from conditional_detr.models.position import sine_point_embedding
from conditional_detr.precision import at_least_float32

SCORE_WEIGHT = 2.0  # of the cells' loss, beside those of classes and boxes
FOCAL_ALPHA = 0.25
NOWHERE = -1e4  # score of a padded cell
NEIGHBOUR = 20.0  # what a cell that is no peak loses, in logits: it is chosen once there are no peaks left


class ChosenCells(ConditionalDetrDecoder):
    """Reference points at the cells of highest score. The object queries are content to start from, since they have no place.

    Attributes:
        only_peaks: take cells that score higher than their eight neighbours first.
        with_content: add what the encoder says at a query's cell to the content it starts from.
        shape: (h, w) of the feature map, set by the model before each pass.
        scored: of the last pass, the scores of all cells (B, M) and their centres (B, M, 2), for the loss.
    """

    only_peaks: ClassVar[bool] = False
    with_content: ClassVar[bool] = False
    shape: tuple[int, int]
    scored: tuple[Tensor, Tensor]

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.cell_score = nn.Linear(config.d_model, 1)
        nn.init.constant_(self.cell_score.bias, -math.log(99))  # few cells hold a centre
        self.place = MLP(config.d_model, config.d_model, config.d_model, 2)
        del self.ref_point_head  # points are not learned

    def forward(
        self,
        object_queries: Tensor,
        memory: Tensor,
        position: Tensor,
        key_mask: Tensor | None,
        all_layers: bool,
        need_weights: bool = False,
        content: Tensor | None = None,
        query_mask: Tensor | None = None,
        groups: int = 1,
    ) -> DecoderStates:
        """See `Decoder.forward`. All groups have the same points, and differ in what they start from."""
        images, cells, width = memory.shape
        scores = at_least_float32(self.cell_score(memory))[..., 0]  # (B, M)
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, 0, 0], NOWHERE)
        centres = _centres(self.shape, key_mask, images, scores.device)
        self.scored = scores, centres
        queries = len(object_queries) // groups
        chosen = self._ranked(scores.detach()).topk(min(queries, cells), 1).indices[..., None]  # (B, Q, 1)
        points = centres.gather(1, chosen.expand(-1, -1, 2)).repeat(1, groups, 1)
        content = object_queries.expand(images, -1, -1).to(memory.dtype)
        if self.with_content:
            content = content + memory.gather(1, chosen.expand(-1, -1, width)).repeat(1, groups, 1)
        point = sine_point_embedding(points, width).to(memory.dtype)
        placed = self.place(point)
        raw, self_attentions, cross_attentions = [content], [], []
        for i, layer in enumerate(self.layers):
            content, self_weights, cross_weights = self.kept_or_recomputed(layer)(
                content, placed, self.spatial_query(point, content, i), memory, position, key_mask, query_mask, need_weights, groups
            )  # fmt: skip
            raw.append(content)
            self_attentions.append(self_weights)
            cross_attentions.append(cross_weights)
        normed = self.layernorm(torch.stack(raw[1:] if all_layers else raw[-1:]))
        return DecoderStates(raw, normed, inverse_sigmoid(points), self_attentions, cross_attentions, groups)

    def _ranked(self, scores: Tensor) -> Tensor:
        """(B, M) in the order in which cells are taken."""
        if not self.only_peaks:
            return scores
        grid = scores.unflatten(1, self.shape)
        return torch.where(grid == F.max_pool2d(grid, 3, 1, 1), grid, grid - NEIGHBOUR).flatten(1)


class Peaks(ChosenCells):
    only_peaks = True


class PeaksWithContent(Peaks):
    with_content = True


def _centres(shape: tuple[int, int], key_mask: Tensor | None, images: int, device: torch.device) -> Tensor:
    """Of all cells, (B, M, 2) as (x, y), relative to the image without its padding."""
    mask = torch.ones(1, *shape, device=device) if key_mask is None else key_mask[:, 0, 0].unflatten(1, shape).float()
    x, y = ((mask.cumsum(axis) - 0.5) / mask.sum(axis, keepdim=True).clamp(min=1) for axis in (2, 1))
    return torch.stack((x, y), -1).flatten(1, 2).expand(images, -1, -1).clamp(0, 1)


class CellModel(DetectionModel):
    """Tells the decoder the shape of the feature map."""

    decoder: ChosenCells

    def _position(self, projected: Tensor, cell_mask: Tensor | None) -> Tensor:
        height, width = projected.shape[-2:]
        self.decoder.shape = height, width
        return super()._position(projected, cell_mask)


class CellDetector(ObjectDetectionModel):
    """With the loss of the cells' scores: focal, 1 where the cell is the nearest to an object's centre."""

    def forward(self, *args: Any, **kwargs: Any) -> DetectionOutput | tuple[Any, ...]:
        output = super().forward(*args, **kwargs)
        labels, normalizers = kwargs.get("labels"), kwargs.get("normalizers")
        if labels is None:
            return output
        scores, centres = self.model.decoder.scored  # type: ignore[attr-defined]
        target = torch.zeros_like(scores)
        for i, label in enumerate(labels):
            objects = label["boxes"][:, :2].to(centres)
            if len(objects):
                target[i, torch.cdist(objects, centres[i]).argmin(1)] = 1
        p = scores.sigmoid()
        weight = torch.where(target > 0, FOCAL_ALPHA * (1 - p) ** 2, (1 - FOCAL_ALPHA) * p**2)
        loss = (weight * F.binary_cross_entropy_with_logits(scores, target, reduction="none")).sum()
        divisor = normalizers.boxes if normalizers else max(1, sum(len(label["boxes"]) for label in labels))
        output["loss"] = output["loss"] + SCORE_WEIGHT * loss / divisor  # type: ignore[call-overload,index]
        return output


VARIANTS = {"chosen_cells": ChosenCells, "peaks": Peaks, "peaks_with_content": PeaksWithContent}
