"""The loss of a detector, over all decoder layers in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, generalized_iou
from ..classes import ClassReading, Places
from ..config import DetectionConfig
from ..precision import at_least_float32
from .matcher import Matches, Targets, gather_targets, match, to_device


class LossNormalizers(NamedTuple):
    """What the sums of an optimizer step are divided by. Known from the labels alone, before any forward pass.

    For a step made of several micro-batches and processes these are the sums over all of them divided by the number
    of processes (whose gradients are averaged), so that any split of a batch trains alike.
    """

    boxes: float  # target boxes; at least 1 in all
    class_weight: float  # the class loss's sum of weights, for families that divide by it


def count_normalizers(config: DetectionConfig, labels: list[dict[str, Any]]) -> LossNormalizers:
    """The share of this batch in the normalisers: sum over batches, then see `share_normalizers`."""
    counts = [len(label["class_labels"]) for label in labels]
    matched = sum(min(count, config.num_queries) for count in counts)
    unmatched = len(labels) * config.num_queries - matched
    return LossNormalizers(float(sum(counts)), matched + config.classes.no_object_weight * unmatched)


def share_normalizers(total: LossNormalizers, processes: int) -> LossNormalizers:
    """Turn sums over all processes into what each process divides by."""
    return LossNormalizers(max(total.boxes, 1.0) / processes, max(total.class_weight, 1e-6) / processes)


def detection_loss(
    config: DetectionConfig,
    logits: Tensor,
    boxes: Tensor,
    labels: list[dict[str, Any]],
    normalizers: LossNormalizers | None = None,
    matched: tuple[Targets, Matches] | None = None,
    groups: int = 1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Match and sum the losses of every decoder layer.

    The class loss is the family's, `config.classes`; with it L1 and GIoU of matched boxes. Sums, divided by `normalizers`.
    Each group of queries is matched with all objects; losses are the mean of the groups'.

    Args:
        logits: (L, B, groups · Q, C) or, for DETR, (L, B, groups · Q, C + 1); the last layer last.
        boxes: (L, B, groups · Q, 4) cxcywh, relative, in [0, 1].
        labels: B dicts with `class_labels` (n,) in 0…C-1 and `boxes` (n, 4) cxcywh, relative; n may be 0.
        normalizers: of the whole optimizer step and of one group; None takes this batch's, summed over the processes of the default
            process group if there is one.
        matched: what `match_labels` gives, where it has been computed already.
        groups: of queries, one after another.

    Returns:
        The weighted total, and its unweighted parts: `loss_ce`, `loss_bbox`, `loss_giou` of the last layer, with
        suffix `_i` those of layer i; and, not trained, `class_error` (percent of matched queries whose best class is
        wrong) and `cardinality_error` (mean difference between the number of queries that claim an object and the
        number of objects; for Conditional DETR a query claims one where a class scores above 0.5: what the originals
        count there, "the best class is not the last one", means nothing for sigmoid classes).

    Raises:
        ValueError: a class label outside 0…C-1.
    """
    logits, boxes = at_least_float32(logits), at_least_float32(boxes)
    if normalizers is None:
        normalizers = normalizers_of_all_processes(config, labels, logits.device)
    targets, matches = matched or match_labels(config, logits, boxes, labels, groups)
    logits, boxes = _groups_as_images(logits, groups), _groups_as_images(boxes, groups)
    normalizers = LossNormalizers(*(groups * total for total in normalizers))
    classes, places = config.classes, Places(matches.layer, matches.image, matches.query)
    class_loss = classes.loss(logits, places, targets.classes[matches.target]) / classes.divisor(*normalizers)
    own, target = boxes[places], targets.boxes[matches.target]  # (M, 4) both
    l1 = (own - target).abs().sum(-1)
    giou = 1 - generalized_iou(cxcywh_to_xyxy(own), cxcywh_to_xyxy(target))
    # Sums by layer, (L,). A batch without targets still reaches every parameter, with gradient 0.
    box_loss = l1.new_zeros(len(boxes)).index_add(0, matches.layer, l1) / normalizers.boxes
    giou_loss = l1.new_zeros(len(boxes)).index_add(0, matches.layer, giou) / normalizers.boxes
    total = (
        classes.loss_weight * class_loss.sum()
        + config.bbox_loss_coefficient * box_loss.sum()
        + config.giou_loss_coefficient * giou_loss.sum()
    )
    parts = {}
    for name, values in (("loss_ce", class_loss), ("loss_bbox", box_loss), ("loss_giou", giou_loss)):
        *others, last = values.detach().unbind()
        parts[name] = last
        parts.update({f"{name}_{i}": value for i, value in enumerate(others)})
    parts["class_error"], parts["cardinality_error"] = _logged_errors(classes, logits, targets, matches)
    return total, parts


def match_labels(
    config: DetectionConfig, logits: Tensor, boxes: Tensor, labels: list[dict[str, Any]], groups: int = 1
) -> tuple[Targets, Matches]:
    """The batch's objects, and the queries they are assigned to; arguments and errors as in `detection_loss`. The objects
    come once for each group, and image i of group g is counted as image g · B + i."""
    _check_classes(config, labels)
    targets = gather_targets([*labels] * groups, boxes.device, boxes.dtype)
    return targets, match(config, _groups_as_images(logits, groups), _groups_as_images(boxes, groups), targets)


def _groups_as_images(predictions: Tensor, groups: int) -> Tensor:
    """(L, B, groups · Q, …) -> (L, groups · B, Q, …): groups have as little to do with each other as images."""
    if groups == 1:
        return predictions
    return predictions.unflatten(2, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _check_classes(config: DetectionConfig, labels: list[dict[str, Any]]) -> None:
    for label in labels:
        classes = label["class_labels"]
        if (
            classes.device.type == "cpu"
            and len(classes)
            and not 0 <= int(classes.min()) <= int(classes.max()) < config.num_labels
        ):
            raise ValueError(
                f"class_labels of image {label.get('image_id', '?')} reach {int(classes.max())}, "
                f"the model has {config.num_labels} classes (0…{config.num_labels - 1})"
            )


def normalizers_of_all_processes(
    config: DetectionConfig, labels: list[dict[str, Any]], device: torch.device
) -> LossNormalizers:
    """The normalisers of a step that is this batch on each process of the default group, if there is one."""
    own = count_normalizers(config, labels)
    if not (dist.is_available() and dist.is_initialized()):
        return share_normalizers(own, 1)
    total = to_device(torch.tensor(own, dtype=torch.float64), device)
    dist.all_reduce(total)
    return share_normalizers(LossNormalizers(*total.tolist()), dist.get_world_size())


@torch.no_grad()
def _logged_errors(classes: ClassReading, logits: Tensor, targets: Targets, matches: Matches) -> tuple[Tensor, Tensor]:
    """Class error in percent and cardinality error, of the last layer of logits (L, B, Q, C or C + 1)."""
    last, of_last = logits[-1], matches.layer == len(logits) - 1
    best = last[matches.image, matches.query].argmax(-1)
    right = ((best == targets.classes[matches.target]) & of_last).sum()
    class_error = 100 - 100 * right / of_last.sum().clamp(min=1)
    objects = last.new_zeros(len(last)).index_add_(0, targets.image, last.new_ones(len(targets.image)))
    return class_error, (classes.claims(last).sum(1) - objects).abs().mean()
