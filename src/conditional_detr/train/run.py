"""The parts of a training run, as `setup.py` makes them and `loop.py` uses them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from ..data.dataset import DetectionDataset
from ..processors.image_processor import DetectionImageProcessor
from ..stopping import StopRequest
from .distributed import Processes
from .log import RunLog
from .recipe import Recipe
from .state import Progress, TrainingState


@dataclass
class Run:
    """One training run, of this process.

    Attributes:
        val_set: None where there is nothing to validate on.
        parts: which of a step's micro-batches are this process's.
        loader: these, from the step that the run begins at to the last.
        state: all that training changes, and that a checkpoint holds; its model is the plain one.
        ddp: the same model as training calls it: under DistributedDataParallel where there are several processes.
        processor: of the model's inputs.
        notes: what is said once, at the start.
    """

    recipe: Recipe
    output: Path
    stop: StopRequest
    processes: Processes
    accelerator: Accelerator
    train_set: DetectionDataset
    val_set: DetectionDataset | None
    parts: range
    loader: DataLoader
    steps_per_epoch: int
    state: TrainingState
    ddp: nn.Module
    processor: DetectionImageProcessor
    log: RunLog
    notes: list[str]

    @property
    def progress(self) -> Progress:
        return self.state.progress

    @property
    def epoch(self) -> float:
        """Passes over the training images that are done."""
        return self.progress.step / self.steps_per_epoch

    @property
    def total_steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    def save(self) -> Path:
        """Let a process of each output folder write a checkpoint, and all wait until they are there. Returns its path."""
        if self.processes.folders > 1:  # they are all to be the same
            self.take_statistics()
        if self.processes.writes:
            self.state.save()
        self.accelerator.wait_for_everyone()
        return self.state.checkpoint

    def take_statistics(self) -> None:
        """Take batch norm's statistics from the first process: each has its own."""
        average = self.state.average
        self.processes.take_from_first([*self.state.model.buffers(), *([] if average is None else average.buffers())])
