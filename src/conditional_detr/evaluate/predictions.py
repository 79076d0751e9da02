"""What a model finds in a data set, in COCO's form and with the data set's own ids."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
import torch.distributed as dist

from ..config import Task
from ..data.dataset import DetectionDataset, Id, classes_by_name, id_order
from ..data.object_masks import PanopticMasks
from ..data.sharing import Shared
from ..files import write_json
from ..predict.stream import Source
from ..predict.tiled import detect_tiled
from ..predict.tiles import TileSide
from ..processors.image_processor import DetectionImageProcessor
from ..results.image_results import ImageResults
from ..results.panoptic_files import keep_classes, panoptic_png_bytes, panoptic_row, write_panoptic_png_bytes
from ..stopping import Interrupted
from .validation_loss import ValidationLoss, mean_losses

if TYPE_CHECKING:
    from ..engines.exported import AnyModel

logger = logging.getLogger(__name__)


@dataclass
class DatasetPredictions:
    """What a model found in a data set, with the data set's own category ids.

    Attributes:
        results: COCO results: image_id, category_id, bbox, score, and `segmentation` (run lengths) where masks were
            asked for; sorted by image and score.
        maps: panoptic rows (see `panoptic_files`), each with the bytes of its PNG file; sorted by image.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    maps: list[tuple[dict[str, Any], bytes]] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)  # where they were asked for, see `ValidationLoss`


