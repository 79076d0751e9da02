"""Time for memory in training: what is inside a layer is forgotten, and computed again when gradients need it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from torch import nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import ParamSpec

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Recomputing(nn.Module):
    """A module that can forget what is inside its layers.

    Attributes:
        gradient_checkpointing: whether it does, in training.
    """

    gradient_checkpointing = False

    def kept_or_recomputed(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """`function`, whose inputs alone are kept if this module forgets."""
        if self.gradient_checkpointing and self.training:
            return partial(checkpoint, function, use_reentrant=False)
        return function
