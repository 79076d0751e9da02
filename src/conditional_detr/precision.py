"""The precision of boxes, scores and losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; float32 and float64 as they are.

    bfloat16 has 8 bits: a corner computed in it is off by pixels. float64 is kept for those who compare implementations.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


@contextmanager
def subnormals_are_zero() -> Iterator[None]:
    """Within the block the CPU takes numbers below 1.2e-38 (subnormal ones) for 0, in this thread and in those that PyTorch
    starts in it.

    Once attention is sharp most of its weights are of that size, and some processors compute with them far more slowly: on an
    Intel Xeon a matrix product of such numbers took 220 times as long, and after 500 steps of `pretrain_small` the backward
    pass of attention 140 ms instead of 31, and a step 1.8 times as long. Sums that float32 can tell apart are the same without
    them.
    """
    before = bool((torch.full((1,), 2.0**-126) * 0.5) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
