"""What the processes that train together agree on. Each has its share of every step; a process that is alone sends
nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from ..losses.criterion import LossNormalizers, share_normalizers
from ..losses.matcher import to_device
from ..stopping import StopRequest

Sent = TypeVar("Sent")
Kept = TypeVar("Kept")


class Processes:
    """The processes of a run, seen from one of them.

    Attributes:
        count: how many there are.
        rank: the number of this one, from 0.
        device: of this one.
    """

    def __init__(self, accelerator: Accelerator, stop: StopRequest) -> None:
        self.count, self.rank, self.device = accelerator.num_processes, accelerator.process_index, accelerator.device
        self._stop, self._agreed_signal = stop, 0

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    @property
    def stop_signal(self) -> int:
        """The signal that asked to stop, 0 for none. Of several processes it is what they knew when the last step began:
        the same on all of them."""
        return self._stop.signal if self.alone else self._agreed_signal

    def from_first(self, find: Callable[[], tuple[Sent, Kept]]) -> tuple[Sent, Kept | None]:
        """Let the first process find something, since others may see another disk.

        Args:
            find: called on the first process; returns what all processes are to know, and what it has made of that for
                itself.

        Returns:
            both on the first process; on the others the first, and None.

        Raises:
            Exception: what `find` raised, on every process.
        """
        if self.alone:
            return find()
        kept: Kept | None = None
        message: list[Any] = [None, None]
        if self.is_first:
            try:
                message[0], kept = find()
            except Exception as error:
                message = [None, error]
        dist.broadcast_object_list(message, device=self.device if self.device.type == "cuda" else None)
        if message[1] is not None:
            raise message[1]
        return message[0], kept

    def begin_step(self, own: LossNormalizers) -> LossNormalizers:
        """Agree on what the step's losses are divided by and, in the same message, on whether to stop after it.

        Args:
            own: sums over this process's micro-batches.
        """
        if not self.alone:
            asked = [float(self._stop.signal == number) for number in (signal.SIGINT, signal.SIGTERM)]
            message = to_device(torch.tensor([*own, *asked], dtype=torch.float64), self.device)
            dist.all_reduce(message)
            boxes, class_weight, interrupted, terminated = message.tolist()
            own = LossNormalizers(boxes, class_weight)
            self._agreed_signal = signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0
        return share_normalizers(own, self.count)

    def any(self, flag: Tensor) -> bool:
        """Whether a flag, a bool tensor of one element, is set on any process. Waits for the device."""
        if not self.alone:
            summed = flag.float()
            dist.all_reduce(summed, dist.ReduceOp.MAX)
            flag = summed > 0
        return bool(flag)

    def gather(self, own: list[Any]) -> list[Any]:
        """The lists of all processes, one after another."""
        if self.alone:
            return own
        lists: list[Any] = [None] * self.count
        dist.all_gather_object(lists, own)
        return [value for values in lists for value in values]

    def take_from_first(self, buffers: Iterable[Tensor]) -> None:
        """Overwrite buffers with those of the first process: batch norm's statistics are each process's own."""
        if not self.alone:
            for buffer in buffers:
                dist.broadcast(buffer, src=0)
