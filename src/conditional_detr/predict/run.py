"""A model at work: batches of prepared images in, results of each image out.

While a GPU computes a batch, the one before it becomes results here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..config import Task
from ..engines.exported import ExportedModel
from ..images.prepare import Preprocessing
from ..results.arrays import array_results
from ..results.image_results import ImageResults
from .batches import PreparedBatch

# An exported detector needs no PyTorch; what does is imported where another model runs.
if TYPE_CHECKING:
    import torch

    from ..engines.exported import AnyModel
    from .device import Started


def run_batches(
    model: AnyModel,
    preprocessing: Preprocessing,
    batches: Iterable[PreparedBatch],
    *,
    threshold: float,
    task: Task = "detection",
    panoptic_threshold: float | None = None,
    precision: torch.dtype | None = None,
) -> Iterator[tuple[PreparedBatch, list[ImageResults]]]:
    """Run a model on batches; the next one is taken and begun before a batch's results are made.

    Args:
        model: in evaluation mode.
        preprocessing: says how pixels are normalised.
        batches: may be without images.
        threshold: least score of a detection.
        task: "instance" and "panoptic" need a segmentation model; "detection" takes its detector alone.
        panoptic_threshold: least score of a segment; None is the family's, `DetectionConfig.panoptic_threshold`.
        precision: computes under autocast in this type.

    Yields:
        Each batch, and the results of its images.

    Raises:
        RuntimeError: memory ran out; the message says what to do.
    """
    if isinstance(model, ExportedModel) and task == "detection":
        for batch in batches:
            found = model.predicted(batch.images, preprocessing) if batch.images else None
            yield batch, [] if found is None else array_results(found, model.config, batch.sizes, threshold)
        return
    from .device import finish, start

    config = model.config
    is_thing = config.is_thing if task == "panoptic" else None
    if panoptic_threshold is None:
        panoptic_threshold = config.panoptic_threshold
    masks_above = None if task == "detection" else threshold
    if task == "panoptic":
        masks_above = min(threshold, panoptic_threshold)

    def results(batch: PreparedBatch, started: Started | None) -> list[ImageResults]:
        if started is None:
            return []
        return finish(started, config.classes, batch.sizes, threshold, is_thing, panoptic_threshold)

    before: tuple[PreparedBatch, Started | None] | None = None
    for batch in batches:
        started = start(model, preprocessing, batch.images, masks_above, precision) if batch.images else None
        if before is not None:
            yield before[0], results(*before)
        before = batch, started
    if before is not None:
        yield before[0], results(*before)
