"""Score a model on a data set: `cdetr eval`, and after each epoch of training."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..config import Task
from ..data.dataset import DetectionDataset, Id, classes_by_name, id_order
from ..data.object_masks import PanopticMasks
from ..files import write_atomically, write_json
from ..predict.stream import Source, detect
from ..results.panoptic_files import keep_classes, panoptic_png_bytes, panoptic_row
from ..stopping import Interrupted
from ..transformers.image_processor import DetectionImageProcessor
from .coco_metrics import coco_metrics, panoptic_metrics
from .pictures import draw_validation
from .validation_loss import ValidationLoss, mean_losses

logger = logging.getLogger(__name__)

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


@dataclass
class Predictions:
    """What a model found in a data set, with the data set's own category ids.

    Attributes:
        results: COCO results: image_id, category_id, bbox, score, and `segmentation` (run lengths) where masks were
            asked for; sorted by image and score.
        maps: panoptic rows (see `panoptic_files`), each with the bytes of its PNG file; sorted by image.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    maps: list[tuple[dict[str, Any], bytes]] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)  # where they were asked for, see `ValidationLoss`


def task_of_data(coco: DetectionDataset) -> Task:
    """What can be scored on a data set as it was read."""
    if coco.masks is None:
        return "detection"
    return "panoptic" if isinstance(coco.masks, PanopticMasks) else "instance"


def predict_dataset(
    model: Any,
    processor: DetectionImageProcessor,
    coco: DetectionDataset,
    *,
    batch_size: int = 8,
    workers: int = 2,
    skip_bad: bool = False,
    precision: torch.dtype | None = None,
    panoptic_threshold: float | None = None,
    progress: Callable[[int], Any] | None = None,
    stop: Callable[[], int] | None = None,
    losses: bool = False,
) -> Predictions:
    """Detect in every image of a data set, exactly once over all processes; with masks and maps where the data set was
    read with them.

    Args:
        stop: asked after each image; a signal's number other than 0 ends it, on all processes.
        losses: also compute the losses of the last decoder layer.

    Returns:
        The predictions; complete on every process.

    Raises:
        Interrupted: `stop` said so, on any process.
        ValueError: the model's classes do not map to the data's by name, or it has no masks and the data set does.
    """
    task = task_of_data(coco)
    if task != "detection" and model.task == "detection":
        raise ValueError(f"the model is a detector without masks: it cannot be scored for the task '{task}'")
    if task == "panoptic" and model.config.is_thing is None:
        raise ValueError(
            "the model does not say which classes are things (is_thing in config.json), as 'panoptic' needs"
        )
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    category_of = dict(zip(classes_by_name(coco.category_names, labels), coco.category_ids, strict=True))
    sources = [Source(coco.image_path(i), (int(h), int(w))) for i, (h, w) in enumerate(coco.sizes)]
    many = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    share = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
    predictions = Predictions()
    loss = ValidationLoss(model.config, coco) if losses else None
    bad = []
    results = detect(
        model, processor, sources, threshold=0.0, batch_size=batch_size, workers=workers, skip_bad=skip_bad,
        share=share, precision=precision, task=task, panoptic_threshold=panoptic_threshold, raw=losses,
        progress=progress,
    )  # fmt: skip
    asked = 0
    with closing(results) as found:
        for index, one in found:
            if stop is not None and (asked := stop()):
                break
            if isinstance(one, str):
                bad.append(one)
                continue
            if loss is not None:
                loss.add(index, one["logits"], one["pred_boxes"])
            image_id = coco.image_ids[index]
            boxes = one["boxes"].clone()
            boxes[:, 2:] -= boxes[:, :2]
            masks = [{"segmentation": mask} for mask in one["masks"]] if "masks" in one else [{}] * len(boxes)
            rows = zip(one["labels"].tolist(), boxes.tolist(), one["scores"].tolist(), masks, strict=True)
            predictions.results += [
                {"image_id": image_id, "category_id": category_of[label], "bbox": box, "score": score, **mask}
                for label, box, score, mask in rows
                if label in category_of
            ]
            if "segmentation" in one:
                ids, segments = keep_classes(one["segmentation"], one["segments_info"], category_of)
                row = panoptic_row(image_id, map_file_name(image_id, index), ids, segments, category_of)
                predictions.maps.append((row, panoptic_png_bytes(ids)))
    if bad:
        logger.warning("%d images could not be read and count as without detections; first: %s", len(bad), bad[0])
    sums = [] if loss is None else [loss.sums()]
    if many:
        parts: list[Any] = [None] * share[1]
        dist.all_gather_object(parts, (predictions, asked, sums))
        predictions = Predictions([r for p, *_ in parts for r in p.results], [m for p, *_ in parts for m in p.maps])
        asked, sums = max(part[1] for part in parts), [own for part in parts for own in part[2]]
    if asked:
        raise Interrupted(asked, "the evaluation is not finished")
    predictions.losses = mean_losses(model.config, sums) if sums else {}
    predictions.results.sort(key=lambda row: (id_order(row["image_id"]), -row["score"]))
    predictions.maps.sort(key=lambda pair: id_order(pair[0]["image_id"]))
    return predictions


