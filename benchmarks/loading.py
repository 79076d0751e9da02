"""Loading Conditional DETR from disk by `from_pretrained`: `python -m benchmarks.loading`.

Every weight is read once in the timed part: both libraries map the file, and could leave the reading for later.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from conditional_detr import ConditionalDetrForObjectDetection
from conditional_detr.checkpoints.names import to_original

from .measure import Contender, arguments, compare
from .models import Original, config, save, theirs


def read(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.sum()


def main(argv: list[str] | None = None) -> None:
    options = arguments(__doc__, argv, repeats=9)
    with tempfile.TemporaryDirectory() as name:
        folder, original = Path(name) / "model", Path(name) / "original.pth"
        save(folder, options.quick)
        model = ConditionalDetrForObjectDetection.from_pretrained(folder)
        torch.save({"model": to_original(model.state_dict(), model.weight_names)}, original)
        megabytes = round((folder / "model.safetensors").stat().st_size / 1e6)
        del model
        ours = ConditionalDetrForObjectDetection.from_pretrained
        contenders = [
            Contender("ours", lambda: lambda: read(ours(folder))),
            Contender("ours, an original .pth", lambda: lambda: read(ours(original))),
            Contender("transformers", lambda: lambda: read(theirs(folder))),
        ]
        if options.original:

            def with_the_original() -> None:
                model = Original(options.original, folder).model
                model.load_state_dict(torch.load(original, weights_only=True)["model"])
                read(model)

            # Building it takes our weights first: an upper bound.
            contenders.append(Contender("the original", lambda: with_the_original))
        backbone = config(options.quick).backbone
        compare(f"Loading: {backbone} from disk", contenders, options, facts={"megabytes": megabytes})


if __name__ == "__main__":
    main()
