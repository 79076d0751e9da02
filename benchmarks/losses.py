"""Matching and losses with their backward pass: `python -m benchmarks.losses`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import ConditionalDetrConfig as TheirConfig
from transformers.loss.loss_utils import LOSS_MAPPING

from conditional_detr.config import ConditionalDetrConfig
from conditional_detr.losses.criterion import detection_loss

from .measure import arguments, in_turns, peak_memory_gib, report


def inputs(
    layers: int, batch: int, queries: int, targets: int, classes: int
) -> tuple[torch.Tensor, torch.Tensor, list]:
    """Logits and boxes of every layer, and labels with boxes inside the image."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(layers, batch, queries, classes, generator=generator)
    boxes = torch.rand(layers, batch, queries, 4, generator=generator) * 0.5 + 0.2
    labels = [
        {
            "class_labels": torch.randint(classes, (targets,), generator=generator),
            "boxes": torch.rand(targets, 4, generator=generator) * 0.4 + 0.2,
        }
        for _ in range(batch)
    ]
    return logits.requires_grad_(), boxes.requires_grad_(), labels


def ours(logits: torch.Tensor, boxes: torch.Tensor, labels: list, classes: int) -> Callable[[], torch.Tensor]:
    # transformers weighs the class loss with 1 whatever its configuration says; the same here, so that totals compare.
    config = ConditionalDetrConfig(num_labels=classes, auxiliary_loss=True, cls_loss_coefficient=1)

    def run() -> torch.Tensor:
        logits.grad = boxes.grad = None
        loss, _ = detection_loss(config, logits, boxes, labels)
        loss.backward()
        return loss.detach()

    return run


def theirs(logits: torch.Tensor, boxes: torch.Tensor, labels: list, classes: int) -> Callable[[], torch.Tensor]:
    config = TheirConfig(num_labels=classes, auxiliary_loss=True)
    loss_function = LOSS_MAPPING["ConditionalDetrForObjectDetection"]

    def run() -> torch.Tensor:
        logits.grad = boxes.grad = None
        loss, *_ = loss_function(logits[-1], labels, logits.device, boxes[-1], config, logits, boxes)
        loss.backward()
        return loss.detach()

    return run


def main() -> None:
    options = arguments(__doc__, layers=6, batch=16, queries=300, targets=20, classes=91, repeats=9)
    data = inputs(options.layers, options.batch, options.queries, options.targets, options.classes)
    runs = {"ours": ours(*data, options.classes), "transformers": theirs(*data, options.classes)}
    values = {name: run().item() for name, run in runs.items()}
    timings = in_turns(runs, options.repeats)
    setting = f"{options.layers} layers, batch {options.batch}, {options.queries} queries, {options.targets} targets, {options.classes} classes"
    report(
        f"Losses and backward: {setting}", timings, "ours", options,
        loss_ours=round(values["ours"], 4), loss_transformers=round(values["transformers"], 4),
        peak_gib=round(peak_memory_gib(), 2),
    )  # fmt: skip


if __name__ == "__main__":
    main()
