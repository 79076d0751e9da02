"""Before the first step: what would end a run hours later, tried in a minute at most.

    undisturbed         weights, optimizer, progress and random numbers are afterwards what they were before
        the largest batch that the data can make: forward, backward, optimizer             largest.py
        the run's next batch, learned for a few steps
        a checkpoint and a model, written and read again                                   state.py
        an evaluation of the largest validation images                                     validation.py
    what it took is told: memory, disk, time

All of it goes through the run's own functions, so it fails as the run would, with the same advice (`failures.py`).
"""

from __future__ import annotations

import dataclasses
import io
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..data.sampler import TrainingBatches
from ..data.samples import Batch, collate
from ..workers import worker_count
from .checkpoint_files import read_checkpoint, save_checkpoint
from .failures import (
    BatchTooLarge,
    DiskTooSmall,
    EvaluationFails,
    FirstLossNotFinite,
    LossNotFinite,
    OutOfMemory,
    amount,
)
from .largest import largest_batch, largest_evaluation
from .peak_memory import begin_peak, memory_in_use, memory_limit, peak_memory
from .run import Run
from .state import SavedState
from .validation import evaluate_on, write_model

SECONDS = 60.0  # for all of it; what would take longer is computed from smaller batches, or left out, and that is said
STEPS = 8  # on one batch: enough for its loss to fall
FEW = (1, 2)  # images by which a CPU's time and memory are told beforehand: where memory is full, Linux kills
LARGE = 1_000_000  # pixels of a batch, from which on that is done
NEARLY = 0.9  # of the memory: so much is worth a word

Step = Callable[[Run, list[Batch]], list[dict[str, Tensor]]]


@dataclass
class Findings:
    """What was measured; None where it was not."""

    shape: tuple[int, ...] = ()  # of the largest micro-batch
    objects: int = 0  # of its fullest image
    peak: int | None = None  # bytes of memory that it takes
    estimated: bool = False  # from fewer images
    limit: int | None = None  # bytes of memory that there are
    step_seconds: float = 0.0
    loading_seconds: float = 0.0  # of a step's images, in one process
    losses: list[float] = field(default_factory=list)  # of one batch, step by step
    evaluation_seconds: float = 0.0
    checkpoint: int = 0  # bytes on disk
    model: int = 0


def preflight(run: Run, step: Step) -> None:
    """Try what the run will do, tell what it needs, and leave everything as it was.

    Args:
        step: makes an optimizer step of micro-batches, as training does.

    Raises:
        PreflightFailed, OSError: the run would fail, and how to change that.
    """
    if not run.recipe.preflight or run.progress.step >= run.total_steps:
        return
    trial = _Trial(run, step)
    with _undisturbed(run) as (scratch, restore):
        trial.largest_batch()
        restore()
        trial.next_batch()
        trial.saving(scratch)
        trial.evaluation(scratch)
    _tell(run, trial.found, time.monotonic() - trial.started)
    run.log.started_at = time.monotonic()  # what is left is told from the pace of the steps


