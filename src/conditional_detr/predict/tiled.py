"""Large pictures, in tiles that overlap: small objects keep their pixels, and each object comes out once.

A picture is decoded once. The model sees all of it, made small as always, for what is longer than a tile; and its tiles, in batches, row by row, so that little is held beside the decoded picture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..config import Task
from ..images.open_file import REPAIR, opened, warnings_of
from ..images.pixels import resize
from ..images.prepare import Preprocessing
from ..images.read import LARGE, LoadedPicture
from ..results.image_results import ImageResults
from ..results.merged import Part, merge_parts
from .batches import PreparedBatch, batches_of_canvases, canvas_of
from .memory import check_size
from .run import run_batches
from .stream import Prepares, Source, detect
from .tiles import OVERLAP, Tile, TileSide, tile_side, tiles_of

if TYPE_CHECKING:
    from ..engines.exported import AnyModel

logger = logging.getLogger(__name__)


class Picture(Protocol):
    """A picture of which rows and sizes are made as they are asked for."""

    size: tuple[int, int]  # height and width

    def rows(self, top: int, bottom: int) -> Tensor:
        """uint8 (3, bottom - top, width)"""
        ...

    def resized(self, size: tuple[int, int], resample: int) -> Tensor:
        """uint8 (3, *size)"""
        ...


class TensorPicture:
    """A picture that is in memory, uint8 (3, H, W)."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.size = pixels, (pixels.shape[-2], pixels.shape[-1])

    def rows(self, top: int, bottom: int) -> Tensor:
        return self.pixels[:, top:bottom]

    def resized(self, size: tuple[int, int], resample: int) -> Tensor:
        return resize(self.pixels, size, resample)


def results_in_tiles(
    model: AnyModel, preprocessing: Preprocessing, picture: Picture, side: int, **options: Any
) -> ImageResults:
    """What is found in a picture and its tiles, each object once; masks, but no panoptic map. Arguments and errors: see
    `parts_in_tiles`."""
    return merge_parts(parts_in_tiles(model, preprocessing, picture, side, **options), picture.size)


def parts_in_tiles(
    model: AnyModel,
    preprocessing: Preprocessing,
    picture: Picture,
    side: int,
    *,
    threshold: float,
    task: Task,
    batch_size: int,
    precision: torch.dtype | None = None,
) -> list[Part]:
    """What is found in all of a picture, and in each of its tiles.

    Args:
        side: of the tiles; see `tiles.tile_side`.
        threshold, precision: see `run_batches`.
        batch_size: at most so many tiles at once; see `batches_of_canvases`.

    Raises:
        ValueError: memory would not hold a tile as the model sees it.
        RuntimeError: memory ran out; the message says what to do.
    """
    size = picture.size
    tiles = tiles_of(size, side)
    coarse = _coarse(size)
    parts: dict[int, Part] = {}
    for batch, found in run_batches(
        model, preprocessing, _batches(model, preprocessing, picture, tiles, coarse, batch_size),
        threshold=threshold, task="instance" if task == "panoptic" else task, precision=precision,
    ):  # fmt: skip
        for number, results in zip(batch.indices, found, strict=True):
            if number < 0:
                parts[number] = Part((0, 0, size[1], size[0]), coarse, results, least_side=side)
            else:
                tile = tiles[number]
                parts[number] = Part(tile, (tile.bottom - tile.top, tile.right - tile.left), results)
    return [parts[number] for number in sorted(parts)]


