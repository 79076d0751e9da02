"""Processes that train together notice when one of them ends: the others would wait for it in their next message, which some
kinds of network never end.

Each process says every other second that it is alive, in the store that the launcher (`torchrun`, `accelerate launch`) has
made for them, from a thread, so that a long computation does not count as silence. The first process watches the others,
and they watch it. Whoever ends by an error leaves word.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from .distributed import join
from .failures import ProcessLost

BEAT = 2.0  # seconds between two signs of life
SILENT = 40.0  # seconds without one after which a process is given up: reading a large JSON file can take half a minute
SUSPECTED = 8.0  # the same when a message has failed already
GRACE = 8.0  # seconds for a process to end by itself, before it is ended
NETWORK_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")  # in errors without a class


@contextmanager
def watching(output: Path) -> Iterator[None]:
    """While in the block, end this process where another one has ended, and say in one line which, and how to continue.

    Args:
        output: the run's folder.

    Raises:
        ProcessLost: another process has ended, which this one noticed in a message to it. Where it is stuck in a message,
            the line goes to standard error, and the process ends without raising.
    """
    state = join()
    if state.num_processes == 1 or not dist.is_initialized():
        yield
        return
    names = [os.urandom(4).hex()]  # the store may be that of processes before, which were started anew
    dist.broadcast_object_list(names, device=state.device if state.device.type == "cuda" else None)
    watch = _Watch(names[0], state.process_index, state.num_processes, output)
    watch.start()
    try:
        yield
    except Exception as error:
        if not _is_of_network(error):
            watch.leave_word(f"ended: {' '.join(str(error).split())}")
            raise
        if (lost := watch.who_is_lost()) is not None:
            raise ProcessLost(lost, output) from error
        raise
    finally:
        watch.end()


def _is_of_network(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in NETWORK_WORDS)
    )


class _Watch:
    """The signs of life of all processes, seen from one of them."""

    def __init__(self, name: str, rank: int, count: int, output: Path) -> None:
        self.rank, self.count, self.output = rank, count, output
        # A connection for each thread: one waits for the other's answers.
        self.store, self.threads_store = (_connect(f"conditional-detr/{name}") for _ in range(2))
        self.store.set(f"who/{rank}", f"{os.getpid()} on {platform.node()}")
        self.ending, self.thread = threading.Event(), threading.Thread(target=self._watch, daemon=True)
        self.found: str | None = None  # what is known of a process that is lost

    def start(self) -> None:
        self.thread.start()

    def end(self) -> None:
        self.ending.set()
        self.thread.join(timeout=BEAT)

    def leave_word(self, reason: str) -> None:
        """Let the others know why this process ends, unless one has ended before it."""
        with suppress(RuntimeError):
            self._tell(self.store, self.rank, reason)

    def who_is_lost(self) -> str | None:
        """Wait until it is known which process has ended, and say it; None where all are alive."""
        try:
            seen, until = self._beats(), time.monotonic() + SUSPECTED
            while time.monotonic() < until:
                if (word := self._word(self.store)) is not None:
                    return word
                time.sleep(BEAT / 4)
            now = self._beats()
            silent = [rank for rank in range(self.count) if rank != self.rank and now[rank] == seen[rank]]
            if silent:
                self._tell(
                    self.store, silent[0], "has ended without a word (killed, out of memory, or its machine is gone)"
                )
            return self._word(self.store)
        except RuntimeError:
            return self._no_store()

    def _watch(self) -> None:
        """Until the end: give signs of life, and look for those of others; end this process where it does not end by itself."""
        try:
            store = self.threads_store
            watched = [rank for rank in range(self.count) if rank != 0] if self.rank == 0 else [0]
            last = {rank: (-1, time.monotonic()) for rank in watched}  # sign, and when it was new
            while not self.ending.wait(BEAT) and self.found is None:
                store.add(f"beat/{self.rank}", 1)
                for rank in watched:
                    beat, now = store.add(f"beat/{rank}", 0), time.monotonic()
                    if beat != last[rank][0]:
                        last[rank] = (beat, now)
                    elif now - last[rank][1] > SILENT:
                        self._tell(store, rank, f"has been silent for {SILENT:.0f} seconds (stopped, or cut off)")
                self.found = self._word(store)
        except RuntimeError:
            self.found = self._no_store()
        if not self.ending.wait(GRACE):
            print(f"cdetr: {ProcessLost(str(self.found), self.output)}", file=sys.stderr, flush=True)
            os._exit(1)

    def _beats(self) -> list[int]:
        return [self.store.add(f"beat/{rank}", 0) for rank in range(self.count)]

    def _tell(self, store: dist.Store, rank: int, reason: str) -> None:
        """Write down what became of a process. The first word stands: others that end do so for its sake."""
        key = f"who/{rank}"
        who = f" ({store.get(key).decode()})" if store.check([key]) else ""
        store.compare_set("lost", "", f"process {rank} of {self.count}{who} {reason}")

    def _word(self, store: dist.Store) -> str | None:
        return store.get("lost").decode() if store.check(["lost"]) else None

    def _no_store(self) -> str:
        return f"the machine where processes meet ({os.environ['MASTER_ADDR']}) does not answer any more"


def _connect(prefix: str) -> dist.Store:
    host, port, patience = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timedelta(seconds=SUSPECTED)
    store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=patience)
    return dist.PrefixStore(prefix, store)