@contextmanager
def _undisturbed(run: Run) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder for the block, on the run's disk, and what undoes the steps made so far; afterwards it is as before. After an
    error only the folder is gone: the run ends with it."""
    state, device, scratch = run.state, run.processes.device, run.output / ".preflight"
    if run.processes.is_first:
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    before = io.BytesIO()
    torch.save(state.to_dict(), before)

    def restore() -> None:
        before.seek(0)
        content = torch.load(before, map_location="cpu", weights_only=True)
        state.restore(SavedState.parse(state.checkpoint, content))
        state.optimizer.zero_grad(set_to_none=True)

    state.recipe = dataclasses.replace(run.recipe, output=str(scratch))  # a step that fails saves the state
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            run.ddp.train()
            yield scratch, restore
            restore()
    finally:
        state.recipe = run.recipe
        if run.processes.is_first:
            shutil.rmtree(scratch, ignore_errors=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()


class _Trial:
    """The parts of a preflight, in their order; each adds to `found`."""

    def __init__(self, run: Run, step: Step) -> None:
        self.run, self.step, self.found = run, step, Findings()
        self.device = run.processes.device
        self.started = time.monotonic()
        assert isinstance(run.loader.batch_sampler, TrainingBatches)
        self.batches = run.loader.batch_sampler

    def seconds_left(self) -> float:
        """The same on all processes."""
        return SECONDS - max(self.run.processes.gather([time.monotonic() - self.started]))

    def timed(self, micro_batches: list[Batch]) -> tuple[float, float]:
        """Make a step. Returns how long it took, on the slowest process, and its loss, the mean over processes."""
        run, started = self.run, time.perf_counter()
        try:
            losses = self.step(run, micro_batches)
            loss = float(torch.stack([values["loss"] for values in losses]).sum())  # waits for the device
        except RuntimeError as error:
            if OutOfMemory.is_meant_by(error):
                shape = max((tuple(batch.images.shape) for batch in micro_batches), key=math.prod)
                raise BatchTooLarge(self.found.shape, self.found.objects, tried=shape) from error
            raise
        both = run.processes.gather([(time.perf_counter() - started, loss)])
        return max(seconds for seconds, _ in both), statistics.fmean(loss for _, loss in both)

    def largest_batch(self) -> None:
        """Forward, backward and optimizer on the largest batch; on a CPU on an image or two of it first, which tell whether
        memory and time allow it."""
        run, found = self.run, self.found
        batch = largest_batch(run.train_set, self.batches, run.recipe.augmentation)
        count, in_use = len(batch.images), memory_in_use(self.device)
        found.shape = tuple(batch.images.shape)
        found.objects = max(len(label["boxes"]) for label in batch.labels)
        found.limit = memory_limit(self.device)
        points = [] if in_use is None else [(0, in_use + self.trained_bytes() + self.optimizer_to_come())]
        large = batch.images.numel() > 3 * LARGE and self.device.type == "cpu"
        for n in [n for n in FEW if large and n < count]:
            found.step_seconds = self.tried(batch, n, points) * count / n
            found.peak, found.estimated = _line(points, count), True
            full = found.peak is not None and found.limit is not None and found.peak > found.limit
            slow = found.step_seconds > self.seconds_left() / 4
            if self.any(full) and (n == FEW[-1] or slow):
                raise BatchTooLarge(found.shape, found.objects, found.peak, found.limit)
            if slow:
                return
        found.step_seconds = self.tried(batch, count, points)
        if self.device.type != "cpu" or run.recipe.compile:  # the first one has started the device, or compiled
            found.step_seconds = self.tried(batch, count, points)
        found.peak, found.estimated = points[-1][1] if points else None, False

    def trained_bytes(self) -> int:
        """Of the weights that are trained, and as many of their gradients, however many images there are."""
        trained = [p for group in self.run.state.optimizer.param_groups for p in group["params"]]
        return sum(p.numel() * p.element_size() for p in trained)

    def optimizer_to_come(self) -> int:
        """Bytes that the first step will add to AdamW's state: two values a weight."""
        return 0 if self.run.state.optimizer.state else 2 * self.trained_bytes()

    def tried(self, batch: Batch, count: int, points: list[tuple[int, int]]) -> float:
        """Make a step of a batch's first images. Returns the seconds of a micro-batch; adds images and bytes to `points`."""
        mask = None if batch.pixel_mask is None else batch.pixel_mask[:count]
        part = dataclasses.replace(batch, images=batch.images[:count], pixel_mask=mask, labels=batch.labels[:count])
        # From the second micro-batch of a step on there are gradients beside the activations.
        times = min(2, len(self.run.parts))
        begin_peak(self.device)
        started = time.perf_counter()
        with suppress(LossNotFinite):  # of drawn pixels; whether that of pictures is, the next batch tells
            self.timed([part] * times)
        seconds = max(self.run.processes.gather([time.perf_counter() - started]))
        if (peak := peak_memory(self.device)) is not None:
            points.append((count, peak))
        return seconds / times

    def any(self, flag: bool) -> bool:
        return bool(self.run.processes.any(torch.tensor(flag, device=self.device)))

    def next_batch(self) -> None:
        """The run's next batch, some times over with the full learning rates: its loss falls, or something is wrong."""
        run, found = self.run, self.found
        data, keys = run.loader.dataset, iter(self.batches)
        started = time.perf_counter()
        batches = [collate([data[key] for key in next(keys)]) for _ in run.parts]
        found.loading_seconds = time.perf_counter() - started
        largest = torch.Size(found.shape).numel()
        expected = found.step_seconds * sum(batch.images.numel() for batch in batches) / largest
        steps = min(STEPS, int(self.seconds_left() / 2 / max(max(run.processes.gather([expected])), 1e-3)))
        found.step_seconds = expected
        progress, begun = run.progress, run.progress.step
        # One number, so that dropout drops the same units each time.
        progress.step = min(max(begun, run.recipe.warmup_steps - 1), run.total_steps - 1)
        seconds = []
        for number in range(1, steps + 1):
            try:
                taken, loss = self.timed(batches)
            except LossNotFinite as error:
                raise FirstLossNotFinite(number, error.image_ids) from error
            seconds.append(taken)
            found.losses.append(loss)
        progress.step = begun
        if seconds:
            found.step_seconds = statistics.median(seconds[1:] or seconds)

    def evaluation(self, scratch: Path) -> None:
        """An evaluation of the largest images, twice: the first one starts what the others find started."""
        run, data = self.run, self.run.val_set
        if data is None:
            return
        images = largest_evaluation(run, data)
        for _ in range(2):
            started = time.perf_counter()
            try:
                evaluate_on(run, images, scratch / "validation.jpg")
            except (OSError, ValueError, RuntimeError) as error:
                raise EvaluationFails(error) from error
            seconds = max(run.processes.gather([time.perf_counter() - started]))
            if seconds > self.seconds_left():
                break
        self.found.evaluation_seconds = seconds * len(data) / len(images)

    def saving(self, scratch: Path) -> None:
        """A checkpoint and a model, written and read again by the first process."""
        run, found = self.run, self.found

        def save() -> tuple[tuple[int, int, int], None]:
            path = save_checkpoint(scratch / "checkpoints", run.progress.step, run.state.to_dict(), keep=1)
            run.state.restore(SavedState.parse(path, read_checkpoint(path)))
            write_model(run, scratch / "model", run.state.evaluated_model, {})
            type(run.state.model).from_pretrained(scratch / "model")
            # Of a run that is continued, what will be written again is there already.
            there = sum(_size(run.output / name) for name in (scratch.name, "checkpoints", "best", "model"))
            free = shutil.disk_usage(scratch).free + there
            return (path.stat().st_size + self.optimizer_to_come(), _size(scratch / "model"), free), None

        (found.checkpoint, found.model, free), _ = run.processes.from_first(save)
        if disk_needed(run, found) > free:
            raise DiskTooSmall(run.output, disk_needed(run, found), free, run.recipe.keep_checkpoints)


