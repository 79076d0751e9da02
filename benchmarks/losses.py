"""Matching and losses with their backward pass: `python -m benchmarks.losses`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import ConditionalDetrConfig as TheirConfig
from transformers.loss.loss_utils import LOSS_MAPPING

from conditional_detr.families import ConditionalDetrConfig
from conditional_detr.losses.criterion import detection_loss

from .measure import Contender, arguments, compare
from .models import CLASSES, Original, save

Run = Callable[[], Tensor]


def inputs(layers: int, batch: int, queries: int, targets: int) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Logits (L, B, Q, C) and boxes (L, B, Q, 4) of every layer, and labels with boxes inside the image."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(layers, batch, queries, CLASSES, generator=generator)
    boxes = torch.rand(layers, batch, queries, 4, generator=generator) * 0.5 + 0.2
    labels = [
        {
            "class_labels": torch.randint(CLASSES, (targets,), generator=generator),
            "boxes": torch.rand(targets, 4, generator=generator) * 0.4 + 0.2,
        }
        for _ in range(batch)
    ]
    return logits.requires_grad_(), boxes.requires_grad_(), labels


def ours(logits: Tensor, boxes: Tensor, labels: list) -> Run:
    # transformers weighs the class loss with 1 whatever its configuration says; the same here, so that totals compare.
    config = ConditionalDetrConfig(num_labels=CLASSES, auxiliary_loss=True, cls_loss_coefficient=1)

    def run() -> Tensor:
        logits.grad = boxes.grad = None
        loss, _ = detection_loss(config, logits, boxes, labels)
        loss.backward()
        return loss.detach()

    return run


def theirs(logits: Tensor, boxes: Tensor, labels: list) -> Run:
    config = TheirConfig(num_labels=CLASSES, auxiliary_loss=True)
    loss_function = LOSS_MAPPING["ConditionalDetrForObjectDetection"]

    def run() -> Tensor:
        logits.grad = boxes.grad = None
        loss, *_ = loss_function(logits[-1], labels, logits.device, boxes[-1], config, logits, boxes)
        loss.backward()
        return loss.detach()

    return run


def the_original(options: argparse.Namespace, logits: Tensor, boxes: Tensor, labels: list) -> Run:
    with tempfile.TemporaryDirectory() as name:
        save(Path(name), quick=False)
        original = Original(options.original, Path(name))

    def run() -> Tensor:
        logits.grad = boxes.grad = None
        *others, last = [{"pred_logits": a, "pred_boxes": b} for a, b in zip(logits, boxes, strict=True)]
        loss = original.loss({**last, "aux_outputs": others}, labels)
        loss.backward()
        return loss.detach()

    return run


def main(argv: list[str] | None = None) -> None:
    quick = {"batch": 2, "queries": 20, "targets": 3}
    options = arguments(__doc__, argv, quick, layers=6, batch=16, queries=300, targets=20, repeats=9)
    data = inputs(options.layers, options.batch, options.queries, options.targets)
    facts = {"loss_ours": round(ours(*data)().item(), 3), "loss_transformers": round(theirs(*data)().item(), 3)}
    contenders = [
        Contender("ours", partial(ours, *data)),
        Contender("transformers", partial(theirs, *data)),
    ]
    if options.original:
        contenders.append(Contender("the original", partial(the_original, options, *data)))
    setting = f"{options.layers} layers, batch {options.batch}, {options.queries} queries, {options.targets} targets, {CLASSES} classes"
    compare(f"Losses: with their backward pass, {setting}", contenders, options, facts=facts)


if __name__ == "__main__":
    main()
