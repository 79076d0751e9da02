"""Everything before the first step: data, model and optimizer, or all of it as a checkpoint has it; and what is said of
them."""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from timm.layers import convert_sync_batchnorm
from torch.utils.data import DataLoader

from ..data.dataset import DetectionDataset, check_same_categories
from ..data.sampler import TrainingBatches, steps_of_an_epoch
from ..data.samples import TrainingSet, collate
from ..data.splits import has_split, read_split_files, read_splits
from ..data.transforms import training_transform
from ..files import write_atomically
from ..processors.auto_processor import image_processor_of
from ..stopping import StopRequest
from ..workers import InSharedMemory, leave_signals_to_the_parent, worker_count
from .checkpoint_files import put_aside_after
from .distributed import Processes
from .log import RunLog
from .model import build_model, check_learned_positions
from .optimizer import MovingAverage, build_optimizer
from .recipe import Recipe
from .resume import Found, find_checkpoint
from .run import Run
from .state import SavedState, TrainingState
from .validation import best_so_far

NO_VALIDATION = "no validation data: no AP, no best model and no early stopping; the last weights (their moving average, with ema) are the model"


def set_up(recipe: Recipe, stop: StopRequest) -> Run:
    """Read the data and build what is trained, new or as a checkpoint has it. Nothing is written yet.

    Raises:
        OSError, ValueError: the data or the recipe is at fault.
        TrainingError: the run cannot be resumed.
    """
    accelerator = _accelerator(recipe)
    processes = Processes(stop)
    _check_micro_batches(recipe, processes, micro_batches(recipe, processes.count))
    train_set, val_set = read_data(recipe)
    if val_set is not None:
        check_same_categories(train_set, val_set)
    samples = _samples(recipe, train_set)
    steps_per_epoch = steps_of_an_epoch(len(train_set), recipe.batch_size)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    state, notes = _state(recipe, accelerator, processes, train_set, val_set, steps_per_epoch)
    check_learned_positions(recipe, state.model, train_set, val_set)
    batches = _batches(recipe, samples, processes, state)
    log = RunLog(Path(recipe.output), recipe.epochs * steps_per_epoch, processes.is_first)
    log.best = best_so_far(recipe.task, state.progress)
    processor = image_processor_of(type(state.model.config))(
        size={"shortest_edge": recipe.image_size, "longest_edge": recipe.max_size}
    )
    if recipe.gradient_checkpointing:
        state.model.gradient_checkpointing_enable()
    if recipe.compile:
        state.model.compile(dynamic=True)  # one graph for canvases of every size
    ddp, state.optimizer = accelerator.prepare(state.model, state.optimizer)
    return Run(
        recipe=recipe,
        output=Path(recipe.output),
        stop=stop,
        processes=processes,
        accelerator=accelerator,
        train_set=train_set,
        val_set=val_set,
        parts=batches.own_parts,
        loader=_loader(recipe, samples, batches, processes.device),
        steps_per_epoch=steps_per_epoch,
        state=state,
        ddp=ddp,
        processor=processor,
        log=log,
        notes=notes,
    )


def _accelerator(recipe: Recipe) -> Accelerator:
    AcceleratorState._reset_state()  # a process may train twice, with different precision: a notebook, or tests
    # With one decoder layer, Conditional DETR's query scale has nothing to scale and gets no gradient.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=recipe.model_config().decoder_layers == 1)
    trackers = ["tensorboard"] if recipe.tensorboard and importlib.util.find_spec("tensorboard") else []
    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # without this, accelerate does not start several processes on CPUs
        mixed_precision={"fp32": "no"}.get(recipe.precision, recipe.precision),
        log_with=trackers or None,
        project_dir=recipe.output,
        kwargs_handlers=[ddp],
    )


def micro_batches(recipe: Recipe, processes: int) -> int:
    """Into how many micro-batches a step is split.

    Args:
        processes: the most that the run has had: fewer make the same ones, some of them one after another.
    """
    return processes * recipe.accumulate