def disk_needed(run: Run, found: Findings) -> int:
    """Bytes of the checkpoints that are kept and the one that is being written, and of the models, likewise."""
    return (run.recipe.keep_checkpoints + 1) * found.checkpoint + (2 + (run.val_set is not None)) * found.model


def _line(points: Sequence[tuple[int, int]], at: int) -> int | None:
    """The value at `at` of the line through the last two points; None where there are fewer."""
    if len(points) < 2:
        return None
    (x0, y0), (x1, y1) = points[-2:]
    return y1 + max(0, y1 - y0) * (at - x1) // (x1 - x0)


def _size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tell(run: Run, found: Findings, seconds: float) -> None:
    """Say what the run needs, in four lines."""
    recipe, say = run.recipe, run.log.say
    workers = worker_count(recipe.workers)
    step = found.step_seconds
    step = max(step, found.loading_seconds / workers) if workers else step + found.loading_seconds
    left = run.total_steps - run.progress.step
    evaluations = -(-left // (run.steps_per_epoch * recipe.eval_epochs)) if run.val_set is not None else 0
    total = left * step + evaluations * found.evaluation_seconds
    validated = f", {duration(found.evaluation_seconds)} an evaluation" if evaluations else ""
    say(
        f"preflight: some {step:.2g} s a step, {duration(step * run.steps_per_epoch)} an epoch{validated}: "
        f"{duration(total)} in all"
    )
    if found.peak is not None and found.limit is not None:
        how = "estimated from fewer images" if found.estimated else "tried"
        how += "; little is left for anything else" if found.peak > NEARLY * found.limit else ""
        say(
            f"preflight: the largest batch, {found.shape} with up to {found.objects} objects an image, takes "
            f"{amount(found.peak)} of {amount(found.limit)} of memory ({how})"
        )
    say(
        f"preflight: {amount(disk_needed(run, found))} of disk for checkpoints and models; both were written and read again"
    )
    if len(found.losses) > 1 and run.progress.step == 0:
        say(_learning(run, found.losses))
    say(f"preflight: it fits ({seconds:.0f} s)")


def _learning(run: Run, losses: Sequence[float]) -> str:
    """What is to be said of the losses of one batch, step by step."""
    course = f"the loss of one batch, learned for {len(losses)} steps: {losses[0]:.3g} → {losses[-1]:.3g}"
    if losses[-1] < losses[0]:
        return f"preflight: {course}"
    return (
        f"warning: preflight: {course}; it should fall. lr ({run.recipe.lr:g}, backbone_lr {run.recipe.backbone_lr:g}) may be "
        "too high, or far too low; or the boxes are not where the objects are: look at batch.jpg"
    )


def duration(seconds: float) -> str:
    """A time in words, with two digits."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
