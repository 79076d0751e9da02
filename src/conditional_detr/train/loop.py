"""Training: `cdetr train`.

A step is a function of the recipe and the step's number: which images it takes, how they are augmented, which units
dropout drops, what the learning rates are. So resuming needs the weights and the optimizer's state and nothing else, and
continues exactly.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from timm.layers import convert_sync_batchnorm
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.formats.coco import CocoDataset, check_same_categories
from ..data.samples import Batch, TrainingBatches, TrainingSet, collate, seed_of
from ..data.transforms import training_transform
from ..evaluate.evaluation import HEADLINE, Metrics, evaluate
from ..files import read_json, remove_leftovers, write_atomically, write_json
from ..images.pixels import normalize
from ..losses.criterion import LossNormalizers, count_normalizers, share_normalizers
from ..losses.matcher import to_device
from ..models.detector import ObjectDetectionModel
from ..models.segmenter import SegmentationModel
from ..predict.stream import PRECISIONS, REPAIR, worker_count
from ..stopping import Interrupted, StopRequest
from ..transformers.auto_processor import IMAGE_PROCESSORS
from ..workers import InSharedMemory, WorkerDied, batches_of, leave_signals_to_the_parent
from .log import Journal
from .optimizer import build_optimizer, learning_rate_factor, moving_average
from .pictures import draw_batch
from .recipe import Recipe, changed_fields
from .setup import build_model, check_learned_positions, read_split
from .state import (
    Pace,
    Progress,
    check_fit,
    check_form,
    checkpoints,
    put_aside_after,
    read_checkpoint,
    readable_checkpoints,
    save_checkpoint,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")
CONTINUE = "Continue with --resume auto"


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why and what to do."""


