"""Validation during training, and the models that it leaves: `best/`, and `model/` at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..config import Task
from ..data.dataset import DetectionDataset
from ..evaluate.evaluation import HEADLINE, Metrics, evaluate
from ..files import read_json, write_json
from ..models.detector import ObjectDetectionModel
from ..models.segmenter import SegmentationModel
from ..options import PRECISIONS
from ..stopping import Interrupted
from ..workers import WorkerDied, worker_count
from .failures import LoadingEndedInEvaluation, stopped_before_saving
from .low_figures import is_low, low_for_half_the_run, why_low
from .run import Run
from .state import Progress

# The figures that a model card shows, where the task has them.
ON_THE_CARD = ("PQ", "SQ", "RQ", "mask_AP", "mask_AP50", "AP", "AP50", "AP75")


def validation_is_due(run: Run) -> bool:
    """Whether an epoch that is to be evaluated has ended; by this run, or by the one that it continues."""
    step, epochs = run.progress.step, run.progress.step // run.steps_per_epoch
    if step == run.progress.evaluated_step or step % run.steps_per_epoch:
        return False
    return step == run.total_steps or epochs % run.recipe.eval_epochs == 0


def validate(run: Run) -> None:
    """Evaluate, keep the model if it is the best so far, and save. Without validation data only the curves are drawn.

    Raises:
        Interrupted, LoadingEndedInEvaluation: nothing is lost; the evaluation is done again on resuming.
    """
    state = run.state
    if run.val_set is None:
        state.progress.evaluated_step = state.progress.step
        return run.log.draw_curves()
    run.take_statistics()  # the checkpoint, too, has the first process's
    try:
        metrics = evaluate_on(run, run.val_set, run.output / "validation.jpg")
    except Interrupted as stopped:
        raise stopped_before_saving(stopped.signal, run.output) from None
    except WorkerDied as error:
        raise LoadingEndedInEvaluation(str(error), run.output) from error
    state.progress.evaluated_step = state.progress.step
    if metrics is not None:
        _record(run, metrics)
    run.save()
    if run.processes.alone and run.stop.signal:
        raise stopped_before_saving(run.stop.signal, run.output)


def evaluate_on(run: Run, dataset: DetectionDataset, picture: Path) -> Metrics | None:
    """Evaluate the run's model as it is now; see `evaluate`.

    Args:
        picture: where some of the images are drawn.
    """
    recipe = run.recipe
    computed_in = PRECISIONS[recipe.precision]
    return evaluate(
        run.state.evaluated_model,
        run.processor,
        dataset,
        batch_size=recipe.eval_batch_size,
        workers=worker_count(recipe.workers),
        skip_bad=recipe.skip_bad_images,
        precision=None if computed_in is None else getattr(torch, computed_in),
        stop=lambda: run.stop.signal,
        losses=len(dataset.boxes) > 0,
        picture=picture,
    )


def _record(run: Run, metrics: Metrics) -> None:
    """Write the figures down, and the model if it is the best so far."""
    progress, summary = run.progress, metrics.summary
    rounded = {name: round(value, 5) for name, value in {**metrics.losses, **summary}.items()}
    run.log.record("eval", progress.step, run.epoch, **rounded)
    run.accelerator.log({f"val/{name}": value for name, value in summary.items()}, step=progress.step)
    run.log.say(f"epoch {run.epoch:g}: {metrics.describe()}")
    run.log.draw_curves()
    progress.evaluations_since_best += 1
    if metrics.headline > progress.best:
        progress.best, progress.best_step, progress.evaluations_since_best = metrics.headline, progress.step, 0
        run.log.best = best_so_far(run.recipe.task, progress)
        if run.processes.writes:
            write_model(run, run.output / "best", run.state.evaluated_model, summary)
            write_json(run.output / "best" / "metrics.json", {"step": progress.step, **metrics.to_dict()})
    if low_for_half_the_run(run):
        run.log.say(why_low(run))


def best_so_far(task: Task, progress: Progress) -> str:
    """The best figure in words; nothing where there is none yet."""
    return f"best {HEADLINE[task].replace('_', ' ')} {progress.best:.3f}" if progress.best >= 0 else ""


def write_model(
    run: Run, folder: Path, model: ObjectDetectionModel | SegmentationModel, summary: dict[str, Any]
) -> None:
    """Write a model and its processor; the figures go into its card."""
    figures: dict[str, float] = {name: summary[name] for name in ON_THE_CARD if name in summary}
    data = Path(run.recipe.data)  # a folder, or its data.yaml
    dataset = (data.parent if data.is_file() else data).name or run.train_set.annotation_file.stem
    model.save_pretrained(folder, dataset=dataset, metrics=figures)
    run.processor.save_pretrained(folder)


def finish(run: Run) -> dict[str, Any]:
    """Write `model/` (the best weights, or the last where nothing was evaluated), metrics.json and curves.png.

    Returns:
        The contents of metrics.json, on the processes that write.
    """
    summary: dict[str, Any] = {}
    if run.processes.writes:
        best, model = run.output / "best", run.state.evaluated_model
        if run.progress.best >= 0 and (best / "config.json").is_file():
            model = type(run.state.model).from_pretrained(best)
            summary = read_json(best / "metrics.json")
        write_model(run, run.output / "model", model, summary)
        write_json(run.output / "metrics.json", summary)
        run.log.draw_curves()
    bad, mismatched = run.progress.bad_images, run.progress.mismatched_sizes
    if bad or mismatched:
        run.log.say(
            f"{bad} times a damaged image was left out, {mismatched} times an image had "
            "another size than its annotations say (boxes were scaled with it)"
        )
    if summary:
        run.log.say(f"{best_so_far(run.recipe.task, run.progress)} at step {summary['step']}")
    if is_low(run):
        run.log.say(why_low(run))
    run.log.say(f"model in {run.output / 'model'}, curves in {run.output / 'curves.png'}")
    run.accelerator.wait_for_everyone()
    if run.stop.signal:
        raise Interrupted(run.stop.signal, f"training is complete: model in {run.output / 'model'}")
    return summary
