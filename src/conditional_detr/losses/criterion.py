"""The losses of Conditional DETR and DETR, over all decoder layers in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, generalized_iou
from ..config import DetectionConfig
from ..precision import at_least_float32
from .matcher import Matches, Targets, gather_targets, match, to_device


class LossNormalizers(NamedTuple):
    """What the sums of an optimizer step are divided by. Known from the labels alone, before any forward pass.

    For a step made of several micro-batches and processes these are the sums over all of them divided by the number
    of processes (whose gradients are averaged), so that any split of a batch trains alike.
    """

    boxes: float  # target boxes; at least 1 in all
    class_weight: float  # DETR: the cross entropy's sum of weights


def count_normalizers(config: DetectionConfig, labels: list[dict[str, Any]]) -> LossNormalizers:
    """The share of this batch in the normalisers: sum over batches, then see `share_normalizers`."""
    counts = [len(label["class_labels"]) for label in labels]
    matched = sum(min(count, config.num_queries) for count in counts)
    empty_weight = getattr(config, "eos_coefficient", 0.0)
    return LossNormalizers(float(sum(counts)), matched + empty_weight * (len(labels) * config.num_queries - matched))


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
) -> tuple[Tensor, dict[str, Tensor]]:
    """Match and sum the losses of every decoder layer.

    Conditional DETR: sigmoid focal loss (γ = 2), weight `cls_loss_coefficient`. DETR: cross entropy with weight
    `eos_coefficient` on "no object". Both: L1 and GIoU of matched boxes. Sums, divided by `normalizers`.

    Args:
        logits: (L, B, Q, C) or, for DETR, (L, B, Q, C + 1); the last layer last.
        boxes: (L, B, Q, 4) cxcywh, relative, in [0, 1].
        labels: B dicts with `class_labels` (n,) in 0…C-1 and `boxes` (n, 4) cxcywh, relative; n may be 0.
        normalizers: of the whole optimizer step; None takes this batch's, summed over the processes of the default
            process group if there is one.
        matched: what `match_labels` gives, where it has been computed already.

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
    targets, matches = matched or match_labels(config, logits, boxes, labels)
    if config.model_type == "conditional_detr":
        class_loss = _focal_sum(logits, targets, matches, config.focal_alpha) / normalizers.boxes  # type: ignore[attr-defined]
        class_weight = config.cls_loss_coefficient  # type: ignore[attr-defined]
    else:
        class_loss = _cross_entropy_sum(logits, targets, matches, config) / normalizers.class_weight
        class_weight = 1.0
    own = boxes[matches.layer, matches.image, matches.query]  # (M, 4)
    wanted = targets.boxes[matches.target]
    l1 = (own - wanted).abs().sum(-1)
    giou = 1 - generalized_iou(cxcywh_to_xyxy(own), cxcywh_to_xyxy(wanted))
    # Sums by layer, (L,). A batch without targets still reaches every parameter, with gradient 0.
    box_loss = l1.new_zeros(len(boxes)).index_add(0, matches.layer, l1) / normalizers.boxes
    giou_loss = l1.new_zeros(len(boxes)).index_add(0, matches.layer, giou) / normalizers.boxes
    total = (
        class_weight * class_loss.sum()
        + config.bbox_loss_coefficient * box_loss.sum()
        + config.giou_loss_coefficient * giou_loss.sum()
    )
    parts = {}
    for name, values in (("loss_ce", class_loss), ("loss_bbox", box_loss), ("loss_giou", giou_loss)):
        *others, last = values.detach().unbind()
        parts[name] = last
        parts.update({f"{name}_{i}": value for i, value in enumerate(others)})
    parts["class_error"], parts["cardinality_error"] = _logged_errors(config, logits, targets, matches)
    return total, parts


def match_labels(
    config: DetectionConfig, logits: Tensor, boxes: Tensor, labels: list[dict[str, Any]]
) -> tuple[Targets, Matches]:
    """The batch's objects, and the queries they are assigned to; arguments and errors as in `detection_loss`."""
    targets = gather_targets(labels, boxes.device, boxes.dtype)
    _check_classes(config, labels)
    return targets, match(config, logits, boxes, targets)


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


class _AbsentFocal(torch.autograd.Function):
    """Sum over all but the first dimension of (1 - α) p² softplus(x), p = sigmoid(x): the focal loss of "not this class".

    The gradient (1 - α) p² (p + 2 (1 - p) softplus(x)) is computed with the value, layer by layer and in place: a fifth
    of the memory traffic that recording each operation would take.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        gradient = torch.empty_like(x)
        sums = x.new_empty(len(x))
        for i, layer in enumerate(x):
            p = torch.sigmoid(layer)
            softplus = F.softplus(layer)
            weight = p.square().mul_(1 - alpha)
            sums[i] = (weight * softplus).sum()
            torch.mul(softplus.mul_(2), 1 - p, out=gradient[i]).add_(p).mul_(weight)
        ctx.save_for_backward(gradient)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].view(-1, *[1] * (gradient.dim() - 1)), None


def _focal_sum(logits: Tensor, targets: Targets, matches: Matches, alpha: float) -> Tensor:
    """Sigmoid focal loss with γ = 2 (arXiv 1708.02002), summed over images, queries and classes. (L,)

    Every entry is first taken as "not this class"; the few matched ones are then corrected.
    """
    x = logits[matches.layer, matches.image, matches.query, targets.classes[matches.target]]  # (M,)
    absent = (1 - alpha) * x.sigmoid().square() * F.softplus(x)
    present = alpha * (-x).sigmoid().square() * F.softplus(-x)
    return _AbsentFocal.apply(logits, alpha).index_add(0, matches.layer, present - absent)


def _cross_entropy_sum(logits: Tensor, targets: Targets, matches: Matches, config: DetectionConfig) -> Tensor:
    """Weighted cross entropy, summed over images and queries. (L,)"""
    no_object = config.num_labels
    wanted = logits.new_full(logits.shape[:3], no_object, dtype=torch.int64)  # (L, B, Q)
    wanted[matches.layer, matches.image, matches.query] = targets.classes[matches.target]
    weight = logits.new_ones(no_object + 1)
    weight[no_object] = config.eos_coefficient  # type: ignore[attr-defined]
    loss = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), weight, reduction="none")
    return loss.unflatten(0, wanted.shape).sum((1, 2))


@torch.no_grad()
def _logged_errors(
    config: DetectionConfig, logits: Tensor, targets: Targets, matches: Matches
) -> tuple[Tensor, Tensor]:
    """Class error in percent and cardinality error, of the last layer of logits (L, B, Q, C or C + 1)."""
    last, of_last = logits[-1], matches.layer == len(logits) - 1
    best = last[matches.image, matches.query].argmax(-1)
    right = ((best == targets.classes[matches.target]) & of_last).sum()
    class_error = 100 - 100 * right / of_last.sum().clamp(min=1)
    claims = (last > 0).any(-1) if config.model_type == "conditional_detr" else last.argmax(-1) != config.num_labels
    objects = last.new_zeros(len(last)).index_add_(0, targets.image, last.new_ones(len(targets.image)))
    return class_error, (claims.sum(1) - objects).abs().mean()