def _check_micro_batches(recipe: Recipe, processes: Processes, parts: int) -> None:
    if recipe.batch_size < parts:
        raise ValueError(
            f"batch_size {recipe.batch_size} does not divide into {parts // recipe.accumulate} processes × "
            f"{recipe.accumulate} micro-batches: it counts the images of a step over all of them"
        )
    if not recipe.sync_batch_norm or processes.alone:
        return
    if processes.device.type == "cpu":
        raise ValueError("sync_batch_norm needs GPUs: PyTorch's synchronised batch norm has no CPU version")
    if parts % processes.count:
        raise ValueError(
            f"sync_batch_norm needs as many micro-batches on each process, and the {parts} of a step do not divide into "
            f"{processes.count} processes: start a number that divides them"
        )


def read_data(recipe: Recipe) -> tuple[DetectionDataset, DetectionDataset | None]:
    """Read the recipe's training and validation data; None where there is none to validate on: only training files are
    named, or the data has no such split and `split` makes none.

    Raises:
        OSError, ValueError: see `read_split_files`; or the recipe names none, or the training data has no annotations.
    """
    files = {
        "train": (recipe.train_annotations, recipe.train_images),
        "val": (recipe.val_annotations, recipe.val_images),
    }
    found = [split for split, (file, _) in files.items() if not file]
    if "train" in found and not recipe.data:
        raise ValueError("no train data: give --data FOLDER, or --train_annotations FILE with --train_images FOLDER")
    # With validation data of its own nothing needs to be held out of the training data.
    shares = recipe.split if "val" in found else ""
    if shares and not (recipe.data and has_split(recipe.data, "val", recipe.task, shares)):
        found.remove("val")
    read = read_splits(recipe.data, found, recipe.task, recipe.skip_bad_images, shares) if found else []
    sets = dict(zip(found, read, strict=True))
    for split, (file, images) in files.items():
        if file:
            sets[split] = read_split_files(file, images, recipe.task, recipe.skip_bad_images)
    if not len(sets["train"].boxes):
        raise ValueError(f"{sets['train'].annotation_file} holds no annotations to train on")
    return sets["train"], sets.get("val")


def _samples(recipe: Recipe, train_set: DetectionDataset) -> TrainingSet:
    settings = recipe.augmentation
    return TrainingSet(train_set, training_transform(settings), recipe.seed, settings.least_side)


def _batches(recipe: Recipe, samples: TrainingSet, processes: Processes, state: TrainingState) -> TrainingBatches:
    parts = micro_batches(recipe, state.processes)
    _check_micro_batches(recipe, processes, parts)
    return TrainingBatches(
        len(samples.dataset),
        batch_size=recipe.batch_size,
        parts=parts,
        own_parts=processes.share(parts),
        epochs=recipe.epochs,
        seed=recipe.seed,
        start_step=state.progress.step,
        drawn_size=samples.drawn_size if recipe.group_by_shape else None,
    )


def _loader(recipe: Recipe, samples: TrainingSet, batches: TrainingBatches, device: torch.device) -> DataLoader:
    workers = worker_count(recipe.workers)
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=InSharedMemory(collate),
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # its own, so that loading draws nothing from the process's
        worker_init_fn=leave_signals_to_the_parent,
    )


