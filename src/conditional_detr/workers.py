"""Loading processes: how many, and that they end with the block that started them, whatever ends it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from multiprocessing import AuthenticationError
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

ASKING_TO_STOP = (signal.SIGINT, signal.SIGTERM)
SHARED_MEMORY = (
    "shared memory (/dev/shm) is full. Give the container more (docker run --shm-size 8g), or take fewer --workers"
)


class WorkerDied(RuntimeError):
    """A loading process ended by itself; the message says how, and what to do."""


def worker_count(workers: int, predicting_on: str = "") -> int:
    """The number of loading processes: as said, or (-1) one for each core, at most 8; none where a CPU predicts, which
    needs its cores more (measured: 289 against 337 ms for an image of a mixed folder)."""
    if workers < 0 and predicting_on == "cpu":
        return 0
    return workers if workers >= 0 else min(8, os.cpu_count() or 1)


@contextmanager
def batches_of(loader: DataLoader) -> Iterator[Iterator[Any]]:
    """The loader's batches, for as long as the block lasts; then its processes are gone.

    Signals that ask to stop are not for the processes: a terminal sends Ctrl-C, and a batch system SIGTERM, to all of
    them, and the parent needs its batches until its state is whole. So they start with these signals blocked, and are
    killed at the end: they hold nothing that could be lost, and one that waits in its queue could not be joined.

    PyTorch would raise in the main thread, wherever it is (between two halves of an update, say), when one of them dies.
    Here the next batch does.

    Raises:
        WorkerDied: at the next batch after a process died.
    """
    with _signals_blocked():
        batches = iter(loader)
    workers = getattr(batches, "_workers", [])  # PyTorch has no public way to end a loader's processes

    def end() -> None:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()

    # A generator that holds this block may live until Python ends, which would wait for the processes.
    atexit.register(end)
    try:
        with _no_alarm_for_children():
            try:
                yield _watched(batches, workers)
            finally:
                end()
    finally:
        atexit.unregister(end)


class SharedMemoryFull(RuntimeError):
    """A loading process could not hand its batch over."""


class InSharedMemory:
    """A `collate_fn` whose tensors are in shared memory where a loading process calls it.

    PyTorch would move them there in a thread of the process, where a full `/dev/shm` loses the batch: whoever waits for it
    waits for ever. Here it is an error like any other.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        batch = self.collate(samples)
        if get_worker_info() is not None:
            try:
                _share(batch)
            except (RuntimeError, OSError) as error:
                raise SharedMemoryFull(str(error)) from None
        return batch


def _share(value: Any) -> None:
    if isinstance(value, Tensor):
        value.share_memory_()
    elif isinstance(value, Mapping):
        _share(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            _share(part)
    elif is_dataclass(value):
        _share(vars(value))


def leave_signals_to_the_parent(worker: int) -> None:
    """`worker_init_fn` for Windows, and for processes that do not inherit what their parent blocks. A parent that stops in
    the middle of fetching a batch has done nothing wrong either: no word of the thread that hands it over."""
    for number in ASKING_TO_STOP:
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _unless_the_parent_hung_up


def _unless_the_parent_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, EOFError | ConnectionError | AuthenticationError):
        sys.__excepthook__(kind, error, trace)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes that start in the block keep these signals waiting for ever; this one gets them when it ends."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING_TO_STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _no_alarm_for_children() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _watched(batches: Iterator[Any], workers: list[Any]) -> Iterator[Any]:
    try:
        yield from batches
    except SharedMemoryFull as error:
        raise WorkerDied(f"a process that loads images could not hand a batch over: {SHARED_MEMORY}") from error
    except (RuntimeError, OSError, EOFError) as error:  # the last two where it died while handing a batch over
        for worker in workers:
            worker.join(timeout=0.5)
        ended = [worker.exitcode for worker in workers if worker.exitcode is not None]
        if not ended:
            raise
        raise WorkerDied(_explain(ended[0])) from error


def _explain(exit_code: int) -> str:
    how = f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"
    if exit_code < 0 and signal.Signals(-exit_code).name == "SIGBUS":
        return f"a process that loads images ended {how}: {SHARED_MEMORY}"
    return (
        f"a process that loads images ended {how}, most often because memory ran out: take fewer --workers (0 loads in "
        "the main process) or smaller images"
    )
