"""A cluster of Ray's: found or started, and what goes wrong in it as errors of one line."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..messages import one_line

SECONDS_TO_ANSWER = 15  # that a cluster may take
HERE = "local"
# Unless it is told not to, Ray tells its makers that it is used, and writes of its own affairs to the terminal.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


def check_cluster(address: str) -> None:
    """Check, before anything is begun, that there is a cluster; Ray itself would try for minutes.

    Args:
        address: see `connected`.

    Raises:
        RuntimeError: Ray is not installed, or nothing of Ray's answers there.
    """
    try:
        import pyarrow  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as error:
        raise RuntimeError(f'--cluster needs {error.name}: pip install "conditional-detr[cluster]"') from None
    if "://" in address:
        raise RuntimeError(
            f"--cluster is {address}: run the command on a machine of the cluster (ray job submit -- cdetr predict --cluster auto …)"
        )
    if address in (HERE, "auto"):
        return
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        answers = subprocess.run(command, capture_output=True, timeout=SECONDS_TO_ANSWER).returncode == 0
    except subprocess.TimeoutExpired:
        answers = False
    if not answers:
        raise RuntimeError(
            f"no cluster of Ray's answers at {address}: give host:port of its head (6379 as a rule), auto, or local"
        )


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A cluster, for as long as the block lasts; one that this process has joined before is taken as it is, and stays.

    Args:
        address: "local" starts one of this machine, without a page of its own; "auto" finds the one that this machine is of;
            host:port joins that of a running one.

    Raises:
        RuntimeError: it cannot be joined.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    at_sigterm = signal.getsignal(signal.SIGTERM)
    here: dict[str, Any] = {"include_dashboard": False} if address == HERE else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.")
        try:
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **here)
        except (OSError, ValueError, RuntimeError) as error:
            raise RuntimeError(f"the cluster {address} cannot be joined: {one_line(error)}") from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, at_sigterm)  # which Ray has taken, to end without cleaning up
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def causes() -> Iterator[None]:
    """What our own code raised on another machine is raised here as it was there, without Ray's account of the way."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        cause = _cause(error)
        if isinstance(cause, OSError | ValueError):
            raise cause from None
        raise RuntimeError(one_line(cause).rpartition("Error: ")[2] or one_line(cause)) from None


def _cause(error: BaseException) -> BaseException:
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None:
        error = inner
    return error
