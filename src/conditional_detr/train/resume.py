"""The checkpoint that a run continues from: found, checked to be of this run, and tried."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..files import remove_leftovers
from .checkpoint_files import checkpoints, read_checkpoint, readable_checkpoints
from .failures import NoUsableCheckpoint, RecipeChanged, RunExists, TrainingError
from .recipe import Recipe
from .recipe_changes import changed_fields
from .state import SavedState

logger = logging.getLogger(__name__)
Built = TypeVar("Built")


class Found(NamedTuple):
    """A checkpoint that can be used."""

    path: Path
    saved: SavedState


def find_checkpoint(
    recipe: Recipe, data: list[int], steps_per_epoch: int, build: Callable[[SavedState], Built]
) -> tuple[Found, Built] | tuple[None, None]:
    """Find the checkpoint to continue from, and build what it holds; nothing where a run is to start anew. A damaged one is
    passed over for the one before, unless it was asked for by name.

    Args:
        data: fingerprints of the training and the validation set.
        build: raises ValueError where what is in a checkpoint does not fit together.

    Raises:
        OSError: a file that was asked for by name cannot be read.
        TrainingError: the folder holds a run that is not to be continued, or one of another recipe; or no checkpoint that
            can be used.
    """
    output = Path(recipe.output)
    folder = output / "checkpoints"

    def try_out(path: Path, content: dict[str, Any]) -> tuple[Found, Built]:
        saved = SavedState.parse(path, content)
        _check_same_run(path, saved, recipe, data, steps_per_epoch)
        try:
            return Found(path, saved), build(saved)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    if not recipe.resume:
        if checkpoints(folder):
            raise RunExists(output)
        return None, None
    remove_leftovers(output)
    if recipe.resume != "auto":
        try:
            return try_out(Path(recipe.resume), read_checkpoint(Path(recipe.resume)))
        except ValueError as error:
            raise TrainingError(str(error)) from None
    for path, content in readable_checkpoints(folder):
        try:
            return try_out(path, content)
        except ValueError as error:
            logger.warning("%s; trying the one before", error)
    if checkpoints(folder):
        raise NoUsableCheckpoint(output)
    return None, None


def _check_same_run(path: Path, saved: SavedState, recipe: Recipe, data: list[int], steps_per_epoch: int) -> None:
    changes = changed_fields(saved.recipe, recipe.to_dict(), saved.progress.step, steps_per_epoch)
    if saved.data != data:
        changes.append("the data: other images or annotations than before")
    if changes:
        raise RecipeChanged(path, changes)