def _batches(
    model: AnyModel,
    preprocessing: Preprocessing,
    picture: Picture,
    tiles: Sequence[Tile],
    coarse: tuple[int, int],
    batch_size: int,
) -> Iterator[PreparedBatch]:
    """All of the picture, with the index -1, and its tiles, in their order."""
    tile_size = tiles[0].bottom - tiles[0].top, tiles[0].right - tiles[0].left
    canvas = canvas_of(tile_size, preprocessing, model.canvas_step)
    for seen in (canvas_of(picture.size, preprocessing, model.canvas_step), canvas):
        check_size(seen, model.device, model.dtype)
    yield PreparedBatch([picture.resized(preprocessing.size_of(*picture.size), preprocessing.resample)], [coarse], [-1])
    few_sizes = model.recorded_shapes is not None
    row: tuple[int, Tensor] | None = None
    for batch in batches_of_canvases([canvas] * len(tiles), batch_size, model.device, few_sizes):
        images = []
        for number in batch:
            tile = tiles[number]
            if row is None or row[0] != tile.top:
                row = None  # before the next are made
                row = tile.top, picture.rows(tile.top, tile.bottom)
            images.append(preprocessing.resize(row[1][:, :, tile.left : tile.right]))
        yield PreparedBatch(images, [tile_size] * len(batch), batch)


def _coarse(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which the results of all of a picture are made: its own, or what masks of a large one take no more memory at."""
    factor = min(1.0, (LARGE / (size[0] * size[1])) ** 0.5)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def detect_tiled(
    model: AnyModel,
    processor: Prepares,
    sources: Sequence[Source],
    *,
    tile: TileSide | None,
    threshold: float,
    batch_size: int,
    skip_bad: bool = False,
    share: tuple[int, int] = (0, 1),
    precision: torch.dtype | None = None,
    task: Task = "detection",
    progress: Callable[[int], Any] | None = None,
    **options: Any,
) -> Generator[tuple[int, ImageResults | str]]:
    """`stream.detect`, with pictures that are worth it cut into tiles; what it cuts is logged at the beginning.

    Args:
        tile: see `tiles.tile_side`; None cuts none.
        threshold, batch_size, skip_bad, share, precision, task, progress, options: of `stream.detect`. Where pictures are cut, `share` is of the pictures.

    Yields, Raises:
        as `stream.detect`; of cut pictures there are no panoptic maps.
    """
    common: dict[str, Any] = dict(
        threshold=threshold, batch_size=batch_size, precision=precision, task=task
    )  # fmt: skip
    plain: dict[str, Any] = dict(common, skip_bad=skip_bad, progress=progress, **options)
    if tile is None:
        yield from detect(model, processor, sources, share=share, **plain)
        return
    preprocessing = processor.preprocessing
    sides = [tile_side(tile, source.size, preprocessing) for source in sources]
    if share[0] == 0:
        _say(sources, sides, task)
    own = range(len(sources))[share[0] :: share[1]]
    for is_cut, run in groupby(own, key=lambda i: sides[i] is not None):
        indices = list(run)
        if not is_cut:
            found = detect(model, processor, [sources[i] for i in indices], **plain)
            yield from ((indices[i], one) for i, one in found)
            continue
        for i in indices:
            try:
                yield i, _results_of_file(model, preprocessing, sources[i], sides[i] or 0, common)
            except (OSError, ValueError) as error:
                if not skip_bad:
                    raise type(error)(f"{error}. {REPAIR}" if isinstance(error, OSError) else str(error)) from None
                yield i, str(error)
            if progress is not None:
                progress(1)


def _results_of_file(
    model: AnyModel, preprocessing: Preprocessing, source: Source, side: int, options: dict[str, Any]
) -> ImageResults:
    with warnings_of(source.path), opened(source.path) as image:
        picture = LoadedPicture(image, source.size)
    return results_in_tiles(model, preprocessing, picture, side, **options)


def _say(sources: Sequence[Source], sides: Sequence[int | None], task: Task) -> None:
    counts = [len(tiles_of(source.size, side)) for source, side in zip(sources, sides, strict=True) if side is not None]
    if not counts:
        logger.warning("no image is cut into tiles: the model sees them all large enough")
        return
    used = sorted({side for side in sides if side is not None})
    between = f"{used[0]}" if len(used) == 1 else f"{used[0]} to {used[-1]}"
    logger.warning(
        "%d of %d images are cut into tiles of %s pixels that overlap by %.0f %%: %d tiles%s",
        len(counts), len(sources), between, 100 * OVERLAP, sum(counts),
        "; of these images there are no panoptic maps" if task == "panoptic" else "",
    )  # fmt: skip
