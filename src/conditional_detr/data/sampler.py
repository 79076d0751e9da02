"""The order in which training images are used: the batches of an epoch are a function of (seed, epoch).

Nothing here has state, so training resumes exactly, with any number of workers and processes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

# Under `group_by_shape`, images are sorted by shape within this many batches: enough that most batches are of one shape,
# and few enough that epochs still differ.
GROUPING_WINDOW = 32
# Images of a step that may be the same ones again, where the data set has fewer: the largest batch of the recipes.
REPEATED_BATCH = 64


class TrainingBatches(Sampler):
    """The micro-batches of one process, from a given step to the end of training, as lists of (epoch, index).

    A step takes `batch_size` images in all, the next ones of the epoch's permutation, whatever the number of processes
    and micro-batches they are split over; where it does not divide, micro-batches differ by one image. Images that do not fill a last step are left for the next epoch's
    permutation; a set smaller than a step is repeated to fill it, if that is of at most `REPEATED_BATCH` images.

    Args:
        sizes: (N, 2) height and width of the images.
        batch_size: images of an optimizer step, over all processes and micro-batches.
        parts: micro-batches of a step, over all processes.
        own_parts: which of these are this process's.
        start_step: optimizer steps already done.
        group_by_shape: put images of like shape into a batch, so that less padding is computed.

    Raises:
        ValueError: as `steps_of_an_epoch`.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        *,
        batch_size: int,
        parts: int,
        own_parts: range,
        epochs: int,
        seed: int,
        start_step: int = 0,
        group_by_shape: bool = False,
    ) -> None:
        self.steps_per_epoch = steps_of_an_epoch(len(sizes), batch_size)
        self.sizes, self.batch_size, self.own_parts = sizes, batch_size, own_parts
        self.epochs, self.seed, self.start_step, self.group_by_shape = epochs, seed, start_step, group_by_shape
        self.bounds = np.arange(parts + 1) * batch_size // parts  # of the micro-batches, among the images of a step

    def __len__(self) -> int:
        return (self.epochs * self.steps_per_epoch - self.start_step) * len(self.own_parts)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start_step, self.epochs * self.steps_per_epoch):
            epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
            if step_of_epoch == 0 or step == self.start_step:
                order = self.order(epoch)
            batch = order[step_of_epoch * self.batch_size : (step_of_epoch + 1) * self.batch_size]
            for part in self.own_parts:
                chosen = batch[self.bounds[part] : self.bounds[part + 1]]
                yield [(epoch, int(index)) for index in chosen]

    def order(self, epoch: int) -> np.ndarray:
        """The images of an epoch in the order they are used. (steps_per_epoch · batch_size,)"""
        rng = np.random.default_rng([self.seed, epoch])
        needed = self.steps_per_epoch * self.batch_size
        rounds = -(-needed // len(self.sizes))
        order = np.concatenate([rng.permutation(len(self.sizes)) for _ in range(rounds)])[:needed]
        if not self.group_by_shape:
            return order
        shape = np.log(self.sizes[:, 0] / self.sizes[:, 1])
        window = GROUPING_WINDOW * self.batch_size
        grouped = [
            chunk[np.argsort(shape[chunk], kind="stable")] for chunk in np.split(order, range(window, needed, window))
        ]
        batches = np.concatenate(grouped).reshape(-1, self.batch_size)
        return rng.permutation(batches).reshape(-1)


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
