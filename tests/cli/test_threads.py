"""Threads: as many as the user says, or as other programs leave free."""

import os
import subprocess
import sys
import time

import pytest

from conditional_detr.cli.threads import Moment, choose_threads, moment


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def ago(seconds, idle, own):
    """A moment so many seconds ago, since when the cores have idled and this process has computed so long."""
    now = moment()
    return Moment(now.clock - seconds, now.idle - idle, now.own - own)


@pytest.mark.parametrize(
    ("idle", "own", "expected"),
    [(300, 100, 4), (0, 100, 1), (0, 20, 1), (100, 100, 2), (200, 60, 3), (1200, 100, 4)],
)
def test_as_many_as_other_programs_leave_free(idle, own, expected):
    """Of four, in a hundred seconds."""
    number, line = choose_threads(0, 4, ago(100, idle, own))
    assert number == expected
    assert line.startswith(f"{expected} thread") and ("the machine is busy" in line) == (expected < 4)


def test_what_the_user_says_counts(monkeypatch):
    busy = ago(100, 0, 10)
    assert choose_threads(3, 4, busy)[0] == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert choose_threads(0, 4, busy) == (4, "4 threads, as OMP_NUM_THREADS says")


def test_a_moment_tells_this_process_from_others():
    before = moment()
    while time.process_time() < before.own + 0.05:
        pass
    now = moment()
    assert now.own > before.own and now.idle >= before.idle and now.clock > before.clock


def seen_from_a_command(program, **environment):
    """What a program prints that has called `main` before PyTorch was loaded."""
    script = f"from conditional_detr.cli import main; main(['--version']); {program}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**kept, **environment}
    )
    return done.stdout.splitlines()[-1]


def test_threads_soon_sleep_while_they_wait_unless_the_user_says_otherwise():
    show = "import os; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('KMP_BLOCKTIME'))"
    assert seen_from_a_command(show) == "20000 1"
    assert seen_from_a_command(show, OMP_WAIT_POLICY="ACTIVE") == "None None"
    assert seen_from_a_command(show, GOMP_SPINCOUNT="1000") == "1000 None"
