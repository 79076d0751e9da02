"""The golden files: what the original implementations compute in float64. Tests skip where they are absent.

In float64 nothing hangs on the processor. The files hold float32, so that 1e-6 can be asked of logits and boxes.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SHARED = Path(__file__).parents[2] / "shared"
NOT_HERE = "../shared is not here, or lacks "


def shared(name):
    """A file or folder of `../shared`, which not every checkout has beside it; skips where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{NOT_HERE}{name}")
    return path


def golden(name):
    """The tensors, those of numbers in float64, and the JSON of one golden case; skips where the files are absent."""
    path = shared(f"golden/{name}.safetensors")
    tensors = {name: t.double() if t.is_floating_point() else t for name, t in load_file(path).items()}
    return tensors, json.loads(path.with_suffix(".json").read_text())


def golden_weights(parameters):
    """The golden weights, in the original's names."""
    sys.path.insert(0, str(SHARED / "golden"))
    from golden_weights import golden_tensor

    return {name: torch.from_numpy(golden_tensor(name, tuple(shape))) for name, shape in parameters.items()}
