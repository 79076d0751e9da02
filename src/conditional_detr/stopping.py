"""Ctrl-C and SIGTERM: noted when they come, and obeyed where nothing is half-done."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# torchrun and terminals send one request as several signals within this time; a person's second one comes later.
SAME_REQUEST_SECONDS = 1.0
Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None  # of a signal, as Python takes it


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop, and has stopped. Like any KeyboardInterrupt it is no error, and passes through code
    that catches errors.

    Attributes:
        signal: the signal's number.
    """

    def __init__(self, signal_number: int, what_is_left: str = "") -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"stopped by {name}; {what_is_left}" if what_is_left else f"stopped by {name}")
        self.signal = signal_number


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """In the block, SIGTERM raises Interrupted, so that it cleans up as Ctrl-C does: loading processes are ended, files
    half-written removed."""

    def unwind(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return
    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopRequest:
    """While used as a context, SIGTERM and Ctrl-C are noted in `signal`, and said on standard error.

    A second Ctrl-C raises KeyboardInterrupt. In threads other than the main one, which get no signals, nothing happens.

    Attributes:
        signal: the number of the signal that asked to stop; 0 before any did.
        at_once: stop by raising Interrupted wherever the program is: nothing is half-done there.
    """

    def __init__(self, say: bool) -> None:
        self.signal, self.asked_at = 0, 0.0
        self.say, self.at_once = say, True
        self._handlers: dict[int, Handler] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.at_once:
            self.at_once, self.signal, self.asked_at = False, number, now
            raise Interrupted(number, "training had not begun")
        if not self.signal:
            self.signal, self.asked_at = number, now
            if self.say:  # print could be what the signal interrupted
                again = b"; Ctrl-C again stops without saving" if number == signal.SIGINT else b""
                os.write(2, b"\nstopping after this step" + again + b"\n")
        elif number == signal.SIGINT and now - self.asked_at > SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt
