"""What groups of queries cost: a training step with 1, 4 and 11 of them, `python -m benchmarks.groups`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from conditional_detr import ConditionalDetrForObjectDetection
from conditional_detr.checkpoints.original import PAPER_TRAINING
from conditional_detr.train.optimizer import build_optimizer
from conditional_detr.train.recipe import Recipe

from .measure import Contender, arguments, in_turns, machine, report
from .models import config
from .training import batch_of, step

GROUPS = (1, 4, 11)
PUBLISHED = "28/23 = 1.22 minutes an epoch at 11 groups, on 8 A100 (arXiv 2207.13085)"


def model_with(groups: int, quick: bool) -> ConditionalDetrForObjectDetection:
    return ConditionalDetrForObjectDetection(config(quick, query_groups=groups, **PAPER_TRAINING)).train()


def step_with(groups: int, options: argparse.Namespace, dtype: torch.dtype, device: str) -> Callable[[], Any]:
    torch.manual_seed(0)
    model = model_with(groups, options.quick).to(device).to(memory_format=torch.channels_last)
    pixels, _, labels = batch_of(options, padded=False, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return step(model, lambda: model(pixels, labels=labels).loss, build_optimizer(Recipe(), model), dtype)


def multiply_adds(groups: int, options: argparse.Namespace) -> float:
    """Those of a step's forward and backward pass, losses aside. Computes nothing."""
    with torch.device("meta"):
        model = model_with(groups, options.quick)
        pixels = torch.empty(options.batch, 3, options.height, options.width)
    with FlopCounterMode(display=False) as counter:
        output = model.model.states(pixels, None, all_layers=True)
        logits, boxes = model.predict_from(output.decoded.normed, output.decoded.reference)
        (logits.sum() + boxes.sum()).backward()
    return counter.get_total_flops() / 2


def main(argv: list[str] | None = None) -> None:
    quick = {"height": 96, "width": 128}
    options = arguments(__doc__ or "", argv, quick, batch=2, height=480, width=640, targets=10, repeats=5)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        contenders = [
            Contender(f"{groups} group{'s' * (groups > 1)}", partial(step_with, groups, options, dtype, device), dtype)
            for groups in GROUPS
        ]
        in_turns(contenders, options.repeats)
        counts = [multiply_adds(groups, options) for groups in GROUPS]
        rows = [
            {
                "name": contender.name,
                "median_seconds": contender.median,
                "quartiles_seconds": contender.quartiles,
                "seconds": contender.seconds,
                "times_one_group": contender.median / contenders[0].median,
                "multiply_adds": count,
                "multiply_adds_times_one_group": count / counts[0],
            }
            for contender, count in zip(contenders, counts, strict=True)
        ]
        columns = {
            "": [contender.name for contender in contenders],
            "median": [f"{contender.median * 1e3:.0f} ms" for contender in contenders],
            "quartiles": [" … ".join(f"{q * 1e3:.0f} ms" for q in contender.quartiles) for contender in contenders],
            "÷ one group": [f"{contender.median / contenders[0].median:.2f}" for contender in contenders],
            "multiply-adds": [f"{count / 1e9:.1f} G" for count in counts],
            "multiply-adds ÷ one group": [f"{count / counts[0]:.2f}" for count in counts],
        }
        model = config(options.quick)
        setting = (
            f"{model.backbone}, {model.num_queries} queries, batch {options.batch}, {options.height}×{options.width}"
        )
        facts = {**machine(device, 256 if options.quick else 2048), "published": PUBLISHED, "command": options.command}
        report(f"Groups of queries in {name}: {setting}", columns, rows, facts, options, partial(_draw, contenders))


def _draw(contenders: list[Contender], axes: Any) -> None:
    axes.barh([contender.name for contender in contenders], [contender.median for contender in contenders])
    axes.invert_yaxis()
    axes.set_xlabel("seconds (median)")


if __name__ == "__main__":
    main()
