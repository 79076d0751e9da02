"""Many image files: decoded by processes of their own while the model computes. What evaluation and prediction share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..config import Task
from ..engines.exported import ExportedModel
from ..images.open_file import REPAIR, warnings_of
from ..images.prepare import Preprocessing
from ..messages import printable
from ..results.image_results import ImageResults
from .batches import PreparedBatch, batches_of_canvases, canvas_of
from .memory import free_memory, too_large
from .run import run_batches

# Exported detectors need no PyTorch; what does is imported where it is used.
if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ..engines.exported import AnyModel


class Prepares(Protocol):
    """An image processor, or what else says how images are prepared."""

    @property
    def preprocessing(self) -> Preprocessing: ...


@dataclass
class Source:
    """An image to detect in."""

    path: Path
    size: tuple[int, int]  # height and width of the picture as it is meant to be seen; boxes are given in it


class PreparedImages:
    """Images as the model takes them, but for normalisation: decoded, turned, resized, uint8.

    Args:
        arrays: made without PyTorch, for exported models.
    """

    def __init__(self, sources: Sequence[Source], preprocessing: Preprocessing, arrays: bool = False) -> None:
        self.sources, self.preprocessing, self.arrays = sources, preprocessing, arrays

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[int, Tensor | np.ndarray | str]:
        """Index, and the image (3, h, w) uint8 or what is wrong with it."""
        source = self.sources[index]
        try:
            with warnings_of(source.path):
                read = self.preprocessing.read_array if self.arrays else self.preprocessing.read
                return index, read(source.path, source.size)
        except (OSError, ValueError) as error:
            return index, str(error)


def detect(
    model: AnyModel,
    processor: Prepares,
    sources: Sequence[Source],
    *,
    threshold: float,
    batch_size: int,
    workers: int,
    skip_bad: bool = False,
    share: tuple[int, int] = (0, 1),
    precision: torch.dtype | None = None,
    task: Task = "detection",
    panoptic_threshold: float | None = None,
    window: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Generator[tuple[int, ImageResults | str]]:
    """Detect in many images, batched by shape so that nothing is padded (or little; see `DetectionBase.canvas_step`).

    While a GPU computes a batch, the one before it becomes detections here, and workers decode the next ones.

    Args:
        model: in evaluation mode.
        processor: that belongs to the model: how images are prepared.
        sources: the images.
        batch_size: at most so many at once; see `batches_of_canvases`.
        workers: processes that decode; 0 decodes here, which is faster where the CPU detects too.
        skip_bad: yield what is wrong with an image that cannot be read, or that memory would not hold, instead of raising.
        share: (i, n) takes every n-th batch from the i-th on: together the n shares are every image once.
        threshold, task, panoptic_threshold, precision: see `run_batches`.
        window: only so many images that follow one another may share batches, so that results come about in order.
        progress: called with the number of images done after each batch.

    Yields:
        The image's index, and what is found in it; or what is wrong with the image.

    Raises:
        OSError: an image cannot be read, and `skip_bad` is not set.
        ValueError: memory would not hold an image; said before any is read.
        RuntimeError: memory ran out; the message says what to do.
    """
    preprocessing = processor.preprocessing
    canvases = [canvas_of(source.size, preprocessing, model.canvas_step) for source in sources]
    every = batches_of_canvases(canvases, batch_size, model.device, model.recorded_shapes is not None, window)
    own = every[share[0] :: share[1]]  # of what all processes split alike, whatever memory each of them has
    refused = _refused(sources, canvases, [i for batch in own for i in batch], model)
    if refused and not skip_bad:
        raise ValueError(next(iter(refused.values())))
    if refused:
        yield from refused.items()
        if progress is not None:
            progress(len(refused))
    batches = [kept for batch in own if (kept := [i for i in batch if i not in refused])]
    images = PreparedImages(sources, preprocessing, arrays=isinstance(model, ExportedModel))
    with _loaded(images, batches, min(workers, len(batches)), pinned=model.device.type == "cuda") as loaded:
        prepared = (_prepared(samples, sources) for samples in loaded)
        for batch, found in run_batches(
            model, preprocessing, prepared, threshold=threshold, task=task,
            panoptic_threshold=panoptic_threshold, precision=precision,
        ):  # fmt: skip
            yield from zip(batch.indices, found, strict=True)
            for index, message in batch.unreadable:
                if not skip_bad:
                    raise OSError(f"{message}. {REPAIR}")
                yield index, message
            if progress is not None:
                progress(len(batch.indices) + len(batch.unreadable))


@contextmanager
def _loaded(images: PreparedImages, batches: list[list[int]], workers: int, pinned: bool) -> Iterator[Iterator[Any]]:
    """What `PreparedImages` gives of each batch, in turn, by so many processes that end with the block; 0: here.

    Args:
        pinned: in memory that a GPU copies from by itself.
    """
    if not workers and not pinned:
        yield ([images[index] for index in batch] for batch in batches)
        return
    import torch
    from torch.utils.data import DataLoader

    from ..workers import InSharedMemory, batches_of, leave_signals_to_the_parent

    loader: DataLoader[Any] = DataLoader(
        images,  # type: ignore[arg-type]  # it has what is asked of a data set
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=InSharedMemory(list),
        pin_memory=pinned,
        worker_init_fn=leave_signals_to_the_parent,
        generator=torch.Generator(),  # its own, so that evaluation in the middle of training draws nothing from it
    )
    with batches_of(loader) as loaded:
        yield loaded


def _refused(
    sources: Sequence[Source],
    canvases: Sequence[tuple[int, int]],
    own: Sequence[int],
    model: AnyModel,
) -> dict[int, str]:
    """Which of these images memory would not hold, in their order, and why."""
    free = free_memory(model.device)
    reasons = ((i, too_large(canvases[i], model.device, model.dtype, free)) for i in sorted(own))
    return {i: f"{printable(sources[i].path)}: {reason}" for i, reason in reasons if reason is not None}


def _prepared(samples: Sequence[tuple[int, Any]], sources: Sequence[Source]) -> PreparedBatch:
    """What `PreparedImages` gave, as a batch."""
    good = [(index, image) for index, image in samples if not isinstance(image, str)]
    return PreparedBatch(
        images=[image for _, image in good],
        sizes=[sources[index].size for index, _ in good],
        indices=[index for index, _ in good],
        unreadable=[(index, message) for index, message in samples if isinstance(message, str)],
    )