class DatasetImages(Shared, Sequence[Source]):
    """The images of a data set, to detect in. Loading processes that are spawned share the lists instead of a copy each."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.folder, self.file_names, self.sizes = dataset.image_folder, dataset.file_names, dataset.sizes

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> Source: ...

    @overload
    def __getitem__(self, index: slice) -> list[Source]: ...

    def __getitem__(self, index: int | slice) -> Source | list[Source]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        height, width = self.sizes[index].tolist()
        return Source(self.folder / self.file_names[index], (height, width))


def task_of_data(dataset: DetectionDataset) -> Task:
    """What can be scored on a data set as it was read."""
    if dataset.masks is None:
        return "detection"
    return "panoptic" if isinstance(dataset.masks, PanopticMasks) else "instance"


def predict_dataset(
    model: AnyModel,
    processor: DetectionImageProcessor,
    dataset: DetectionDataset,
    *,
    batch_size: int = 8,
    workers: int = 2,
    skip_bad: bool = False,
    precision: torch.dtype | None = None,
    panoptic_threshold: float | None = None,
    tile: TileSide | None = None,
    progress: Callable[[int], Any] | None = None,
    stop: Callable[[], int] | None = None,
    losses: bool = False,
    elsewhere: Callable[[Sequence[Source], Task], Generator[tuple[int, ImageResults | str]]] | None = None,
) -> DatasetPredictions:
    """Detect in every image of a data set, exactly once over all processes; with masks and maps where the data set was
    read with them.

    Args:
        batch_size, workers, skip_bad, precision, panoptic_threshold, progress: see `stream.detect`.
        tile: cut large pictures into tiles; see `tiled.detect_tiled`. Not of panoptic data.
        stop: asked after each image; a signal's number other than 0 ends it, on all processes.
        losses: also compute the losses of the last decoder layer.
        elsewhere: detects in the images in place of `stream.detect`, such as on other machines, with the same model.

    Returns:
        The predictions; complete on every process.

    Raises:
        Interrupted: `stop` said so, on any process.
        ValueError: the model's classes do not map to the data's by name, or it has no masks and the data set does.
    """
    task = checked_task(model, dataset)
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    category_of = dict(zip(classes_by_name(dataset.category_names, labels), dataset.category_ids, strict=True))
    loss = ValidationLoss(model.config, dataset) if losses else None
    own = DatasetPredictions()
    bad: list[str] = []
    if tile is not None and task == "panoptic":
        raise ValueError("panoptic maps are not made of tiles: leave out --tile, or score with --task instance")
    results = elsewhere(DatasetImages(dataset), task) if elsewhere is not None else detect_tiled(
        model, processor, DatasetImages(dataset), tile=tile, threshold=0.0, batch_size=batch_size, workers=workers, skip_bad=skip_bad,
        share=_share(), precision=precision, task=task, panoptic_threshold=panoptic_threshold, progress=progress,
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
                loss.add(index, torch.from_numpy(one.logits), torch.from_numpy(one.pred_boxes))
            own.results += coco_rows(one, dataset.image_ids[index], category_of)
            if one.segmentation is not None:
                ids, segments = keep_classes(one.segmentation, one.segments, category_of)
                name = map_file_name(dataset.image_ids[index], index)
                row = panoptic_row(dataset.image_ids[index], name, ids, segments, category_of)
                own.maps.append((row, panoptic_png_bytes(ids)))
    if bad:
        logger.warning("%d images could not be read and count as without detections; first: %s", len(bad), bad[0])
    predictions, asked, sums = _of_all_processes(own, asked, None if loss is None else loss.sums())
    if asked:
        raise Interrupted(asked, "the evaluation is not finished")
    predictions.losses = mean_losses(model.config, sums) if sums else {}
    predictions.results.sort(key=lambda row: (id_order(row["image_id"]), -row["score"]))
    predictions.maps.sort(key=lambda pair: id_order(pair[0]["image_id"]))
    return predictions


def checked_task(model: AnyModel, dataset: DetectionDataset) -> Task:
    """What is to be predicted for a data set as it was read.

    Raises:
        ValueError: the model cannot.
    """
    task = task_of_data(dataset)
    if task != "detection" and model.task == "detection":
        raise ValueError(f"the model is a detector without masks: it cannot be scored for the task '{task}'")
    if task == "panoptic" and model.config.is_thing is None:
        raise ValueError(
            "the model does not say which classes are things (is_thing in config.json), as 'panoptic' needs"
        )
    return task


def coco_rows(found: ImageResults, image_id: Id, category_of: Mapping[int, int]) -> Iterator[dict[str, Any]]:
    """An image's detections as COCO results; those of classes without a category are left out.

    Args:
        category_of: class -> the data set's category id.
    """
    boxes = found.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    masks = [{}] * len(boxes) if found.masks is None else [{"segmentation": mask} for mask in found.masks]
    for label, box, score, mask in zip(
        found.labels.tolist(), boxes.tolist(), found.scores.tolist(), masks, strict=True
    ):
        if label in category_of:
            yield {"image_id": image_id, "category_id": category_of[label], "bbox": box, "score": score, **mask}


def map_file_name(image_id: Id, index: int) -> str:
    """The name of an image's panoptic PNG: its id where that is a number, else its place in the data set, counted from 1.
    An id that is text could lead out of the folder, or be no name at all."""
    if isinstance(image_id, int) and abs(image_id) < 10**18:
        return f"{image_id}.png"
    return f"image_{index + 1}.png"


def write_predictions(path: Path, found: DatasetPredictions, dataset: DetectionDataset) -> None:
    """COCO results, and panoptic maps where there are any; see `evaluation.evaluate`."""
    write_json(path, found.results, indent=None)
    if not found.maps:
        return
    stem = path.with_name(f"{path.stem}_panoptic")
    stem.mkdir(parents=True, exist_ok=True)
    for row, png in found.maps:
        write_panoptic_png_bytes(stem / row["file_name"], png)
    names = zip(dataset.category_ids, dataset.category_names, dataset.is_thing or (), strict=True)
    categories = [{"id": i, "name": name, "isthing": int(thing)} for i, name, thing in names]
    content = {"annotations": [row for row, _ in found.maps], "categories": categories}
    write_json(stem.with_suffix(".json"), content, indent=None)


def _share() -> tuple[int, int]:
    """Which of the processes this is, and how many there are."""
    many = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if many else (0, 1)


def _of_all_processes(
    own: DatasetPredictions, asked: int, sums: dict[str, float] | None
) -> tuple[DatasetPredictions, int, list[dict[str, float]]]:
    """What all processes predicted together, the greatest number that any was asked to stop by, and the sums of losses of
    each."""
    listed = [] if sums is None else [sums]
    _, processes = _share()
    if processes == 1:
        return own, asked, listed
    parts: list[Any] = [None] * processes
    dist.all_gather_object(parts, (own, asked, listed))
    together = DatasetPredictions([r for p, *_ in parts for r in p.results], [m for p, *_ in parts for m in p.maps])
    return together, max(part[1] for part in parts), [sum_ for part in parts for sum_ in part[2]]
