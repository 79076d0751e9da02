"""The state of a training run: what a checkpoint holds, exactly.

    TrainingState.to_dict()  →  torch.save … torch.load  →  SavedState.parse()  →  TrainingState.restore()

A step is a function of the recipe and its number (see `loop.py`), so nothing else has to be kept: no generator's state, no
place in the data. Recipe, data and the model's configuration are in a checkpoint to be compared, and the model's also to
build it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.detector import ObjectDetectionModel
from ..models.segmenter import SegmentationModel
from .checkpoint_files import checkpoint_path, save_checkpoint, step_in_name
from .optimizer import MovingAverage
from .recipe import MOST, Recipe


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


@dataclass
class Pace:
    """How fast training goes, between two lines of the log. Evaluating and saving do not count."""

    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0  # seconds of these in which there was no batch yet
    padding: float = 0.0  # sum over steps of the share of the canvas that is padding

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


class TrainingState:
    """What training changes: weights, optimizer, moving average, the scaler of fp16, progress and pace.

    Args:
        recipe: of the run.
        data: fingerprints of the training and the validation set.
        processes: the most that the run has had at once. They decide into how many micro-batches a step is split, so that
            fewer processes make the same ones.
        model: on its device, in the layout it is trained in.
        optimizer: of the model's parameters.
        average: the moving average of the model's weights, where the recipe asks for one.
        scaler: of fp16; None for other precisions.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: list[int],
        processes: int,
        model: ObjectDetectionModel | SegmentationModel,
        optimizer: torch.optim.Optimizer,
        average: MovingAverage | None,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self.recipe, self.data, self.processes, self.scaler = recipe, data, processes, scaler
        self.model, self.optimizer, self.average = model, optimizer, average
        self.progress, self.pace = Progress(), Pace()
        # What a forward pass changes in training: batch norm's statistics, and those from before the step.
        self._statistics: list[Tensor] = []
        if model.config.backbone_norm == "batch":
            self._statistics = [b for n, b in model.named_buffers() if "running_" in n or "num_batches" in n]
        self._statistics_before = [buffer.clone() for buffer in self._statistics]

    @property
    def evaluated_model(self) -> ObjectDetectionModel | SegmentationModel:
        """The model that is evaluated and written: the moving average, where there is one."""
        return self.model if self.average is None else self.average.module

    def keep_statistics(self) -> None:
        """Keep what the step that begins will change before its weights, for `forget_step`."""
        if self._statistics:
            torch._foreach_copy_(self._statistics_before, self._statistics)

    def forget_step(self) -> None:
        """Go back to the state before a step that failed: its weights are still there, batch norm's statistics not."""
        self.optimizer.zero_grad(set_to_none=True)
        if self._statistics:
            torch._foreach_copy_(self._statistics, self._statistics_before)

    def to_dict(self) -> dict[str, Any]:
        """The content of a checkpoint."""
        return {
            "recipe": self.recipe.to_dict(),
            "data": self.data,
            "threads": torch.get_num_threads(),
            "processes": self.processes,
            "config": {"model_type": self.model.config.model_type, **self.model.config.to_dict()},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.average is None else self.average.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "progress": vars(self.progress),
            "pace": vars(self.pace),
        }

    def restore(self, saved: SavedState) -> None:
        """Take over what a checkpoint of the same recipe holds.

        Raises:
            ValueError: its parts do not fit into these; the message says which.
        """
        self._check_fit(saved)
        self.model.load_state_dict(saved.model)
        own_groups = self.optimizer.state_dict()["param_groups"]  # checked to be the same where they matter
        self.optimizer.load_state_dict({"state": saved.optimizer["state"], "param_groups": own_groups})
        if self.average is not None and saved.average is not None:
            self.average.load_state_dict(saved.average)
        if saved.scaler and self.scaler is not None:
            try:
                self.scaler.load_state_dict(saved.scaler)
            except (KeyError, TypeError, RuntimeError) as error:
                raise ValueError(f"its scaler cannot be used: {error}") from None
        self.progress, self.pace = saved.progress, saved.pace
        self.keep_statistics()

    def _check_fit(self, saved: SavedState) -> None:
        """PyTorch checks neither all names and shapes, nor before it has loaded some."""
        _check_tensors("model", saved.model, self.model.state_dict())
        if self.average is not None:
            if saved.average is None:
                raise ValueError("it has no moving average of the weights (ema), and the recipe asks for one")
            _check_tensors("ema", saved.average, self.average.state_dict())
        _check_optimizer(saved.optimizer, self.optimizer, begun=saved.progress.step > 0)

    @property
    def checkpoint(self) -> Path:
        """The file that this state is written to."""
        return checkpoint_path(Path(self.recipe.output) / "checkpoints", self.progress.step)

    def save(self) -> Path:
        """Write a checkpoint, and return its path.

        Raises:
            OSError: it cannot be written; the checkpoints before it are untouched.
        """
        return save_checkpoint(self.checkpoint.parent, self.progress.step, self.to_dict(), self.recipe.keep_checkpoints)


