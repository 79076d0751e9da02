"""A training step (forward, losses, backward, clipping, AdamW): `python -m benchmarks.training`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from conditional_detr import ConditionalDetrForObjectDetection
from conditional_detr.checkpoints.original import PAPER_TRAINING
from conditional_detr.images.pixels import pad
from conditional_detr.train.optimizer import build_optimizer
from conditional_detr.train.recipe import Recipe

from .measure import Contender, arguments, compare
from .models import CLASSES, Original, config, save, theirs

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
Loss = Callable[[], Tensor]


# Shapes of COCO's photographs, height by width relative to the short side.
PHOTOGRAPHS = ((1, 4 / 3), (4 / 3, 1), (1, 1.5), (1.5, 1), (1, 1), (1, 1.78))


def batch_of(
    options: argparse.Namespace, padded: bool, device: str = "cpu"
) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Pixels (B, 3, H, W), their mask bool (B, H, W), and labels with boxes inside the image. Padded: images of the shapes
    of photographs, all of the same short side, on one canvas; else of one size."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(options.height, options.width)] * options.batch
    if padded:
        short = min(options.height, options.width)
        shapes = [PHOTOGRAPHS[i % len(PHOTOGRAPHS)] for i in range(options.batch)]
        sizes = [(round(short * height), round(short * width)) for height, width in shapes]
    images = [torch.randn(3, *size, generator=generator) for size in sizes]
    pixels, mask = (part.to(device) for part in pad(images))
    labels = [
        {
            "class_labels": torch.randint(CLASSES, (options.targets,), generator=generator).to(device),
            "boxes": (torch.rand(options.targets, 4, generator=generator) * 0.4 + 0.2).to(device),
        }
        for _ in range(options.batch)
    ]
    return pixels, mask, labels


def step(model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> Callable[[], None]:
    """One optimizer step on a batch that stays the same; in bfloat16 under autocast, as the recipes train."""
    trained = [p for p in model.parameters() if p.requires_grad]
    device = trained[0].device.type

    def run() -> None:
        with torch.autocast(device, dtype, enabled=dtype != FLOAT32):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def our_step(
    folder: Path,
    options: argparse.Namespace,
    dtype: torch.dtype,
    compiled: bool = False,
    padded: bool = False,
    device: str = "cpu",
) -> Callable[[], Any]:
    """Ours, as `cdetr train` feeds it: with a mask where there is padding."""
    model = ConditionalDetrForObjectDetection.from_pretrained(folder, **PAPER_TRAINING)
    model.to(device).to(memory_format=torch.channels_last).train()
    if compiled:
        model.compile()
    pixels, mask, labels = batch_of(options, padded, device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    seen = mask if padded else None
    return step(model, lambda: model(pixels, seen, labels=labels).loss, build_optimizer(Recipe(), model), dtype)


def their_step(
    folder: Path,
    options: argparse.Namespace,
    dtype: torch.dtype = FLOAT32,
    best: bool = False,
    compiled: bool = False,
    padded: bool = False,
    device: str = "cpu",
) -> Callable[[], Any]:
    """transformers with the paper's dropout and auxiliary losses; at its `best`: channels-last, fused AdamW."""
    model = theirs(folder, **PAPER_TRAINING).to(device).train()
    pixels, mask, labels = batch_of(options, padded, device)
    mask = mask.long()  # as its processor gives it
    if best:
        model.to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    if compiled:
        model.model.compile()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-4, fused=best)
    return step(model, lambda: model(pixels, pixel_mask=mask, labels=labels).loss, optimizer, dtype)


def original_step(folder: Path, options: argparse.Namespace) -> Callable[[], Any]:
    original = Original(options.original, folder, **PAPER_TRAINING)
    model = original.model.train()
    pixels, _, labels = batch_of(options, padded=False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=1e-4)
    return step(model, lambda: original.loss(model(pixels), labels), optimizer, FLOAT32)


def main(argv: list[str] | None = None) -> None:
    quick = {"height": 96, "width": 128}
    options = arguments(__doc__, argv, quick, batch=2, height=480, width=640, targets=10, repeats=5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(folder, options.quick, **PAPER_TRAINING)
        contenders = [
            Contender("ours, float32", partial(our_step, folder, options, FLOAT32)),
            Contender("ours, bfloat16", partial(our_step, folder, options, BFLOAT16), BFLOAT16),
            Contender("transformers, as it comes", partial(their_step, folder, options)),
            Contender(
                "transformers, float32, channels-last, fused AdamW", partial(their_step, folder, options, best=True)
            ),
            Contender(
                "transformers, bfloat16, channels-last, fused AdamW",
                partial(their_step, folder, options, BFLOAT16, best=True), BFLOAT16,
            ),
        ]  # fmt: skip
        if options.compile:
            for label, dtype in (("float32", FLOAT32), ("bfloat16", BFLOAT16)):
                ours = partial(our_step, folder, options, dtype, compiled=True)
                contenders.append(Contender(f"ours, {label}, compiled", ours, dtype, peak=False))
                their = partial(their_step, folder, options, dtype, best=True, compiled=True)
                contenders.append(Contender(f"transformers, {label}, compiled", their, dtype, peak=False))
        if options.original:
            contenders.append(Contender("the original", partial(original_step, folder, options)))
        work = None
        if not options.peak_of:
            run = our_step(folder, options, FLOAT32)
            with FlopCounterMode(display=False) as counter:
                run()
            work = counter.get_total_flops() / 2
        setting = f"{config(options.quick).backbone}, batch {options.batch}, {options.height}×{options.width}"
        compare(f"Training step: {setting}", contenders, options, multiply_adds=work)
        padded = [
            Contender(contender.name, partial(contender.build, padded=True), contender.dtype, peak=contender.peak)
            for contender in contenders
            if contender.name != "the original"
        ]
        setting = (
            f"{config(options.quick).backbone}, batch {options.batch}, short side {min(options.height, options.width)}"
        )
        compare(f"Training step with padding: {setting}", padded, options)


if __name__ == "__main__":
    main()
