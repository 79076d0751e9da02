"""The precision of boxes, scores and losses."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; float32 and float64 as they are.

    bfloat16 has 8 bits: a corner computed in it is off by pixels. float64 is kept for those who compare implementations.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))