def map_file_name(image_id: Id, index: int) -> str:
    """The name of an image's panoptic PNG: its id where that is a number, else its place in the data set, counted from 1.
    An id that is text could lead out of the folder, or be no name at all."""
    if isinstance(image_id, int) and abs(image_id) < 10**18:
        return f"{image_id}.png"
    return f"image_{index + 1}.png"


def evaluate(
    model: Any,
    processor: DetectionImageProcessor,
    coco: DetectionDataset,
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
        found = predict_dataset(model, processor, coco, **options)
    finally:
        model.train(was_training)
    first = not dist.is_initialized() or dist.get_rank() == 0
    if predictions is not None and first:
        write_predictions(predictions, found, coco)
    if picture is not None and first:
        draw_validation(picture, found.results, coco)
    if not len(coco.boxes):
        return None
    metrics = score(found, coco)
    metrics.losses = found.losses
    return metrics


def score(found: Predictions, coco: DetectionDataset) -> Metrics:
    """The figures of predictions.

    Raises:
        OSError, ValueError: panoptic PNG files of the data set are missing or contradict its JSON.
    """
    task, truth = task_of_data(coco), coco.to_coco()
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
    assert isinstance(coco.masks, PanopticMasks)
    with tempfile.TemporaryDirectory() as folder:
        for row, png in found.maps:
            (Path(folder) / row["file_name"]).write_bytes(png)
        rows = [row for row, _ in found.maps]
        maps = panoptic_metrics(coco.to_panoptic(), coco.masks.folder, rows, Path(folder))
    everything = {
        name: {**row, **per_class.get(name, {}), "objects": row["objects"]} for name, row in maps.per_class.items()
    }
    return Metrics(task, {**maps.summary, **summary}, everything)


def write_predictions(path: Path, found: Predictions, coco: DetectionDataset) -> None:
    """COCO results, and panoptic maps where there are any; see `evaluate`."""
    write_json(path, found.results, indent=None)
    if not found.maps:
        return
    stem = path.with_name(f"{path.stem}_panoptic")
    stem.mkdir(parents=True, exist_ok=True)
    for row, png in found.maps:
        write_atomically(stem / row["file_name"], lambda beside, png=png: beside.write_bytes(png))  # type: ignore[misc]
    names = zip(coco.category_ids, coco.category_names, coco.is_thing or (), strict=True)
    categories = [{"id": i, "name": name, "isthing": int(thing)} for i, name, thing in names]
    content = {"annotations": [row for row, _ in found.maps], "categories": categories}
    write_json(stem.with_suffix(".json"), content, indent=None)
