"""How many threads compute on a CPU, and how they wait. No PyTorch here until `use_threads`: this is settled before it is
loaded.

On a busy machine a step waits for its last thread, and threads that spin while they wait take the core from it: with as
many threads as cores a step can take many times as long as with one.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

SECONDS = 0.2  # at least so long is looked at how busy the machine is


def wait_briefly() -> None:
    """Let threads that wait for work soon sleep, where the user has not said otherwise. Has no effect once PyTorch is
    loaded.

    Measured on two cores, medians of the demo's training step: on a free machine, sleeping at once (OMP_WAIT_POLICY
    PASSIVE) takes 34 % longer, after 1,000 looks 8 %, after 20,000 3 %; on a busy one, where threads that spin took 4.3 s,
    0.7 s (at once) and 1.0 s (1,000 looks).
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "20000"  # GNU's OpenMP, as PyTorch has it on Linux
        os.environ["KMP_BLOCKTIME"] = "1"  # milliseconds; Intel's and LLVM's, as on Windows and macOS


class Moment(NamedTuple):
    """Seconds at one moment: the clock's, and what all cores have idled and this process has computed so far."""

    clock: float
    idle: float
    own: float


def moment() -> Moment:
    import psutil

    times, own = psutil.cpu_times(), os.times()
    return Moment(time.perf_counter(), times.idle + getattr(times, "iowait", 0.0), own.user + own.system)


def choose_threads(asked: int, most: int, since: Moment) -> tuple[int, str]:
    """How many threads to compute with, and a line that says so.

    Args:
        asked: what the user says; 0 chooses: as many as other programs leave cores, at least 1. `OMP_NUM_THREADS` is
            the user's word, too.
        most: as many as PyTorch takes of itself.
        since: when looking at the machine began, such as before PyTorch was loaded.
    """
    if asked:
        return asked, f"{_threads(asked)}, as --threads says"
    if os.environ.get("OMP_NUM_THREADS"):
        return most, f"{_threads(most)}, as OMP_NUM_THREADS says"
    if most > 1:
        time.sleep(max(0.0, since.clock + SECONDS - time.perf_counter()))
        now = moment()
        free = (now.idle - since.idle + now.own - since.own) / (now.clock - since.clock)
        chosen = min(most, max(1, round(free)))
        if chosen < most:
            busy = max(0.0, (os.cpu_count() or most) - free)
            return chosen, (
                f"{_threads(chosen)} of {most}: the machine is busy (other programs keep {busy:.1f} cores; --threads N "
                "takes N all the same)"
            )
    return most, _threads(most)


def _threads(number: int) -> str:
    return f"{number} thread{'s' if number > 1 else ''}"


def use_threads(asked: int, pytorch: bool = True) -> None:
    """Load PyTorch, and let it compute with as many threads as are asked for (0: see `choose_threads`).

    Args:
        pytorch: else it is not loaded, and the engines that run exported models are told.
    """
    before = moment()
    if pytorch:
        import torch

        number, line = choose_threads(asked, torch.get_num_threads(), before)
        torch.set_num_threads(number)
    else:
        from ..engines.engine import threads

        number, line = choose_threads(asked, threads(), before)
        os.environ["OMP_NUM_THREADS"] = str(number)
    if os.environ.get("RANK", "0") == "0":
        print(line)
