"""Which images share a batch: those of one canvas, so that nothing is padded, or little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..images.prepare import Preprocessing

# Pixels of a batch on a CPU: above, feature maps leave the caches (measured on R50 at 800×1066: an image takes 20 % longer
# in a batch of 8 than alone).
CPU_BATCH = 1_000_000


class Device(Protocol):
    """PyTorch's, or the CPU on which exported models are computed."""

    @property
    def type(self) -> str: ...


@dataclass
class PreparedBatch:
    """Images of one canvas, or little less, as `Preprocessing` resizes them."""

    images: list[Any]  # (3, h, w) uint8 each, tensors, or arrays for exported models, which take either
    sizes: list[tuple[int, int]]  # (height, width) in which the results of each are given
    indices: list[int]  # of the images among those that were asked for
    unreadable: list[tuple[int, str]] = field(default_factory=list)  # other images, and what is wrong with them


def canvas_of(size: tuple[int, int], preprocessing: Preprocessing, step: int = 1) -> tuple[int, int]:
    """Height and width of the canvas of an image of this size: resized, its sides rounded up to multiples of `step`."""
    return rounded_up(preprocessing.size_of(*size), step)


def rounded_up(size: tuple[int, int], step: int) -> tuple[int, int]:
    """The sides of a canvas, each the next multiple of `step`."""
    return -(-size[0] // step) * step, -(-size[1] // step) * step


def batches_of_canvases(
    canvases: Sequence[tuple[int, int]],
    batch_size: int,
    device: Device,
    few_sizes: bool = False,
    window: int | None = None,
) -> list[list[int]]:
    """Indices of images in batches of one canvas, at most `batch_size` each; on a CPU, of at most `CPU_BATCH` pixels.

    Args:
        few_sizes: what does not fill a batch is split into powers of two, so that few sizes of batches occur.
        window: only so many images that follow one another may share batches; None: all may.
    """
    step = window or max(1, len(canvases))
    batches: list[list[int]] = []
    for first in range(0, len(canvases), step):
        near = np.array(canvases[first : first + step]).reshape(-1, 2)
        batches += [[first + i for i in batch] for batch in batches_by_shape(near, batch_size)]
    if few_sizes:
        batches = [part for batch in batches for part in _powers_of_two(batch, batch_size)]
    if device.type != "cpu":
        return batches
    fewer = [max(1, CPU_BATCH // (canvases[batch[0]][0] * canvases[batch[0]][1])) for batch in batches]
    return [batch[i : i + n] for batch, n in zip(batches, fewer, strict=True) for i in range(0, len(batch), n)]


def _powers_of_two(batch: list[int], batch_size: int) -> Iterator[list[int]]:
    while batch:
        count = len(batch) if len(batch) == batch_size else 1 << len(batch).bit_length() - 1
        yield batch[:count]
        batch = batch[count:]


def batches_by_shape(shapes: np.ndarray, batch_size: int) -> list[list[int]]:
    """Split images into batches of one shape each, so that nothing is padded; every image once.

    Args:
        shapes: (N, 2) height and width as the model will see them.
    """
    order = np.lexsort((shapes[:, 1], shapes[:, 0]))
    changes = np.flatnonzero((np.diff(shapes[order], axis=0) != 0).any(1)) + 1
    runs = np.split(order, changes)
    return [run[i : i + batch_size].tolist() for run in runs for i in range(0, len(run), batch_size)]
