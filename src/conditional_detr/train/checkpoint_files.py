"""The files `checkpoints/step-N.pt` of a run: whole or absent, and read only where their bytes are those that were
written. What is in them is said by `state.py`."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.weights import read_pickled
from ..files import write_atomically

logger = logging.getLogger(__name__)


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def save_checkpoint(folder: Path, step: int, content: dict[str, Any], keep: int) -> Path:
    """Write `step-N.pt`, then remove all but the last `keep` checkpoints.

    Raises:
        OSError: it cannot be written; the checkpoints before it are untouched.
    """
    path = checkpoint_path(folder, step)
    write_atomically(path, lambda beside: torch.save(content, beside))
    for old in checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def put_aside_after(folder: Path, step: int) -> None:
    """Rename the checkpoints of later steps than the one that a run continues from: they are damaged, or of a line that
    is given up, and would be taken for the newest."""
    for path in checkpoints(folder):
        number = step_in_name(path)
        if number is not None and number > step:
            path.replace(path.with_suffix(".aside"))
            logger.warning("%s is put aside as %s", path, path.with_suffix(".aside").name)


def step_in_name(path: Path) -> int | None:
    """The step that a checkpoint's name says; None where it says none."""
    number = path.stem.removeprefix("step-")
    return int(number) if number.isdigit() else None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, and its content."""
    return next(readable_checkpoints(folder), None)


def readable_checkpoints(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The checkpoints that can be read, newest first, and their content. Damaged ones are passed over, and named."""
    for path in reversed(checkpoints(folder)):
        try:
            yield path, read_checkpoint(path)
        except (ValueError, OSError) as error:
            logger.warning("%s; trying the one before", error)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint whose bytes are those that were written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged; the message names the file.
    """
    content = read_pickled(path)
    try:  # PyTorch does not look at the check sums
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if damaged:
        raise ValueError(f"{path} is damaged: the check sum of {damaged} is wrong")
    return content
