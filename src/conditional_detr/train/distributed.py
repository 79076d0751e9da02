"""What the processes that train together agree on. Each has its share of every step; a process that is alone sends
nothing."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from ..losses.criterion import LossNormalizers, share_normalizers
from ..losses.matcher import to_device
from ..stopping import StopRequest
from .failures import NoUsableCheckpoint

Sent = TypeVar("Sent")
Kept = TypeVar("Kept")


def join() -> PartialState:
    """Meet the processes that were started together, if there are others. Asked again, it is the same."""
    # Without `cpu`, accelerate does not start several processes on CPUs.
    return PartialState(cpu=not torch.accelerator.is_available())


class Processes:
    """The processes of a run, seen from one of them.

    Attributes:
        count: how many there are.
        rank: the number of this one, from 0.
        device: of this one.
        folders: how many output folders there are: machines that share no disk have one each.
        writes: whether this process writes the files of its folder.
    """

    def __init__(self, stop: StopRequest) -> None:
        state = join()
        self.count, self.rank, self.device = state.num_processes, state.process_index, state.device
        self._local_rank = state.local_process_index
        self._stop, self._agreed_signal = stop, 0
        self.folders, self.writes = 1, self.is_first
        self._holder = 0

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks."""
        return self.rank == 0

    def share(self, parts: int) -> range:
        """Which of a step's `parts` micro-batches are this process's. There may be one more or less than another has."""
        return range(self.rank * parts // self.count, (self.rank + 1) * parts // self.count)

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
        found, failed = self._sent(message, 0)
        if failed is not None:
            raise failed
        return found, kept

    def from_newest(
        self, find: Callable[[], tuple[Sent, Kept | None]], step: Callable[[Sent], int | None]
    ) -> tuple[Sent | None, Kept | None]:
        """Let a process of each machine find a checkpoint, since each may see another disk, and all take the newest: the
        machine of the first process may be new, or be the one that was lost and is back.

        Args:
            find: called on the first process of each machine; returns what all are to know, and what it has made of that
                for itself.
            step: of what was found; None where that is nothing. The greatest is the newest.

        Returns:
            both on the process that found it; on the others the first, and None. Twice None where nobody found anything.

        Raises:
            Exception: what `find` raised anywhere, on every process; but that all checkpoints of a machine are damaged is
                no matter where another has some.
        """
        if self.alone:
            return find()
        own: Sent | None = None
        kept: Kept | None = None
        number: int | None = None
        failed: Exception | None = None
        if self._local_rank == 0:
            try:
                own, kept = find()
                number = step(own)
            except Exception as error:
                failed = error
        all_found = self.gather([(number, failed)])
        errors = [error for _, error in all_found if error is not None]
        newest = max((number for number, _ in all_found if number is not None), default=None)
        if newest is None:
            errors.sort(key=lambda error: isinstance(error, NoUsableCheckpoint))
        else:
            errors = [error for error in errors if not isinstance(error, NoUsableCheckpoint)]
        if errors:
            raise errors[0]
        if newest is None:
            return None, None
        self._holder = [number for number, _ in all_found].index(newest)
        (found,) = self._sent([own], self._holder)
        return found, kept if self.rank == self._holder else None

    def settle_writers(self, output: Path) -> None:
        """Find out which processes see the same folder, and let the first of these write there: what a run leaves is
        then on every disk, and losing one loses nothing.

        Args:
            output: there, on every machine.
        """
        if self.alone:
            return
        (number,) = self._sent([secrets.token_hex(4)], 0)  # a name that no network drive has been asked for before
        marks = [output / f".process-{number}-{rank}" for rank in range(self.count)]
        candidates = self.gather([self._local_rank == 0])
        if candidates[self.rank]:
            marks[self.rank].touch()
        dist.barrier()
        self.writes = candidates[self.rank] and not any(
            candidates[rank] and marks[rank].exists() for rank in range(self.rank)
        )
        self.folders = sum(self.gather([self.writes]))
        marks[self.rank].unlink(missing_ok=True)

    def copy_from_holder(self, output: Path, names: Iterable[str]) -> list[tuple[Path, bytes]]:
        """The files of a run as they are where its checkpoint was found: for a writer's folder that lacks them or has older
        ones.

        Args:
            names: patterns, of files in `output`.

        Returns:
            paths in `output` and contents; nothing on the process that has them, and on those that do not write.
        """
        files: list[tuple[str, bytes]] = []
        if self.rank == self._holder:
            paths = [path for name in names for path in sorted(output.glob(name)) if path.is_file()]
            files = [(path.relative_to(output).as_posix(), path.read_bytes()) for path in paths]
        (files,) = self._sent([files], self._holder)
        return (
            [(output / name, content) for name, content in files] if self.writes and self.rank != self._holder else []
        )

    def _sent(self, message: list[Any], sender: int) -> list[Any]:
        """A message of one process, on all of them. It is overwritten where it is not the sender's."""
        dist.broadcast_object_list(message, sender, device=self.device if self.device.type == "cuda" else None)
        return message

    def first_other(self, value: Any) -> int | None:
        """The first process that has another value than process 0; None where all have the same."""
        values = self.gather([value])
        return next((rank for rank, other in enumerate(values) if other != values[0]), None)

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
