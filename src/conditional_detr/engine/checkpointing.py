"""A run's state on disk: checkpoints that are whole or absent, and resuming from them exactly."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.files import read_pickled, write_atomically

logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `step-N.pt`, then remove all but the last `keep` checkpoints.

    Raises:
        OSError: it cannot be written; the checkpoints before it are untouched.
    """
    path = folder / f"step-{step:08d}.pt"
    write_atomically(path, lambda beside: torch.save(state, beside))
    for old in checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, and its content. Damaged ones are passed over, and named."""
    for path in reversed(checkpoints(folder)):
        try:
            return path, read_pickled(path)
        except (ValueError, OSError) as error:
            logger.warning("%s; trying the one before", error)
    return None
