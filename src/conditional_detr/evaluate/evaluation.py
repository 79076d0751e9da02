"""Score a model on a data set: `cdetr eval`, and after each epoch of training."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from ..config import Task
from ..data.dataset import DetectionDataset
from ..data.object_masks import PanopticMasks
from ..processors.image_processor import DetectionImageProcessor
from .coco_metrics import coco_metrics, panoptic_metrics
from .pictures import draw_validation
from .predictions import DatasetPredictions, predict_dataset, task_of_data, write_predictions

if TYPE_CHECKING:
    from ..engines.exported import AnyModel

# The figure that says how good a model is.
HEADLINE: dict[Task, str] = {"detection": "AP", "instance": "mask_AP", "panoptic": "PQ"}


@dataclass
class Metrics:
    """What a model reaches on a data set, in 0…1; -1 where there is nothing to measure (no large objects, say).

    Boxes have COCO's twelve figures, masks the same with `mask_` in front, panoptic maps PQ, SQ and RQ, and these with
    `_things` and `_stuff` behind.
    """

    task: Task
    summary: dict[str, float]
    per_class: dict[str, dict[str, float]]  # name -> the main figures, objects
    losses: dict[str, float] = field(default_factory=dict)  # where they were asked for

    @property
    def headline(self) -> float:
        return self.summary[HEADLINE[self.task]]

    def describe(self) -> str:
        """The main figures in a few words."""
        names = {
            "detection": ("AP", "AP50", "AP75"),
            "instance": ("mask_AP", "mask_AP50", "AP"),
            "panoptic": ("PQ", "SQ", "RQ", "mask_AP"),
        }[self.task]
        return ", ".join(f"{name.replace('_', ' ')} {self.summary[name]:.3f}" for name in names)

    def to_dict(self) -> dict[str, Any]:
        return {**self.summary, "per_class": self.per_class}


def evaluate(
    model: AnyModel,
    processor: DetectionImageProcessor,
    dataset: DetectionDataset,
    *,
    predictions: Path | None = None,
    picture: Path | None = None,
    **options: Any,
) -> Metrics | None:
    """Predict and score: boxes; with masks also masks; of panoptic data maps, and of things boxes and masks.

    Args:
        predictions: also write the predictions there, as COCO results JSON; panoptic maps beside it, in COCO's format,
            as NAME_panoptic.json and the folder NAME_panoptic.
        picture: also draw some images there, with their objects and with what was found.
        options: of `predict_dataset`.

    Returns:
        The figures; None where the data set has no annotations (a test set), which leaves the predictions alone.
    """
    was_training = model.training
    model.eval()
    try:
        found = predict_dataset(model, processor, dataset, **options)
    finally:
        model.train(was_training)
    first = not dist.is_initialized() or dist.get_rank() == 0
    if predictions is not None and first:
        write_predictions(predictions, found, dataset)
    if picture is not None and first:
        draw_validation(picture, found.results, dataset)
    if not len(dataset.boxes):
        return None
    metrics = score(found, dataset)
    metrics.losses = found.losses
    return metrics


def score(found: DatasetPredictions, dataset: DetectionDataset) -> Metrics:
    """The figures of predictions.

    Raises:
        OSError, ValueError: panoptic PNG files of the data set are missing or contradict its JSON.
    """
    task, truth = task_of_data(dataset), dataset.to_coco()
    scored = {category["id"] for category in truth["categories"]}  # of panoptic data things alone
    results = [row for row in found.results if row["category_id"] in scored]
    boxes = coco_metrics(truth, results)
    if task == "detection":
        return Metrics(task, boxes.summary, boxes.per_class)
    masks = coco_metrics(truth, results, "segm")
    summary = {**{f"mask_{name}": value for name, value in masks.summary.items()}, **boxes.summary}
    per_class = {
        name: {"mask_AP": row["AP"], "mask_AP50": row["AP50"], **boxes.per_class[name]}
        for name, row in masks.per_class.items()
    }
    if task == "instance":
        return Metrics(task, summary, per_class)
    assert isinstance(dataset.masks, PanopticMasks)
    with tempfile.TemporaryDirectory() as folder:
        for row, png in found.maps:
            (Path(folder) / row["file_name"]).write_bytes(png)
        rows = [row for row, _ in found.maps]
        maps = panoptic_metrics(dataset.to_panoptic(), dataset.masks.folder, rows, Path(folder))
    everything = {
        name: {**row, **per_class.get(name, {}), "objects": row["objects"]} for name, row in maps.per_class.items()
    }
    return Metrics(task, {**maps.summary, **summary}, everything)
