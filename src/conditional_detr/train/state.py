"""A run's state on disk: checkpoints that are whole or absent, checked before they are used."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.weights import read_pickled
from ..files import write_atomically
from .recipe import MOST

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a run is."""

    step: int = 0
    evaluated_step: int = 0  # the step of the last evaluation; one that is due after `step` is done on resuming
    best: float = -1.0  # of the task's headline figure
    best_step: int = 0
    evaluations_since_best: int = 0
    bad_images: int = 0  # times that a damaged image was left out of training, by the first process
    mismatched_sizes: int = 0  # times that an image had another size than its annotations say

    @classmethod
    def of(cls, state: dict[str, Any]) -> Progress:
        """Of a checkpoint's content."""
        return cls(**_own_fields(cls, _with_evaluated_step(state["progress"])))


def _own_fields(kind: type[Progress] | type[Pace], values: dict[str, Any]) -> dict[str, Any]:
    return {spec.name: values[spec.name] for spec in fields(kind) if spec.name in values}


def _with_evaluated_step(progress: dict[str, Any]) -> dict[str, Any]:
    """Versions that did not keep it wrote a checkpoint after the evaluation."""
    return {"evaluated_step": progress.get("step"), **progress}


@dataclass
class Pace:
    """How fast training goes, between two lines of the log. Evaluating and saving do not count."""

    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0  # seconds of these in which there was no batch yet
    padding: float = 0.0  # sum over steps of the share of the canvas that is padding

    @classmethod
    def of(cls, state: dict[str, Any]) -> Pace:
        """Of a checkpoint's content; versions before kept none."""
        return cls(**_own_fields(cls, state.get("pace") or {}))

    def add(self, seconds: float, waiting: float, padding: float) -> None:
        """Count a step in."""
        self.steps += 1
        self.seconds += seconds
        self.waiting += waiting
        self.padding += padding

    def shares(self, batch_size: int) -> dict[str, float]:
        return {
            "images_per_second": round(batch_size * self.steps / self.seconds, 2),
            "data_share": round(self.waiting / self.seconds, 3),
            "padding_share": round(self.padding / self.steps, 3),
        }


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


def put_aside_after(folder: Path, step: int) -> None:
    """Rename the checkpoints of later steps than the one that a run continues from: they are damaged, or of a line that
    is given up, and would be taken for the newest."""
    for path in checkpoints(folder):
        if path.stem.removeprefix("step-").isdigit() and int(path.stem.removeprefix("step-")) > step:
            path.replace(path.with_suffix(".aside"))
            logger.warning("%s is put aside as %s", path, path.with_suffix(".aside").name)


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
    state = read_pickled(path)
    try:  # PyTorch does not look at the check sums
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if damaged:
        raise ValueError(f"{path} is damaged: the check sum of {damaged} is wrong")
    return state


def check_form(path: Path, state: Any) -> None:
    """Check that the content of a checkpoint has the form of one: `recipe`, `data`, `model`, `optimizer` and `progress`;
    `config` (of the model), `ema`, `scaler`, `pace` and `threads` may be absent or None, as versions before wrote it.

    Raises:
        ValueError: it has not; the message names the file.
    """
    kinds = {"recipe": dict, "data": list, "model": Mapping, "optimizer": dict, "progress": dict}
    absent = [name for name in kinds if name not in state] if isinstance(state, dict) else list(kinds)
    if absent:
        raise ValueError(
            f"{path} is not a checkpoint of a training run (it has no {absent[0]}); start from weights with --init_from"
        )
    for name, kind in {**kinds, "config": dict, "ema": Mapping, "scaler": dict, "pace": dict}.items():
        if not isinstance(value := state.get(name), kind) and not (value is None and name not in kinds):
            raise ValueError(f"{path} is damaged: its {name} is of type {type(value).__name__}")
    progress = _with_evaluated_step(state["progress"])
    required = ("step", "evaluated_step", "best", "best_step", "evaluations_since_best")
    if absent := [name for name in required if name not in progress]:
        raise ValueError(f"{path} is damaged: its progress has no {absent[0]}")
    kept: list[tuple[str, type[Progress] | type[Pace], dict[str, Any]]] = [
        ("progress", Progress, progress), ("pace", Pace, state.get("pace") or {}),
    ]  # fmt: skip
    for what, record, values in kept:
        for spec in fields(record):
            value = values.get(spec.name, 0)
            whole = spec.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise ValueError(f"{path} is damaged: its {what} has {spec.name} {value!r}, which is no number")
    threads = state.get("threads", 0)
    if not isinstance(threads, int) or not 0 <= threads <= MOST["threads"]:
        raise ValueError(f"{path} is damaged: it says that it was of {threads!r} threads")
    number = path.stem.removeprefix("step-")
    if number.isdigit() and int(number) != progress["step"]:
        raise ValueError(f"{path} is damaged: it says that it is of step {progress['step']}")


def check_fit(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> None:
    """Check that a checkpoint's tensors have the names and shapes of what they will be loaded into. PyTorch checks
    neither all of them nor before it has loaded some.

    Raises:
        ValueError: the first that does not fit.
    """
    _check_tensors("model", state["model"], model.state_dict())
    if average is not None:
        if state.get("ema") is None:
            raise ValueError("it has no moving average of the weights (ema), and the recipe asks for one")
        _check_tensors("ema", state["ema"], average.state_dict())
    saved = state["optimizer"]
    try:
        groups = [{**group, "params": list(group["params"])} for group in saved["param_groups"]]
        states = {int(number): dict(values) for number, values in saved["state"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError("its optimizer has not the form of one") from None
    own_groups = optimizer.state_dict()["param_groups"]
    decided = ("params", "base_lr", "betas", "eps", "weight_decay")  # by the recipe, which is the same
    if [[_comparable(g.get(n)) for n in decided] for g in groups] != [
        [_comparable(g[n]) for n in decided] for g in own_groups
    ]:
        raise ValueError("its optimizer is of other parameters or settings than the recipe's")
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    if not set(states) <= set(parameters) or (state["progress"]["step"] and not states):
        raise ValueError(f"its optimizer has a state for {len(states)} parameters, the model has {len(parameters)}")
    for number, values in states.items():
        parameter = parameters[number]
        own = {"step": (), "exp_avg": tuple(parameter.shape), "exp_avg_sq": tuple(parameter.shape)}
        for name, shape in own.items():
            value = values.get(name)
            if not isinstance(value, Tensor) or tuple(value.shape) != shape or not value.is_floating_point():
                raise ValueError(f"its optimizer's {name} of parameter {number} has not the shape {shape}")


def _comparable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_tensors(what: str, saved: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    if different := sorted(set(map(str, saved)) ^ set(own)):
        where = "lacks" if different[0] in own else "has, but should not,"
        raise ValueError(f"its {what} {where} {different[0]} ({len(different)} such tensors)")
    for name, tensor in own.items():
        value = saved[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            found = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"its {what} has {name} as {found}, not {tuple(tensor.shape)} {tensor.dtype}")
