"""From a model and a data set to their report, and to its files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..data.dataset import DetectionDataset
from ..evaluate.evaluation import Metrics, score
from ..evaluate.predictions import DatasetPredictions, predict_dataset
from ..files import write_atomically
from ..predict.detector import Detector
from ..train.log import read_log
from .comparison import compare
from .figures import Report, report_of
from .machine import machine_of, size_of
from .page import report_page

PAGE, FIGURES = "report.html", "report.json"


def make_report(
    detector: Detector,
    name: str,
    dataset: DetectionDataset,
    *,
    data_name: str,
    other: tuple[Detector, str] | None = None,
    resamples: int = 0,
    seed: int = 0,
    progress: Callable[[int], Any] | None = None,
    **options: Any,
) -> Report:
    """Evaluate as `cdetr eval` does, once, and look at the predictions from all sides.

    Args:
        name: of the model, as it was given; the log of its run is looked for beside its folder.
        other: a model to compare with, and its name.
        resamples: of the images, for intervals; 0: as many as a minute allows, at most 1,000.
        options: of `predict_dataset`.

    Raises:
        OSError, ValueError: there is nothing to report on, or a model does not know the data's classes.
    """
    if not len(dataset):
        raise ValueError(f"{dataset.annotation_file} has no images: there is nothing to report on")
    if not len(dataset.boxes):
        raise ValueError(
            f"{dataset.annotation_file} has no annotations, so nothing can be scored: name a split that is labelled (--split)"
        )
    found, metrics, speed = _evaluated(detector, dataset, progress, options)
    data = {
        "name": data_name,
        "annotations": str(dataset.annotation_file),
        "format": dataset.format,
        "images": len(dataset),
        "objects": int(dataset.objects_per_image().sum()),
        "classes": len(dataset.category_names),
    }
    model = {"name": name, **size_of(detector)}
    report = report_of(metrics, dataset, found.results, model=model, data=data, resamples=resamples, seed=seed)
    report.speed = speed
    report.run = run_of(name)
    if other is not None:
        against, other_name = other
        try:
            theirs, their_metrics, _ = _evaluated(against, dataset, progress, options)
        except ValueError as error:
            raise ValueError(f"{other_name}: {error}") from None
        report.comparison = compare(report, dataset, their_metrics, theirs.results, other_name, seed)
    return report


def _evaluated(
    detector: Detector, dataset: DetectionDataset, progress: Callable[[int], Any] | None, options: dict[str, Any]
) -> tuple[DatasetPredictions, Metrics, dict[str, Any]]:
    """Predictions, their figures, and how long predicting took."""
    started = time.perf_counter()
    found = predict_dataset(detector.model, detector.processor, dataset, progress=progress, **options)
    seconds = time.perf_counter() - started
    speed = {
        "images": len(dataset),
        "seconds": round(seconds, 3),
        "images_per_second": round(len(dataset) / seconds, 2),
        "batch_size": options.get("batch_size", 8),
        "precision": str(detector.model.dtype).removeprefix("torch."),
        "machine": machine_of(torch.device(str(detector.model.device))),
        "torch": torch.__version__,
    }
    return found, score(found, dataset), speed


def run_of(model: str) -> list[dict[str, Any]]:
    """The log of the run that a model's folder lies in; empty where there is none."""
    log = Path(model).resolve().parent / "log.jsonl"
    return read_log(log) if Path(model).is_dir() and log.is_file() else []


def write_report(report: Report, folder: Path) -> None:
    """Write the page and the figures."""
    page = report_page(report)
    figures = json.dumps(report.to_dict(), indent=1, allow_nan=False)
    write_atomically(folder / PAGE, lambda beside: beside.write_text(page, encoding="utf-8"))
    write_atomically(folder / FIGURES, lambda beside: beside.write_text(figures + "\n", encoding="utf-8"))
