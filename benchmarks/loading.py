"""Loading Conditional DETR-R50 from disk by `from_pretrained`: `python -m benchmarks.loading`.

Every weight is read once in the timed part: both libraries map the file, and could leave the reading for later.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import transformers
from torch import nn

from conditional_detr import ConditionalDetrConfig, ConditionalDetrForObjectDetection
from conditional_detr.checkpoints.names import to_original

from .measure import arguments, in_turns, report


def read(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.sum()


def main() -> None:
    options = arguments(__doc__, repeats=7)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder, original = Path(name) / "model", Path(name) / "original.pth"
        config = ConditionalDetrConfig(backbone="resnet50", num_labels=91)
        model = ConditionalDetrForObjectDetection(config)
        model.save_pretrained(folder)
        torch.save({"model": to_original(model.state_dict(), config.model_type)}, original)
        size = (folder / "model.safetensors").stat().st_size
        runs = {
            "ours": lambda: read(ConditionalDetrForObjectDetection.from_pretrained(folder)),
            "ours, original .pth": lambda: read(ConditionalDetrForObjectDetection.from_pretrained(original)),
            "transformers": lambda: read(transformers.ConditionalDetrForObjectDetection.from_pretrained(folder)),
        }
        timings = in_turns(runs, options.repeats)
    report("Loading: Conditional DETR-R50 from disk", timings, "ours", options, megabytes=round(size / 1e6))


if __name__ == "__main__":
    main()
