"""A training step (forward, losses, backward, clipping, AdamW): `python -m benchmarks.training`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch

from conditional_detr import ConditionalDetrConfig, ConditionalDetrForObjectDetection
from conditional_detr.checkpoints.original import PAPER_TRAINING

from .measure import arguments, in_turns, peak_memory_gib, report


def step(model: Any, pixels: torch.Tensor, labels: list, fused: bool) -> Callable[[], float]:
    """One optimizer step on a batch that stays the same."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, weight_decay=1e-4, fused=fused)
    mask = torch.ones(len(pixels), *pixels.shape[-2:], dtype=torch.int64)

    def run() -> float:
        loss = model(pixel_values=pixels, pixel_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.1)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return run


def main() -> None:
    options = arguments(__doc__, batch=2, height=480, width=640, targets=10, repeats=5)
    from transformers import ConditionalDetrForObjectDetection as Theirs

    torch.manual_seed(0)
    model = ConditionalDetrForObjectDetection(ConditionalDetrConfig(num_labels=91, **PAPER_TRAINING))
    pixels = torch.randn(options.batch, 3, options.height, options.width)
    labels = [
        {"class_labels": torch.randint(91, (options.targets,)), "boxes": torch.rand(options.targets, 4) * 0.4 + 0.2}
        for _ in range(options.batch)
    ]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        peers = {
            layout: Theirs.from_pretrained(folder, auxiliary_loss=True, attention_dropout=0.1, activation_dropout=0.1)
            for layout in ("as it comes", "channels-last, fused AdamW")
        }
    last = torch.channels_last
    peers["channels-last, fused AdamW"].to(memory_format=last)
    runs = {
        "ours": step(model.to(memory_format=last), pixels.contiguous(memory_format=last), labels, fused=True),
        "transformers, as it comes": step(peers["as it comes"], pixels, labels, fused=False),
        "transformers, channels-last, fused AdamW": step(
            peers["channels-last, fused AdamW"], pixels.contiguous(memory_format=last), labels, fused=True
        ),
    }
    timings = in_turns(runs, options.repeats)
    setting = f"R50, batch {options.batch}, {options.height}×{options.width}, float32"
    report(f"Training step: {setting}", timings, "ours", options, peak_gib_all=round(peak_memory_gib(), 2))


if __name__ == "__main__":
    main()
