"""The training loop: `cdetr train`.

    set_up          data, model and optimizer, or all of it as a checkpoint has it           setup.py
    introduce       say what is about to happen
    preflight       try what would fail later, and leave everything as it was            preflight.py
    until the last step, or until a stop:
        validate    where an epoch has ended: figures, the best model, a checkpoint          validation.py
        _wait_for   this process's micro-batches of the step
        _step       forward, backward, clip, optimizer, moving average
        _log        every so many steps
        save        after an epoch, every so many steps, and where a stop was asked for      state.py
    finish          the model to keep, and its figures                                       validation.py

A step is a function of the recipe and the step's number: which images it takes, how they are augmented, which units
dropout drops in each micro-batch, what the learning rates are. So resuming needs the weights and the optimizer's state and
nothing else, and continues exactly. Validation comes after saving, so one that is stopped or fails is done on resuming.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.samples import Batch, seed_of
from ..evaluate.evaluation import HEADLINE
from ..losses.criterion import LossNormalizers, count_normalizers
from ..precision import subnormals_are_zero
from ..stopping import Interrupted, StopRequest
from ..workers import WorkerDied, batches_of
from .failures import (
    DamagedImage,
    DeviceFailed,
    LoadingEnded,
    LossNotFinite,
    OutOfMemory,
    stopped_after_saving,
    stopped_before_saving,
)
from .mirror import mirrored
from .optimizer import learning_rate_factor
from .pictures import draw_batch
from .preflight import preflight
from .recipe import Recipe
from .run import Run
from .setup import introduce, set_up
from .state import Pace
from .validation import finish, validate, validation_is_due
from .watch import watching


def train(recipe: Recipe) -> dict[str, Any]:
    """Train as the recipe says, in one process or in as many as were started (`torchrun`, `accelerate launch`).

    Writes to `recipe.output`: recipe.yaml, log.jsonl, curves.png, checkpoints/, best/, and at the end model/ and
    metrics.json.

    Returns:
        The contents of metrics.json.

    Raises:
        OSError, ValueError: the data or the recipe is at fault; nothing has been trained.
        TrainingError: the loss is no longer finite, a loading process or another training process died, or the run cannot be
            resumed.
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    first = os.environ.get("RANK", "0") == "0"
    with (
        mirrored(recipe) as recipe,
        StopRequest(say=first) as stop,
        watching(Path(recipe.output)),
        subnormals_are_zero(),
    ):
        try:
            return carry_out(set_up(recipe, stop))
        except Interrupted:
            raise
        except KeyboardInterrupt:  # a second Ctrl-C, which waits for nothing
            raise stopped_before_saving(signal.SIGINT, Path(recipe.output)) from None


def carry_out(run: Run) -> dict[str, Any]:
    """Train from where the run is to its end. Returns the contents of metrics.json."""
    introduce(run)
    preflight(run, _step)
    run.stop.at_once = False
    try:
        with run.log.progress:
            _loop(run)
        return finish(run)
    finally:
        run.accelerator.end_training()


def _loop(run: Run) -> None:
    recipe, state, progress = run.recipe, run.state, run.progress
    with batches_of(run.loader) as batches:
        run.ddp.train()
        while True:
            if validation_is_due(run):
                validate(run)
            if _has_ended(run):
                return
            started = time.perf_counter()
            micro_batches = _wait_for(run, batches)
            waited = time.perf_counter() - started
            _inspect(run, micro_batches)
            try:
                losses = _step(run, micro_batches)
            except RuntimeError as error:
                if OutOfMemory.is_meant_by(error):
                    state.forget_step()
                    shapes = [tuple(batch.images.shape) for batch in micro_batches]
                    raise OutOfMemory(progress.step + 1, shapes, state.save()) from error
                if isinstance(error, torch.AcceleratorError):
                    raise DeviceFailed(progress.step + 1, error, run.output) from error
                raise
            progress.step += 1
            progress.bad_images += sum(len(batch.bad_images) for batch in micro_batches)
            progress.mismatched_sizes += sum(batch.mismatched_sizes for batch in micro_batches)
            padding = sum(batch.padding for batch in micro_batches) / len(micro_batches)
            state.pace.add(time.perf_counter() - started, waited, padding)
            if progress.step % recipe.log_steps == 0 or progress.step == run.total_steps:
                _log(run, losses)
            _save_and_stop_if_due(run)


def _has_ended(run: Run) -> bool:
    patience = run.recipe.early_stopping
    if 0 < patience <= run.progress.evaluations_since_best:
        run.log.say(f"no better {HEADLINE[run.recipe.task]} in {patience} evaluations: stopping early")
        return True
    return run.progress.step >= run.total_steps


def _wait_for(run: Run, batches: Iterator[Batch]) -> list[Batch]:
    """The next step's micro-batches. A process that is alone stops waiting when it is asked to stop: a network drive may
    never answer."""
    try:
        run.stop.at_once = run.processes.alone
        try:
            return [next(batches) for _ in run.parts]
        finally:
            run.stop.at_once = False
    except WorkerDied as error:
        raise LoadingEnded(str(error), run.state.save()) from error
    except Interrupted as stopped:
        raise stopped_after_saving(stopped.signal, run.save()) from None


