"""The optimizer, its learning rates, and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

from ..models.detector import ObjectDetectionModel
from ..models.segmenter import SegmentationModel
from .recipe import Recipe


def learning_rate_factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """What the learning rates are multiplied with at a step (0 is the first): warm-up, then the schedule."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    if recipe.schedule == "cosine":
        total = recipe.epochs * steps_per_epoch
        share = (step - recipe.warmup_steps) / max(1, total - recipe.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * share))
    return 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in recipe.drop_epochs)


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with one learning rate for the backbone and one for the rest; fused where the device has it."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in trained if ("backbone." in n) == of_backbone], "lr": rate, "base_lr": rate}
        for of_backbone, rate in ((False, recipe.lr), (True, recipe.backbone_lr))
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=recipe.weight_decay, fused=True)


class MovingAverage(AveragedModel):
    """An exponential moving average of a model's weights and statistics; `module` is the model that has them. Its decay
    rises to `decay` as (1 + n) / (10 + n) over the updates n, so that the random start is soon forgotten."""

    module: ObjectDetectionModel | SegmentationModel

    def __init__(self, model: ObjectDetectionModel | SegmentationModel, decay: float) -> None:
        def update(averages: PARAM_LIST, values: PARAM_LIST, count: Tensor | int) -> None:
            n = float(count)
            weight = 1 - min(decay, (1 + n) / (10 + n))
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, values, weight)
            else:
                torch._foreach_copy_(averages, values)

        super().__init__(model, multi_avg_fn=update, use_buffers=True)
