"""Masks: those of the best queries and of all of them, and the mask losses: `python -m benchmarks.masks`.

At the full size transformers takes half a minute and 14 GiB for one image; it is run once.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conditional_detr import ConditionalDetrForSegmentation
from conditional_detr.losses.mask_losses import mask_losses

from .measure import Contender, arguments, compare
from .models import config, save, theirs

TASK = "Segmentation"


def our_masks(folder: Path, pixels: Tensor, limit: int | None) -> Callable[[], Any]:
    model = ConditionalDetrForSegmentation.from_pretrained(folder).eval().to(memory_format=torch.channels_last)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: model(pixels, mask_limit=limit))


def their_masks(folder: Path, pixels: Tensor, best: bool = False) -> Callable[[], Any]:
    """As it comes; at its `best`, channels-last and in inference mode."""
    model = theirs(folder, TASK).eval()
    mask = torch.ones(len(pixels), *pixels.shape[-2:], dtype=torch.int64)
    if best:
        model.to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    return (torch.inference_mode() if best else torch.no_grad())(lambda: model(pixels, pixel_mask=mask))


def mask_loss(folder: Path, options: argparse.Namespace, every_query: bool) -> Callable[[], Any]:
    """The mask head's share of a training step: draw, compare with the objects' masks, back through the head.

    Drawing every query's mask keeps its activations only because they are recomputed in the backward pass: without
    that it would take tens of GiB.
    """
    model = ConditionalDetrForSegmentation.from_pretrained(folder)
    model.freeze_detector()
    model.to(memory_format=torch.channels_last).train().mask_head.gradient_checkpointing = every_query
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(options.batch, 3, options.height, options.width, generator=generator)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        states = model.detector.model.states(pixels, None, False, all_stages=True)
    queries = states.decoded.normed[-1].shape[1] if every_query else options.objects
    image = torch.arange(options.batch).repeat_interleave(queries)
    place = torch.arange(queries).repeat(options.batch)  # which queries are matched does not matter here
    matched = place < options.objects
    sizes = [(options.height, options.width)] * options.batch
    wanted = [torch.rand(options.objects, *size, generator=generator) > 0.5 for size in sizes]

    def run() -> None:
        model.zero_grad()
        drawn = model._draw(states, None, image, place)
        sum(mask_losses(drawn[matched], wanted, sizes)).backward()  # type: ignore[union-attr]

    return run


def main(argv: list[str] | None = None) -> None:
    quick = {"height": 96, "width": 128, "kept": 5, "objects": 2, "batch": 2}
    options = arguments(__doc__, argv, quick, height=480, width=640, kept=20, batch=4, objects=10, repeats=5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(folder, options.quick, TASK)
        pixels = torch.randn(1, 3, options.height, options.width)
        settings = config(options.quick)
        size, queries = f"{settings.backbone}, {options.height}×{options.width}", settings.num_queries
        few = f"ours, {options.kept} kept"
        facts = {}
        if not options.peak_of:
            ours = our_masks(folder, pixels, options.kept)()
            every = our_masks(folder, pixels, None)().pred_masks
            same = every[0, ours.mask_query_indices[0]]
            facts["largest_difference_of_kept_masks"] = f"{(ours.pred_masks[0] - same).abs().max().item():.1e}"
            del ours, every, same
        contenders = [
            Contender(few, partial(our_masks, folder, pixels, options.kept)),
            Contender(f"ours, all {queries}", partial(our_masks, folder, pixels, None)),
            Contender("transformers, as it comes", partial(their_masks, folder, pixels), repeats=1),
            Contender("transformers, channels-last", partial(their_masks, folder, pixels, best=True), repeats=1),
        ]
        compare(f"Masks: one image, {size}, {queries} queries", contenders, options, facts=facts)
        contenders = [
            Contender("ours, matched queries", partial(mask_loss, folder, options, False)),
            Contender("every query", partial(mask_loss, folder, options, True), repeats=1),
        ]
        title = f"Mask losses: with their backward pass, {size}, batch {options.batch}, {options.objects} objects each"
        compare(title, contenders, options, peer="every query")


if __name__ == "__main__":
    main()