def _inspect(run: Run, micro_batches: list[Batch]) -> None:
    """Draw the run's first batch, once, and refuse damaged images where they are not to be left out."""
    picture = run.output / "batch.jpg"
    if run.processes.writes and not picture.exists():
        with suppress(OSError):  # training goes on without the picture; of a full disk the checkpoint tells
            draw_batch(picture, micro_batches[0], run.train_set.category_names)
    bad = [message for batch in micro_batches for message in batch.bad_images]
    if bad and not run.recipe.skip_bad_images:
        raise DamagedImage(bad[0])


def _step(run: Run, micro_batches: list[Batch]) -> list[dict[str, Tensor]]:
    """Make one optimizer step. Returns the losses of its micro-batches, which stay on the device until `_log` wants them."""
    recipe, state, step = run.recipe, run.state, run.progress.step
    state.keep_statistics()
    factor = learning_rate_factor(recipe, step, run.steps_per_epoch)
    for group in state.optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    shares = [count_normalizers(state.model.config, batch.labels) for batch in micro_batches]
    normalizers = run.processes.begin_step(LossNormalizers(*map(sum, zip(*shares, strict=True))))
    losses: list[dict[str, Tensor]] = []
    for i, batch in enumerate(micro_batches):
        pixel_values, pixel_mask, labels = _on_device(run, batch)
        torch.manual_seed(seed_of(recipe.seed, "step", step, run.parts[i]))  # the same whichever process makes it
        last = i == len(micro_batches) - 1  # gradients travel between processes once, with the last
        with nullcontext() if last else run.accelerator.no_sync(run.ddp):
            output = run.ddp(pixel_values, pixel_mask, labels=labels, normalizers=normalizers)
            run.accelerator.backward(output.loss)
        losses.append({"loss": output.loss.detach(), **output.loss_dict})
    norm = run.accelerator.clip_grad_norm_(run.ddp.parameters(), recipe.clip_norm or math.inf)
    _check_finite(run, torch.stack([values["loss"] for values in losses]).sum(), norm, micro_batches)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update_parameters(state.model)
    return losses


def _on_device(run: Run, batch: Batch) -> tuple[Tensor, Tensor | None, list[dict[str, Any]]]:
    """A batch's canvases, normalised, (B, 3, H, W), its pixel mask (B, H, W) and its labels. Their boxes and classes stay
    here: the loss sends those of all images at once."""
    device = run.processes.device
    images = batch.images.to(device, non_blocking=True)
    pixel_mask = None if batch.pixel_mask is None else batch.pixel_mask.to(device, non_blocking=True)
    labels = [
        {**label, "masks": label["masks"].to(device, non_blocking=True)} if "masks" in label else label
        for label in batch.labels
    ]
    pixels = run.processor.preprocessing.normalize(images)
    return pixels.contiguous(memory_format=torch.channels_last), pixel_mask, labels


def _check_finite(run: Run, loss: Tensor, norm: Tensor, micro_batches: list[Batch]) -> None:
    """Stop before a step that would spoil the weights, and save the state from before it."""
    # Under fp16 the gradient scaler passes over steps whose gradient overflows; a loss that is not finite is always a fault.
    watched = loss if run.recipe.precision == "fp16" else loss + norm
    if not run.processes.any(~torch.isfinite(watched)):  # a loss is of one process alone, and all of them must stop
        return
    image_ids = run.processes.gather([label["image_id"] for batch in micro_batches for label in batch.labels])
    run.state.forget_step()
    whole = all(bool(p.isfinite().all()) for p in run.state.model.parameters())  # the same in every process
    raise LossNotFinite(run.progress.step + 1, image_ids, run.save() if whole else None, run.output)


def _log(run: Run, losses: list[dict[str, Tensor]]) -> None:
    """Write the step's losses down, and the pace since the last line. Waits for the device."""
    # Those with a number behind are of earlier decoder layers.
    names = [name for name in losses[0] if not name.rpartition("_")[2].isdigit()]
    # Losses are shares of the step's; errors are means of a micro-batch.
    counts = [len(losses) if name.endswith("_error") else 1 for name in names]
    sums = [torch.stack([values[name].float() for values in losses]).sum() for name in names]
    means = torch.stack([total / count for total, count in zip(sums, counts, strict=True)])
    reduced = run.accelerator.reduce(means, "mean").tolist()
    values = {name: round(value, 5) for name, value in zip(names, reduced, strict=True)}
    rate, pace = run.state.optimizer.param_groups[0]["lr"], run.state.pace.shares(run.recipe.batch_size)
    run.state.pace = Pace()
    run.log.record("train", run.progress.step, run.epoch, **values, lr=rate, **pace)
    run.accelerator.log(values, step=run.progress.step)
    run.log.show(run.progress.step, run.epoch, values["loss"], pace["data_share"])


def _save_and_stop_if_due(run: Run) -> None:
    step, every, stop_signal = run.progress.step, run.recipe.checkpoint_steps, run.processes.stop_signal
    if stop_signal or step % run.steps_per_epoch == 0 or (every and step % every == 0):
        path = run.save()
        if stop_signal:
            raise stopped_after_saving(stop_signal, path)
