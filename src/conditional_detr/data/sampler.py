"""The order in which training images are used: the batches of an epoch are a function of (seed, epoch), and of the sizes
that augmentation draws from the same.

Nothing here has state, so training resumes exactly, with any number of workers and processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

# Images of like shape are looked for within this many batches: enough that most batches are of nearly one shape, and few
# enough that epochs still differ and that their first batch does not wait for all sizes of the epoch.
GROUPING_WINDOW = 32
# Images of a step that may be the same ones again, where the data set has fewer: the largest batch of the recipes.
REPEATED_BATCH = 64


class TrainingBatches(Sampler):
    """The micro-batches of one process, from a given step to the end of training, as lists of (epoch, index).

    A step takes `batch_size` images in all, the next ones of the epoch's permutation, whatever the number of processes
    and micro-batches they are split over; where it does not divide, micro-batches differ by one image. Images that do not
    fill a last step are left for the next epoch's permutation; a set smaller than a step is repeated to fill it, if that is
    of at most `REPEATED_BATCH` images.

    Args:
        images: how many there are.
        batch_size: images of an optimizer step, over all processes and micro-batches.
        parts: micro-batches of a step, over all processes.
        own_parts: which of these are this process's.
        start_step: optimizer steps already done.
        drawn_size: gives height and width that an image (epoch, index) has once augmented; images of like shape are then
            put into a batch, so that less padding is computed. None: they come as the permutation has them.

    Raises:
        ValueError: as `steps_of_an_epoch`.
    """

    def __init__(
        self,
        images: int,
        *,
        batch_size: int,
        parts: int,
        own_parts: range,
        epochs: int,
        seed: int,
        start_step: int = 0,
        drawn_size: Callable[[int, int], tuple[int, int]] | None = None,
    ) -> None:
        self.steps_per_epoch = steps_of_an_epoch(images, batch_size)
        self.images, self.batch_size, self.own_parts = images, batch_size, own_parts
        self.epochs, self.seed, self.start_step, self.drawn_size = epochs, seed, start_step, drawn_size
        self.bounds = np.arange(parts + 1) * batch_size // parts  # of the micro-batches, among the images of a step

    def __len__(self) -> int:
        return (self.epochs * self.steps_per_epoch - self.start_step) * len(self.own_parts)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, skipped = divmod(self.start_step, self.steps_per_epoch)
        for epoch in range(first, self.epochs):
            for batch in itertools.islice(self.steps(epoch), skipped, None):
                for part in self.own_parts:
                    chosen = batch[self.bounds[part] : self.bounds[part + 1]]
                    yield [(epoch, int(index)) for index in chosen]
            skipped = 0

    def steps(self, epoch: int) -> Iterator[np.ndarray]:
        """The images of each step of an epoch, (batch_size,), in the order they are used."""
        rng = np.random.default_rng([self.seed, epoch])
        needed = self.steps_per_epoch * self.batch_size
        rounds = -(-needed // self.images)
        order = np.concatenate([rng.permutation(self.images) for _ in range(rounds)])[:needed]
        window = GROUPING_WINDOW * self.batch_size
        for chunk in np.split(order, range(window, needed, window)):
            if self.drawn_size is None:
                yield from chunk.reshape(-1, self.batch_size)
            else:
                sizes = np.array([self.drawn_size(epoch, int(index)) for index in chunk])
                grouped = chunk[order_by_shape(sizes, self.batch_size)]
                yield from rng.permutation(grouped.reshape(-1, self.batch_size))


def order_by_shape(sizes: np.ndarray, batch_size: int) -> np.ndarray:
    """An order in which each `batch_size` images, and those beside each other in them, are of like shape: the set is cut in
    two, by height or by width, where two canvases for all of each part cost least; and the parts again.

    Args:
        sizes: (n, 2) height and width.
    """
    count = len(sizes)
    if count < 2:
        return np.arange(count)
    cuts = np.arange(unit := batch_size if count > batch_size else 1, count, unit)
    least, best = np.inf, (np.arange(count), 0)
    for side in range(2):
        order = np.argsort(sizes[:, side], kind="stable")
        canvas = np.maximum.accumulate(sizes[order]).prod(1), np.maximum.accumulate(sizes[order[::-1]]).prod(1)
        costs = cuts * canvas[0][cuts - 1] + (count - cuts) * canvas[1][count - cuts - 1]
        if costs.min() < least:
            least, best = costs.min(), (order, cuts[costs.argmin()])
    order, cut = best
    return np.concatenate([part[order_by_shape(sizes[part], batch_size)] for part in (order[:cut], order[cut:])])


def steps_of_an_epoch(images: int, batch_size: int) -> int:
    """Optimizer steps that an epoch has.

    Raises:
        ValueError: a step would take the same images again and again.
    """
    most = max(images, REPEATED_BATCH)
    if batch_size > most:
        raise ValueError(
            f"batch_size is {batch_size}, and there are {images} training images: a step would see the same ones "
            f"many times over. Take at most {most}"
        )
    return max(1, images // batch_size)
