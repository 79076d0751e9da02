"""Score a detector on a data set: `cdetr eval`, and after each epoch of training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..checkpoints.files import write_json
from ..data.coco import CocoDataset, classes_by_name
from ..processing.image_processor import DetectionImageProcessor
from .coco_metrics import CocoMetrics, coco_metrics
from .inference import Source, detect

logger = logging.getLogger(__name__)


def predict_dataset(
    model: Any,
    processor: DetectionImageProcessor,
    coco: CocoDataset,
    *,
    batch_size: int = 8,
    workers: int = 2,
    skip_bad: bool = False,
    precision: torch.dtype | None = None,
    progress: Callable[[int], Any] | None = None,
) -> list[dict[str, Any]]:
    """Detect in every image of a data set, exactly once over all processes.

    Returns:
        COCO results, sorted by image and score, with the data set's own category ids; complete on every process.

    Raises:
        ValueError: the model's classes do not map to the data's by name.
    """
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    category_of = dict(zip(classes_by_name(coco.category_names, labels), coco.category_ids, strict=True))
    sources = [Source(coco.image_path(i), (int(h), int(w))) for i, (h, w) in enumerate(coco.sizes)]
    many = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    share = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
    results: list[dict[str, Any]] = []
    bad = []
    found = detect(
        model, processor, sources, threshold=0.0, batch_size=batch_size, workers=workers, skip_bad=skip_bad,
        share=share, precision=precision, progress=progress,
    )  # fmt: skip
    for index, one in found:
        if isinstance(one, str):
            bad.append(one)
            continue
        boxes = one["boxes"].clone()
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(one["labels"].tolist(), boxes.tolist(), one["scores"].tolist(), strict=True)
        results += [
            {"image_id": coco.image_ids[index], "category_id": category_of[label], "bbox": box, "score": score}
            for label, box, score in rows
            if label in category_of
        ]
    if bad:
        logger.warning("%d images could not be read and count as without detections; first: %s", len(bad), bad[0])
    if many:
        parts: list[Any] = [None] * share[1]
        dist.all_gather_object(parts, results)
        results = [row for part in parts for row in part]
    results.sort(key=lambda row: (row["image_id"], -row["score"]))
    return results


def evaluate(
    model: Any,
    processor: DetectionImageProcessor,
    coco: CocoDataset,
    *,
    predictions: Path | None = None,
    **options: Any,
) -> CocoMetrics | None:
    """Predict and score.

    Args:
        predictions: also write the predictions there, as COCO results JSON.
        options: of `predict_dataset`.

    Returns:
        The figures; None where the data set has no annotations (a test set), which leaves the predictions alone.
    """
    was_training = model.training
    model.eval()
    try:
        results = predict_dataset(model, processor, coco, **options)
    finally:
        model.train(was_training)
    if predictions is not None and (not dist.is_initialized() or dist.get_rank() == 0):
        write_json(predictions, results, indent=None)
    return coco_metrics(coco.to_coco(), results) if len(coco.boxes) else None