def train(recipe: Recipe) -> dict[str, Any]:
    """Train as the recipe says, in one process or in as many as were started (`torchrun`, `accelerate launch`).

    Writes to `recipe.output`: recipe.yaml, log.jsonl, curves.png, checkpoints/, best/, and at the end model/ and
    metrics.json.

    Returns:
        The contents of metrics.json.

    Raises:
        OSError, ValueError: the data or the recipe is at fault; nothing has been trained.
        TrainingError: the loss is no longer finite, a loading process died, or the run cannot be resumed.
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    first = os.environ.get("RANK", "0") == "0"
    with StopRequest(say=first) as stop:
        try:
            return _Run(recipe, stop).train()
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted(signal.SIGINT, _what_is_left(Path(recipe.output))) from None


def _what_is_left(output: Path) -> str:
    earlier = checkpoints(output / "checkpoints")
    if not earlier:
        return "nothing has been saved yet"
    return f"the last checkpoint is {earlier[-1]}. Continue with --resume auto"


class _Run:
    """One training run of this process."""

    optimizer: Any  # torch's, then accelerate's around it

    def __init__(self, recipe: Recipe, stop: StopRequest) -> None:
        self.recipe, self.stop = recipe, stop
        self.output = Path(recipe.output)
        self.accelerator = _accelerator(recipe)
        self.device = self.accelerator.device
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.main = self.accelerator.is_main_process
        parts = self.world * recipe.accumulate
        if recipe.batch_size % parts:
            raise ValueError(
                f"batch_size {recipe.batch_size} does not divide into {self.world} processes × {recipe.accumulate} "
                "micro-batches: it counts the images of a step over all of them"
            )
        if recipe.sync_batch_norm and self.world > 1 and self.device.type == "cpu":
            raise ValueError("sync_batch_norm needs GPUs: PyTorch's synchronised batch norm has no CPU version")
        self.train_set = read_split(recipe, "train")
        self.val_set = read_split(recipe, "val")
        check_same_categories(self.train_set, self.val_set)
        self.data = [dataset.fingerprint() for dataset in (self.train_set, self.val_set)]
        self.batches = TrainingBatches(
            self.train_set.sizes,
            batch_size=recipe.batch_size,
            parts=parts,
            own_parts=range(self.rank * recipe.accumulate, (self.rank + 1) * recipe.accumulate),
            epochs=recipe.epochs,
            seed=recipe.seed,
            group_by_shape=recipe.group_by_shape,
        )
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = recipe.epochs * self.steps_per_epoch
        self.progress, self.pace = Progress(), Pace()
        self.stop_agreed = 0

        found = self._of_first_process(self._continue)
        if found is None or not self.main:  # on the first process it is built already
            self._build(None if found is None else found[1])
        if found is not None:
            self.progress = Progress.of(found[1])
            self.pace = Pace.of(found[1])
            self.notes.append(f"continuing from {found[0]} (step {self.progress.step})")
        self.batches.start_step = self.progress.step
        self.journal = Journal(self.output, self.total_steps, self.main)
        if self.progress.best >= 0:
            self.journal.best = self._best()
        if self.model.config.position_embedding_type == "learned":
            check_learned_positions(recipe, self.model, [self.train_set, self.val_set])
        self.processor = IMAGE_PROCESSORS[self.model.config.model_type](
            size={"shortest_edge": recipe.image_size, "longest_edge": recipe.max_size}
        )
        # What a forward pass changes in training: batch norm's statistics, and those from before the step.
        self.statistics = [b for n, b in self.model.named_buffers() if "running_" in n or "num_batches" in n]
        if self.model.config.backbone_norm != "batch":
            self.statistics = []
        self.statistics_before = [buffer.clone() for buffer in self.statistics]
        if recipe.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        if recipe.compile:
            self.model.compile(dynamic=True)  # one graph for canvases of every size
        self.ddp, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)

    # ------------------------------------------------------------------------------------------------ before

    def _of_first_process(self, find: Callable[[], T]) -> T:
        """What the first process finds, on every process; its errors too. Others may see another disk."""
        if self.world == 1:
            return find()
        message: list[Any] = [None, None]
        if self.main:
            try:
                message = [find(), None]
            except Exception as error:
                message = [None, error]
        dist.broadcast_object_list(message, device=self.device if self.device.type == "cuda" else None)
        if message[1] is not None:
            raise message[1]
        return message[0]

    def _continue(self) -> tuple[Path, dict[str, Any]] | None:
        """Find the checkpoint to continue from, and build what it holds; None to start anew. A damaged one is passed over
        for the one before, unless it was asked for by name."""
        folder, resume = self.output / "checkpoints", self.recipe.resume
        if not resume:
            if checkpoints(folder):
                raise TrainingError(
                    f"{self.output} holds a run already: continue it with --resume auto, or choose another --output"
                )
            return None
        remove_leftovers(self.output)
        if resume != "auto":
            try:
                state = read_checkpoint(Path(resume))
                self._build_as_saved(Path(resume), state)
            except ValueError as error:
                raise TrainingError(str(error)) from None
            return Path(resume), state
        for path, state in readable_checkpoints(folder):
            try:
                self._build_as_saved(path, state)
            except ValueError as error:
                logger.warning("%s; trying the one before", error)
            else:
                return path, state
        if found := checkpoints(folder):
            raise TrainingError(
                f"none of the {len(found)} checkpoints in {folder} can be used: see above. Start a new run with another "
                f"--output, and --init_from {self.output / 'best'} if that is there"
            )
        return None

    def _build_as_saved(self, path: Path, state: dict[str, Any]) -> None:
        """Build what a checkpoint holds.

        Raises:
            ValueError: it is damaged.
            TrainingError: it is of another run.
        """
        check_form(path, state)
        self._check_same_run(path, state)
        try:
            self._build(state)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    def _check_same_run(self, path: Path, state: dict[str, Any]) -> None:
        step = state["progress"]["step"]
        changes = changed_fields(state["recipe"], self.recipe.to_dict(), step, self.steps_per_epoch)
        if state["data"] != self.data:
            changes.append("the data: other images or annotations than before")
        if changes:
            raise TrainingError(
                f"cannot resume {path}: the recipe changed ({'; '.join(changes)}). Undo that, or start a new "
                "run with another --output and --init_from"
            )

    def _build(self, state: dict[str, Any] | None) -> None:
        """Model, optimizer and moving average: new ones, or those of a checkpoint.

        Raises:
            ValueError: the checkpoint's do not fit.
        """
        recipe = self.recipe
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        self.model, self.notes = build_model(recipe, self.train_set, state)
        if recipe.sync_batch_norm and self.world > 1:
            self.model = convert_sync_batchnorm(self.model)  # PyTorch's own would drop timm's activations
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(recipe, self.model)
        self.ema = moving_average(self.model, recipe.ema) if recipe.ema else None
        if state is None:
            return
        self._take_threads(state.get("threads", 0))
        check_fit(state, self.model, self.optimizer, self.ema)
        self.model.load_state_dict(state["model"])
        own = self.optimizer.state_dict()["param_groups"]  # checked to be the same where they matter
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": own})
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if state.get("scaler") and self.accelerator.scaler is not None:
            try:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            except (KeyError, TypeError, RuntimeError) as error:
                raise ValueError(f"its scaler cannot be used: {error}") from None

    def _take_threads(self, before: int) -> None:
        """Compute with as many threads as before, since another number adds up in another order; not against the user's
        word, and with no more than there are cores."""
        said = self.recipe.threads or os.environ.get("OMP_NUM_THREADS")
        if before in (0, torch.get_num_threads()) or self.device.type != "cpu":
            return
        if said or before > (os.cpu_count() or 1):
            self.notes.append(f"{torch.get_num_threads()} threads, {before} before: figures will differ by rounding")
        else:
            torch.set_num_threads(before)
            self.notes.append(f"{before} threads, as before")

    def _introduce(self) -> None:
        """Say what is about to happen, and write the effective configuration beside the run."""
        say, recipe = self.journal.say, self.recipe
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        config = self.model.config
        say(
            f"{config.model_type} with {config.backbone}, {sum(p.numel() for p in self.model.parameters()) / 1e6:.1f} M "
            f"weights ({trained / 1e6:.1f} M trained), {config.num_queries} queries, {config.num_labels} classes"
        )
        for line in [*self.train_set.summary(config.num_queries), *self.val_set.summary()]:
            say(line)
        say(f"augmentation: {recipe.augmentation.describe()}")
        say(
            f"{self.total_steps} steps of {recipe.batch_size} images ({recipe.epochs} epochs) on {self.world} × {self.device}, "
            f"{recipe.precision}; output in {self.output}"
        )
        if recipe.warmup_steps >= self.total_steps:
            say(
                f"warning: all {self.total_steps} steps are warm-up ({recipe.warmup_steps}): the rates never reach lr; set warmup_steps"
            )
        for note in self.notes:
            say(note)
        if self.main:
            text = yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)
            write_atomically(self.output / "recipe.yaml", lambda beside: beside.write_text(text, encoding="utf-8"))

    # ------------------------------------------------------------------------------------------------ during

    def train(self) -> dict[str, Any]:
        self.output.mkdir(parents=True, exist_ok=True)
        self.journal.start(self.progress.step, self.progress.evaluated_step)
        if self.main:
            put_aside_after(self.output / "checkpoints", self.progress.step)
        self._introduce()
        self.accelerator.init_trackers("tensorboard")
        self.stop.at_once = False
        try:
            with self.journal.progress:
                self._loop()
            return self._finish()
        finally:
            self.accelerator.end_training()

    def _loop(self) -> None:
        """Train, save and evaluate, in this order: an evaluation that is stopped or fails is done on resuming."""
        recipe, progress = self.recipe, self.progress
        loader = _loader(recipe, self.train_set, self.batches, self.device)
        with batches_of(loader) as batches:
            self.ddp.train()
            while True:
                if self._evaluation_is_due():  # after an epoch, or owed by the run that this one continues
                    self._evaluate()
                if self._has_ended():
                    break
                started = time.perf_counter()
                micro_batches = self._wait_for(batches)
                waited = time.perf_counter() - started
                if self.main and not (self.output / "batch.jpg").exists():
                    with suppress(
                        OSError
                    ):  # a picture is not worth a run; the checkpoint will say that the disk is full
                        draw_batch(self.output / "batch.jpg", micro_batches[0], self.train_set.category_names)
                bad = [message for batch in micro_batches for message in batch.bad_images]
                if bad and not recipe.skip_bad_images:
                    raise TrainingError(f"{bad[0]}. {REPAIR}")
                try:
                    losses = self._step(micro_batches)
                except RuntimeError as error:
                    raise self._device_failure(error, micro_batches) from error
                progress.step += 1
                padding = sum(batch.padding for batch in micro_batches) / len(micro_batches)
                self.pace.add(time.perf_counter() - started, waited, padding)
                if progress.step % recipe.log_steps == 0 or progress.step == self.total_steps:
                    self._log(losses())
                self._save_and_stop_if_due()

    def _wait_for(self, batches: Iterator[Batch]) -> list[Batch]:
        """The next step's micro-batches. Where a process is alone, it stops waiting when it is asked to stop: a disk far
        away may never answer."""
        try:
            self.stop.at_once = self.world == 1
            try:
                return [next(batches) for _ in range(self.recipe.accumulate)]
            finally:
                self.stop.at_once = False
        except WorkerDied as error:
            raise TrainingError(f"{error}. The state is saved in {self._write_checkpoint()}. {CONTINUE}") from error
        except Interrupted as stopped:
            raise Interrupted(stopped.signal, f"state saved in {self._save()}. {CONTINUE}") from None

    def _has_ended(self) -> bool:
        if self._stopping_early():
            self.journal.say(
                f"no better {HEADLINE[self.recipe.task]} in {self.recipe.early_stopping} evaluations: stopping early"
            )
            return True
        return self.progress.step >= self.total_steps

    def _save_and_stop_if_due(self) -> None:
        recipe, step = self.recipe, self.progress.step
        due = step % self.steps_per_epoch == 0 or (recipe.checkpoint_steps and step % recipe.checkpoint_steps == 0)
        stop = self.stop_agreed if self.world > 1 else self.stop.signal
        if due or stop:
            path = self._save()
        if stop:
            raise Interrupted(stop, f"state saved in {path}. {CONTINUE}")

    def _log(self, losses: dict[str, float]) -> None:
        step, epoch = self.progress.step, self.progress.step / self.steps_per_epoch
        values = {name: round(value, 5) for name, value in losses.items()}
        rate, speed = self.optimizer.param_groups[0]["lr"], self.pace.shares(self.recipe.batch_size)
        self.pace = Pace()
        self.journal.record("train", step, epoch, **values, lr=rate, **speed)
        self.accelerator.log(values, step=step)
        self.journal.show(step, epoch, values["loss"], speed["data_share"])

    def _evaluation_is_due(self) -> bool:
        step = self.progress.step
        if step == self.progress.evaluated_step or step % self.steps_per_epoch:
            return False
        return step == self.total_steps or step // self.steps_per_epoch % self.recipe.eval_epochs == 0

    def _stopping_early(self) -> bool:
        return 0 < self.recipe.early_stopping <= self.progress.evaluations_since_best

    def _step(self, micro_batches: list[Batch]) -> Any:
        """One optimizer step. Returns a function that fetches the losses from the device, to be called only when they
        are wanted."""
        recipe, step = self.recipe, self.progress.step
        torch.manual_seed(seed_of(recipe.seed, "step", step, self.rank))
        factor = learning_rate_factor(recipe, step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        normalizers = self._agree(micro_batches)
        if self.statistics:
            torch._foreach_copy_(self.statistics_before, self.statistics)
        totals: list[dict[str, Tensor]] = []
        for i, batch in enumerate(micro_batches):
            self.progress.bad_images += len(batch.bad_images)
            self.progress.mismatched_sizes += batch.mismatched_sizes
            pixels, mask, labels = self._on_device(batch)
            last = i == len(micro_batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.ddp):
                output = self.ddp(pixels, mask, labels=labels, normalizers=normalizers)
                self.accelerator.backward(output.loss)
            totals.append({"loss": output.loss.detach(), **output.loss_dict})
        norm = self.accelerator.clip_grad_norm_(self.ddp.parameters(), recipe.clip_norm or math.inf)
        self._check_finite(torch.stack([t["loss"] for t in totals]).sum(), norm, micro_batches)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.model)

        def fetch() -> dict[str, float]:
            names = [name for name in totals[0] if not name.rpartition("_")[2].isdigit()]
            # Losses are shares of the step's; errors are means of a micro-batch.
            counts = [len(totals) if name.endswith("_error") else 1 for name in names]
            stacked = torch.stack(
                [torch.stack([t[n].float() for t in totals]).sum() / c for n, c in zip(names, counts, strict=True)]
            )
            return dict(zip(names, self.accelerator.reduce(stacked, "mean").tolist(), strict=True))

        return fetch

    def _agree(self, micro_batches: list[Batch]) -> LossNormalizers:
        """The step's normalisers over all micro-batches and processes; with them, whether any process was told to stop."""
        shares = [count_normalizers(self.model.config, batch.labels) for batch in micro_batches]
        boxes, weight = (sum(values) for values in zip(*shares, strict=True))
        if self.world > 1:
            asked = [float(self.stop.signal == number) for number in (signal.SIGINT, signal.SIGTERM)]
            message = to_device(torch.tensor([boxes, weight, *asked], dtype=torch.float64), self.device)
            dist.all_reduce(message)
            boxes, weight, interrupted, terminated = message.tolist()
            self.stop_agreed = signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0
        return share_normalizers(LossNormalizers(boxes, weight), self.world)

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor | None, list[dict[str, Any]]]:
        """A batch's canvases, normalised, its mask and its labels. Their boxes and classes stay here: the loss sends those
        of all images at once."""
        images = batch.images.to(self.device, non_blocking=True)
        mask = None if batch.pixel_mask is None else batch.pixel_mask.to(self.device, non_blocking=True)
        labels = [
            {**label, "masks": label["masks"].to(self.device, non_blocking=True)} if "masks" in label else label
            for label in batch.labels
        ]
        pixels = normalize(images, self.processor.image_mean, self.processor.image_std, self.processor.rescale_factor)
        return pixels.contiguous(memory_format=torch.channels_last), mask, labels

    def _check_finite(self, loss: Tensor, norm: Tensor, micro_batches: list[Batch]) -> None:
        """Stop before a step that would spoil the weights, and save the state from before it."""
        # A gradient that overflows under fp16 is the scaler's business; a loss that is not finite never is.
        watched = loss if self.recipe.precision == "fp16" else loss + norm
        bad = ~torch.isfinite(watched).to(torch.bool)
        if self.world > 1:  # a loss is of one process alone, and all of them must stop
            flag = bad.float()
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            bad = flag > 0
        if not bool(bad):
            return
        ids = [label["image_id"] for batch in micro_batches for label in batch.labels]
        if self.world > 1:
            everyone: list[Any] = [None] * self.world
            dist.all_gather_object(everyone, ids)
            ids = [i for own in everyone for i in own]
        step = self.progress.step
        self._forget_step()
        if all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):  # the same in every process
            saved = f"the state from before it is in {self._save()}"
        else:
            earlier = checkpoints(self.output / "checkpoints")
            saved = f"the last good state is in {earlier[-1]}" if earlier else "no earlier checkpoint had been saved"
        raise TrainingError(
            f"the loss is not finite at step {step + 1} (image ids {', '.join(map(str, ids))}): {saved}. Look at these "
            "images; else lower lr, set clip_norm, or use --precision bf16 or fp32 instead of fp16"
        )

    def _forget_step(self) -> None:
        """Go back to the state before a step that failed: its weights are still there, batch norm's statistics not."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.statistics:
            torch._foreach_copy_(self.statistics, self.statistics_before)

    def _device_failure(self, error: RuntimeError, micro_batches: list[Batch]) -> Exception:
        """What to raise in place of an error of the device, with advice; `error` itself if it is another."""
        text = str(error)
        step, shapes = self.progress.step + 1, [tuple(batch.images.shape) for batch in micro_batches]
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            self._forget_step()
            return TrainingError(
                f"out of memory at step {step} (batches of {', '.join(map(str, shapes))}); the state from before it is in "
                f"{self._write_checkpoint()}. Continue with "
                "--resume auto and a larger --accumulate (the same result) or --gradient_checkpointing true; or start anew "
                "with a smaller --batch_size, --precision bf16, or smaller --augmentation.scales"
            )
        if isinstance(error, torch.AcceleratorError):
            earlier = checkpoints(self.output / "checkpoints")
            last = f"the last checkpoint is {earlier[-1]}" if earlier else "no checkpoint had been saved"
            return TrainingError(
                f"the device failed at step {step} ({text.splitlines()[0]}): {last}. Look at the machine's log, then "
                "continue with --resume auto; --checkpoint_steps 500 would lose less"
            )
        return error

    # ------------------------------------------------------------------------------------------------ between

    def _best(self) -> str:
        return f"best {HEADLINE[self.recipe.task].replace('_', ' ')} {self.progress.best:.3f}"

    def _evaluated_model(self) -> ObjectDetectionModel | SegmentationModel:
        return self.model if self.ema is None else self.ema.module

    def _evaluate(self) -> None:
        recipe, progress = self.recipe, self.progress
        epoch = progress.step / self.steps_per_epoch
        if self.world > 1:  # the checkpoint, too, has the first process's statistics
            for buffer in (*self.model.buffers(), *(() if self.ema is None else self.ema.buffers())):
                dist.broadcast(buffer, src=0)
        try:
            metrics = evaluate(
                self._evaluated_model(),
                self.processor,
                self.val_set,
                batch_size=recipe.eval_batch_size,
                workers=worker_count(recipe.workers),
                skip_bad=recipe.skip_bad_images,
                precision=PRECISIONS[recipe.precision],
                stop=lambda: self.stop.signal,
                losses=len(self.val_set.boxes) > 0,
                picture=self.output / "validation.jpg",
            )
        except Interrupted as stopped:
            raise Interrupted(stopped.signal, _what_is_left(self.output)) from None
        except WorkerDied as error:
            raise TrainingError(f"{error}; {_what_is_left(self.output)}") from error
        progress.evaluated_step = progress.step
        if metrics is not None:
            self._record(metrics, epoch)
        self._save()
        if self.world == 1 and self.stop.signal:
            raise Interrupted(self.stop.signal, _what_is_left(self.output))

    def _record(self, metrics: Metrics, epoch: float) -> None:
        progress, summary = self.progress, metrics.summary
        rounded = {name: round(value, 5) for name, value in {**metrics.losses, **summary}.items()}
        self.journal.record("eval", progress.step, epoch, **rounded)
        self.accelerator.log({f"val/{name}": value for name, value in summary.items()}, step=progress.step)
        self.journal.say(f"epoch {epoch:g}: {metrics.describe()}")
        self.journal.draw_curves()
        progress.evaluations_since_best += 1
        if metrics.headline > progress.best:
            progress.best, progress.best_step, progress.evaluations_since_best = metrics.headline, progress.step, 0
            self.journal.best = self._best()
            if self.main:
                self._write_model(self.output / "best", summary)
                write_json(self.output / "best" / "metrics.json", {"step": progress.step, **metrics.to_dict()})

    def _write_model(self, folder: Path, metrics: dict[str, float], model: Any = None) -> None:
        """Write the given model, or the one that is evaluated, and its processor; the figures go into its card."""
        names = ("PQ", "SQ", "RQ", "mask_AP", "mask_AP50", "AP", "AP50", "AP75")
        figures: dict[str, float] = {name: metrics[name] for name in names if name in metrics}
        dataset = Path(self.recipe.data).name or self.train_set.annotation_file.stem
        (model or self._evaluated_model()).save_pretrained(folder, dataset=dataset, metrics=figures)
        self.processor.save_pretrained(folder)

    def _save(self) -> Path:
        path = self.output / "checkpoints" / f"step-{self.progress.step:08d}.pt"
        if self.main:
            self._write_checkpoint()
        self.accelerator.wait_for_everyone()
        return path

    def _write_checkpoint(self) -> Path:
        folder = self.output / "checkpoints"
        state = {
            "recipe": self.recipe.to_dict(),
            "data": self.data,
            "threads": torch.get_num_threads(),
            "config": {"model_type": self.model.config.model_type, **self.model.config.to_dict()},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "progress": vars(self.progress),
            "pace": vars(self.pace),
        }
        return save_checkpoint(folder, self.progress.step, state, self.recipe.keep_checkpoints)

    # ------------------------------------------------------------------------------------------------ after

    def _finish(self) -> dict[str, Any]:
        """Write `model/` (the best weights, or the last where nothing was evaluated) and metrics.json."""
        summary: dict[str, Any] = {}
        if self.main:
            best, model = self.output / "best", None
            if self.progress.best >= 0 and (best / "config.json").is_file():
                model = type(self.model).from_pretrained(best)
                summary = read_json(best / "metrics.json")
            self._write_model(self.output / "model", summary, model)
            write_json(self.output / "metrics.json", summary)
            self.journal.draw_curves()
        bad, mismatched = self.progress.bad_images, self.progress.mismatched_sizes
        if bad or mismatched:
            self.journal.say(
                f"{bad} times a damaged image was left out, {mismatched} times an image had "
                "another size than its annotations say (boxes were scaled with it)"
            )
        if summary:
            self.journal.say(f"{self._best()} at step {summary['step']}")
        self.journal.say(f"model in {self.output / 'model'}, curves in {self.output / 'curves.png'}")
        self.accelerator.wait_for_everyone()
        if self.stop.signal:
            raise Interrupted(self.stop.signal, f"training is complete: model in {self.output / 'model'}")
        return summary


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


def _loader(recipe: Recipe, data: CocoDataset, batches: TrainingBatches, device: torch.device) -> DataLoader:
    settings = recipe.augmentation
    dataset = TrainingSet(data, training_transform(settings), recipe.seed, settings.least_side)
    workers = worker_count(recipe.workers)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=InSharedMemory(collate),
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # its own, so that loading draws nothing from the process's
        worker_init_fn=leave_signals_to_the_parent,
    )