@dataclass
class SavedState:
    """The content of a checkpoint, of which `parse` has checked that it has the form of one."""

    recipe: dict[str, Any]
    data: list[Any]
    threads: int  # 0 where it was not kept
    processes: int  # likewise
    config: dict[str, Any] | None  # of the model, with its `model_type`
    model: Mapping[str, Any]
    optimizer: dict[str, Any]
    average: Mapping[str, Any] | None
    scaler: dict[str, Any] | None
    progress: Progress
    pace: Pace

    @classmethod
    def parse(cls, path: Path, content: Any) -> SavedState:
        """Check the content of a file: it must have `recipe`, `data`, `model`, `optimizer` and `progress`; `config`, `ema`,
        `scaler`, `pace`, `threads` and `processes` may be absent, and all but the last two None, as versions before wrote it.

        Raises:
            ValueError: it is no checkpoint, or a damaged one; the message names the file.
        """
        needed = {"recipe": dict, "data": list, "model": Mapping, "optimizer": dict, "progress": dict}
        absent = [name for name in needed if name not in content] if isinstance(content, dict) else list(needed)
        if absent:
            raise ValueError(
                f"{path} is not a checkpoint of a training run (it has no {absent[0]}); start from weights with --init_from"
            )
        for name, kind in {**needed, "config": dict, "ema": Mapping, "scaler": dict, "pace": dict}.items():
            value = content.get(name)
            if not isinstance(value, kind) and not (value is None and name not in needed):
                raise ValueError(f"{path} is damaged: its {name} is of type {type(value).__name__}")
        # Versions that did not keep the evaluated step wrote a checkpoint after the evaluation.
        progress = {"evaluated_step": content["progress"].get("step"), **content["progress"]}
        required = ("step", "evaluated_step", "best", "best_step", "evaluations_since_best")
        if absent := [name for name in required if name not in progress]:
            raise ValueError(f"{path} is damaged: its progress has no {absent[0]}")
        pace = content.get("pace") or {}
        _check_numbers(path, "progress", Progress, progress)
        _check_numbers(path, "pace", Pace, pace)
        counts = {name: content.get(name, 0) for name in ("threads", "processes")}
        for name, count in counts.items():
            if type(count) is not int or not 0 <= count <= MOST.get(name, count):
                raise ValueError(f"{path} is damaged: it says that it was of {count!r} {name}")
        if step_in_name(path) not in (None, progress["step"]):
            raise ValueError(f"{path} is damaged: it says that it is of step {progress['step']}")
        return cls(
            recipe=content["recipe"],
            data=content["data"],
            **counts,
            config=content.get("config"),
            model=content["model"],
            optimizer=content["optimizer"],
            average=content.get("ema"),
            scaler=content.get("scaler"),
            progress=Progress(**_known(Progress, progress)),
            pace=Pace(**_known(Pace, pace)),
        )


def _known(kind: type[Progress | Pace], values: dict[str, Any]) -> dict[str, Any]:
    return {spec.name: values[spec.name] for spec in fields(kind) if spec.name in values}


def _check_numbers(path: Path, what: str, kind: type[Progress | Pace], values: dict[str, Any]) -> None:
    for spec in fields(kind):
        value = values.get(spec.name, 0)
        whole = spec.type == "int"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError(f"{path} is damaged: its {what} has {spec.name} {value!r}, which is no number")


def _check_tensors(what: str, saved: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    if different := sorted(set(map(str, saved)) ^ set(own)):
        where = "lacks" if different[0] in own else "has, but should not,"
        raise ValueError(f"its {what} {where} {different[0]} ({len(different)} such tensors)")
    for name, tensor in own.items():
        value = saved[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            found = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"its {what} has {name} as {found}, not {tuple(tensor.shape)} {tensor.dtype}")


def _check_optimizer(saved: dict[str, Any], own: torch.optim.Optimizer, begun: bool) -> None:
    """Check the form of an optimizer's saved state, its settings, and the shapes of its tensors."""
    try:
        groups = [{**group, "params": list(group["params"])} for group in saved["param_groups"]]
        states = {int(number): dict(values) for number, values in saved["state"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError("its optimizer has not the form of one") from None
    decided = ("params", "base_lr", "betas", "eps", "weight_decay")  # by the recipe, which is the same
    if [[_comparable(g.get(n)) for n in decided] for g in groups] != [
        [_comparable(g[n]) for n in decided] for g in own.state_dict()["param_groups"]
    ]:
        raise ValueError("its optimizer is of other parameters or settings than the recipe's")
    parameters = dict(enumerate(p for group in own.param_groups for p in group["params"]))
    if not set(states) <= set(parameters) or (begun and not states):
        raise ValueError(f"its optimizer has a state for {len(states)} parameters, the model has {len(parameters)}")
    for number, values in states.items():
        shape = tuple(parameters[number].shape)
        for name, expected in (("step", ()), ("exp_avg", shape), ("exp_avg_sq", shape)):
            value = values.get(name)
            if not isinstance(value, Tensor) or tuple(value.shape) != expected or not value.is_floating_point():
                raise ValueError(f"its optimizer's {name} of parameter {number} has not the shape {expected}")


def _comparable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
