"""`cdetr eval`: COCO's figures of a model on a data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    add_cluster,
    add_device,
    add_engine,
    add_image_size,
    add_model,
    add_panoptic_threshold,
    add_speed,
    add_split,
    add_task,
    add_threads,
    add_tile,
    add_workers,
    check_cluster_options,
    check_task,
    image_size_of,
    speed_of,
    tile_of,
    values_of,
)
from .parser import CommandParser
from .progress import progress
from .threads import use_threads
from .usage import UsageError

if TYPE_CHECKING:
    from ..evaluate.evaluation import Metrics


def run(arguments: list[str]) -> None:
    values = values_of(_parser(), arguments)
    if bool(values["annotations"]) != bool(values["images"]):
        raise UsageError("--annotations and --images go together: give both or neither")
    if not values["annotations"] and not values["data"]:
        raise UsageError("give --data FOLDER, or --annotations FILE with --images FOLDER")
    check_task(values)
    check_cluster_options(values)
    if values["cluster"] and "WORLD_SIZE" in os.environ:
        raise UsageError("torchrun's processes and --cluster are two ways to the same: take one")
    use_threads(values["threads"])
    _evaluate(values)


def _parser() -> CommandParser:
    parser = CommandParser(
        "eval",
        "Score a model on a data set: COCO's figures for boxes, masks and panoptic maps, and of each class.",
    )
    add_model(parser)
    parser.add_argument("--data", type=str, default="", help="folder of a data set: COCO, YOLO, Pascal VOC, …")
    add_split(parser)
    add_task(parser)
    add_panoptic_threshold(parser)
    parser.add_argument(
        "--annotations", type=str, default="", help="annotation file, in place of the one found in data"
    )
    parser.add_argument("--images", type=str, default="", help="image folder, in place of the one found in data")
    parser.add_argument("--batch_size", type=int, default=8, help="images of a batch, on each process")
    add_workers(parser)
    add_cluster(parser)
    add_speed(parser)
    add_engine(parser)
    add_threads(parser)
    add_image_size(parser)
    add_tile(parser)
    parser.add_argument("--predictions", type=str, default="", help="also write predictions here, as COCO results JSON")
    parser.add_argument("--metrics", type=str, default="", help="also write the figures here, as JSON")
    add_device(parser)
    parser.add_argument(
        "--skip_bad_images", type=bool, default=False, help="count unreadable images instead of stopping"
    )
    return parser


def _evaluate(values: dict[str, Any]) -> None:
    """Load, score and print; in each of the processes that torchrun or accelerate started, the first of which prints."""
    import torch
    from accelerate import PartialState

    from ..data.splits import read_split, read_split_files
    from ..evaluate.evaluation import evaluate
    from ..files import write_json
    from ..predict.detector import Detector
    from ..workers import worker_count

    tile = tile_of(values)
    state = PartialState(cpu=not torch.accelerator.is_available()) if "WORLD_SIZE" in os.environ else None
    device = values["device"] or (str(state.device) if state else None)
    speed, size = speed_of(values), image_size_of(values)
    elsewhere = _cluster(values, {"device": device, **speed, **size}) if values["cluster"] else None
    if elsewhere:
        device, speed = "cpu", {}  # this process asks the model for its classes alone
    detector = Detector.from_pretrained(values["model"], device=device, **speed, **size)
    task = values["task"] or detector.model.task
    skip_bad = values["skip_bad_images"]
    if values["annotations"]:
        dataset = read_split_files(values["annotations"], values["images"], task, skip_bad)
    else:
        dataset = read_split(values["data"], values["split"], task, skip_bad, values["shares"])
    main = state is None or state.is_main_process
    if main:
        print("\n".join(dataset.summary()))
    with progress("evaluating", len(dataset), main) as advance:
        metrics = evaluate(
            detector.model,
            detector.processor,
            dataset,
            predictions=Path(values["predictions"]) if values["predictions"] else None,
            batch_size=values["batch_size"],
            workers=worker_count(values["workers"], detector.model.device.type),
            skip_bad=skip_bad,
            panoptic_threshold=values["panoptic_threshold"],
            progress=advance,
            **tile,
            elsewhere=elsewhere and partial(elsewhere, skip_bad=skip_bad, progress=advance),
        )
    if main and values["predictions"]:
        print(f"predictions in {values['predictions']}")
    if main and metrics is None:
        print(
            "no annotations, so nothing to score"
            + ("" if values["predictions"] else "; save predictions with --predictions")
        )
    elif main and metrics is not None:
        _print_metrics(metrics)
        if values["metrics"]:
            write_json(Path(values["metrics"]), metrics.to_dict())
    if state is not None:
        state.destroy_process_group()


def _cluster(values: dict[str, Any], options: dict[str, Any]) -> Callable[..., Any]:
    """What detects on a cluster, see `evaluate.predictions.predict_dataset`."""
    from ..cluster.connect import check_cluster

    check_cluster(values["cluster"])
    from ..cluster.detect import Detecting
    from ..cluster.images import detect_on_cluster
    from ..cluster.model_files import ModelFiles
    from ..cluster.pipeline import Work

    detecting = Detecting(
        ModelFiles.read(values["model"]), options, values["threads"] or 1, 0.0, panoptic_threshold=values["panoptic_threshold"]
    )  # fmt: skip
    return partial(detect_on_cluster, Work(detecting, values["batch_size"], values["actors"]), values["cluster"])


def _print_metrics(metrics: Metrics) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    summary = Table("figure", "value", box=None, pad_edge=False)
    for name, value in metrics.summary.items():
        summary.add_row(name, _figure(value))
    columns = list(dict.fromkeys(column for row in metrics.per_class.values() for column in row if column != "objects"))
    classes = Table("class", *columns, "objects", box=None, pad_edge=False)
    for name, row in metrics.per_class.items():
        figures = [_figure(row.get(column, -1.0)) for column in columns]
        classes.add_row(name, *figures, str(row["objects"]))
    console.print(summary)
    console.print()
    console.print(classes)


def _figure(value: float) -> str:
    return "–" if value < 0 else f"{value:.3f}"
