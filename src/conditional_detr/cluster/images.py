"""Images whose paths and sizes are known, detected in on a cluster: `stream.detect` there, as `cdetr eval` needs it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..config import Task
from ..images.open_file import REPAIR
from ..predict.batches import batches_of_canvases, canvas_of
from ..predict.stream import Source
from ..results.image_results import ImageResults
from .connect import causes, connected
from .pipeline import Pipeline, Work
from .places import Place
from .read import Planned

PART = 512  # images, about, whose batches go from process to process together


def detect_on_cluster(
    work: Work,
    cluster: str,
    sources: Sequence[Source],
    task: Task,
    *,
    skip_bad: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> Generator[tuple[int, ImageResults | str]]:
    """Detect in images, in the batches that `stream.detect` makes of them.

    Args:
        work: what is asked; its task is `task`.
        cluster: see `connect.connected`.
        sources, skip_bad, progress: see `stream.detect`.

    Yields:
        The image's index, and what is found in it, without logits; or what is wrong with the image.

    Raises:
        OSError: an image cannot be used, and `skip_bad` is not set.
        OSError, ValueError, RuntimeError: see `connect.connected` and `Pipeline`.
    """
    with connected(cluster):
        pipeline = Pipeline(replace(work, detecting=replace(work.detecting, task=task, for_scores=True)))
        how = pipeline.batching
        canvases = [canvas_of(source.size, how.preprocessing, how.canvas_step) for source in sources]
        batches = batches_of_canvases(canvases, how.batch_size, torch.device(how.device), how.few_sizes)
        parts = _parts(batches)
        rows = [_row(number, part, sources) for number, part in enumerate(parts)]
        indices = [[i for batch in part for i in batch] for part in parts]
        with causes():
            for row in pipeline.results(rows).iter_rows() if rows else ():
                index, found = indices[int(row["part"])][row["position"]], pickle.loads(row["row"])
                if isinstance(found, str) and not skip_bad:
                    raise OSError(f"{found}. {REPAIR}")
                yield index, found
                if progress is not None:
                    progress(1)


def _parts(batches: Sequence[list[int]]) -> list[list[list[int]]]:
    """Batches of images, in groups of about `PART` images."""
    parts: list[list[list[int]]] = []
    count = PART
    for batch in batches:
        if count >= PART:
            parts.append([])
            count = 0
        parts[-1].append(batch)
        count += len(batch)
    return parts


def _row(number: int, part: Sequence[Sequence[int]], sources: Sequence[Source]) -> dict[str, Any]:
    """Of a part, as `Pipeline.results` takes it; pictures are counted as they stand in its batches."""
    own = [sources[i] for batch in part for i in batch]
    position = iter(range(len(own)))
    batches = [[next(position) for _ in batch] for batch in part]
    planned = Planned([Place.of(source.path).name for source in own], [source.size for source in own], batches)
    return {"name": str(number), "count": len(own), "planned": pickle.dumps(planned)}