def _state(
    recipe: Recipe,
    accelerator: Accelerator,
    processes: Processes,
    train_set: DetectionDataset,
    val_set: DetectionDataset | None,
    steps_per_epoch: int,
) -> tuple[TrainingState, list[str]]:
    """The state to begin with, and what its user should know about it."""
    data = [dataset.fingerprint() for dataset in (train_set, val_set) if dataset is not None]
    if (other := processes.first_other(data)) is not None:
        raise ValueError(
            f"process {other} reads other images or annotations than process 0 in {recipe.data or recipe.train_annotations}: "
            "all machines need the same data"
        )

    def build(saved: SavedState | None) -> tuple[TrainingState, list[str]]:
        model, notes = build_model(recipe, train_set, saved)
        if recipe.sync_batch_norm and not processes.alone:
            model = convert_sync_batchnorm(model)  # PyTorch's own would drop timm's activations
        model.to(processes.device).to(memory_format=torch.channels_last)
        average = MovingAverage(model, recipe.ema) if recipe.ema else None
        optimizer = build_optimizer(recipe, model)
        most = max(processes.count, 0 if saved is None else saved.processes)
        state = TrainingState(recipe, data, most, model, optimizer, average, accelerator.scaler)
        if saved is not None:
            state.restore(saved)
        return state, notes

    def find() -> tuple[Found | None, tuple[TrainingState, list[str]] | None]:
        return find_checkpoint(recipe, data, steps_per_epoch, build)

    def step_of(found: Found | None) -> int | None:
        return None if found is None else found.saved.progress.step

    if recipe.resume in ("", "auto"):
        found, built = processes.from_newest(find, step_of)
    else:
        found, built = processes.from_first(find)
    # The process that found it has built it, to see whether it fits.
    state, notes = built if built is not None else build(None if found is None else found.saved)
    if found is not None:
        notes += _take_threads(recipe, found.saved.threads, processes.device)
        notes.append(f"continuing from {found.path} (step {state.progress.step})")
        if state.processes > processes.count:
            parts = micro_batches(recipe, state.processes)
            notes.append(
                f"{processes.count} of {state.processes} processes: they make all {parts} micro-batches of a step"
            )
    return state, notes


def _take_threads(recipe: Recipe, before: int, device: torch.device) -> list[str]:
    """Compute with as many threads as before, since another number adds up in another order; not where the user said
    another, and with no more than there are cores. Returns what to say of it."""
    if before in (0, torch.get_num_threads()) or device.type != "cpu":
        return []
    if recipe.threads or os.environ.get("OMP_NUM_THREADS") or before > (os.cpu_count() or 1):
        return [f"{torch.get_num_threads()} threads, {before} before: figures will differ by rounding"]
    torch.set_num_threads(before)
    return [f"{before} threads, as before"]


def introduce(run: Run) -> None:
    """Say what is about to happen, and make the run's folder ready for it."""
    recipe, state, say = run.recipe, run.state, run.log.say
    _prepare_folder(run)
    config, parameters = state.model.config, list(state.model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    groups = f" in each of {config.query_groups} groups" if config.query_groups > 1 else ""
    say(
        f"{config.model_type} with {config.backbone}, {sum(p.numel() for p in parameters) / 1e6:.1f} M "
        f"weights ({trained / 1e6:.1f} M trained), {config.num_queries} queries{groups}, {config.num_labels} classes"
    )
    for line in run.train_set.summary(config.num_queries):
        say(line)
    for line in [NO_VALIDATION] if run.val_set is None else run.val_set.summary():
        say(line)
    say(f"augmentation: {recipe.augmentation.describe()}")
    say(
        f"{run.total_steps} steps of {recipe.batch_size} images ({recipe.epochs} epochs) on {run.processes.count} × "
        f"{run.processes.device}, {recipe.precision}; output in {run.output}"
    )
    if recipe.warmup_steps >= run.total_steps:
        say(
            f"warning: all {run.total_steps} steps are warm-up ({recipe.warmup_steps}): the rates never reach lr; set warmup_steps"
        )
    for note in run.notes:
        say(note)
    if run.processes.folders > 1:
        say(
            f"{run.processes.folders} output folders, as the machines share no disk: each has a copy of all that is saved"
        )
    run.accelerator.init_trackers("tensorboard")


def _prepare_folder(run: Run) -> None:
    """On each disk: the log up to the step that the run begins at, no checkpoints of later ones, the best model so far, and
    the effective recipe."""
    recipe, processes, step = run.recipe, run.processes, run.progress.step
    run.output.mkdir(parents=True, exist_ok=True)
    processes.settle_writers(run.output)
    run.log.writes = processes.writes
    if processes.folders > 1 and step:
        for path, content in processes.copy_from_holder(run.output, ("log.jsonl", "best/*")):
            write_atomically(path, partial(Path.write_bytes, data=content))
    run.log.start(step, run.progress.evaluated_step)
    if processes.writes:
        put_aside_after(run.output / "checkpoints", step)
        text = yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)
        write_atomically(run.output / "recipe.yaml", lambda beside: beside.write_text(text, encoding="utf-8"))
