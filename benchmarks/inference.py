"""Detection in one image, from pixels to logits and boxes, float32, eager: `python -m benchmarks.inference`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch

from conditional_detr import ConditionalDetrConfig, ConditionalDetrForObjectDetection

from .measure import arguments, in_turns, report


def forward(model: Any, pixels: torch.Tensor, mask: torch.Tensor | None) -> Callable[[], Any]:
    """A forward pass without gradients."""

    @torch.inference_mode()
    def run() -> Any:
        return model(pixels, pixel_mask=mask)

    return run


def main() -> None:
    options = arguments(__doc__, batch=1, height=800, width=1066, repeats=7)
    from transformers import ConditionalDetrForObjectDetection as Theirs

    torch.manual_seed(0)
    ours = ConditionalDetrForObjectDetection(ConditionalDetrConfig(num_labels=91)).eval()
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        plain, best = (Theirs.from_pretrained(folder).eval() for _ in range(2))
    pixels = torch.randn(options.batch, 3, options.height, options.width)
    last = pixels.contiguous(memory_format=torch.channels_last)
    mask = torch.ones(options.batch, options.height, options.width, dtype=torch.int64)
    runs = {
        "ours": forward(ours.to(memory_format=torch.channels_last), last, None),
        "transformers, as it comes": forward(plain, pixels, mask),
        "transformers, channels-last": forward(best.to(memory_format=torch.channels_last), last, mask),
    }
    difference = (runs["ours"]().logits - runs["transformers, as it comes"]().logits).abs().max().item()
    timings = in_turns(runs, options.repeats)
    setting = f"R50, batch {options.batch}, {options.height}×{options.width}, float32, eager"
    report(f"Forward pass: {setting}", timings, "ours", options, largest_logit_difference=f"{difference:.1e}")


if __name__ == "__main__":
    main()
