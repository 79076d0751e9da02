"""Detect in files and folders, and write what was found: `cdetr predict`."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from ..images.header import image_size
from ..images.open_file import REPAIR
from ..messages import printable
from ..results.image_results import ImageResults
from ..results.named import Detection
from .detector import Detector
from .image_files import Drawing, ImageFiles, UnreadableImage, error_row, file_stems
from .other_files import OtherFiles
from .row_file import RowFile
from .stream import Source, detect
from .tiles import TileSide

logger = logging.getLogger(__name__)

WINDOW = 64  # batches of images that follow one another are grouped by shape; predictions wait for so many at most


def predict(detector: Detector, images: Sequence[Path], output: Path, **options: Any) -> list[dict[str, Any]]:
    """All of `predictions`, in a list."""
    return list(predictions(detector, images, output, **options))


def predictions(
    detector: Detector,
    images: Sequence[Path],
    output: Path,
    *,
    threshold: float = 0.5,
    batch_size: int = 8,
    workers: int = 2,
    draw: bool = True,
    draw_labels: bool = True,
    line_width: int | None = None,
    truth: Mapping[str, Sequence[Detection]] | None = None,
    skip_bad_images: bool = False,
    panoptic_threshold: float | None = None,
    forms: Sequence[str] = (),
    tile: TileSide | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Detect in files; write `predictions.jsonl` and, beside it, pictures with boxes and masks drawn.

    `predictions.jsonl` is written as it goes, a whole line an image, in the order of `images`: a run that ends early
    leaves the beginning of what it would have written. A panoptic model's maps go into `panoptic/`, as PNG files in
    COCO's format with `panoptic.json` beside the folder, and are drawn as `NAME-panoptic.jpg`.

    What is found nowhere, and pictures in which every query found something, are logged at the end.

    Args:
        threshold: least score of a detection.
        batch_size: at most so many images at once; see `batches.batches_of_canvases`.
        workers: processes that decode; see `stream.detect`.
        draw, draw_labels, line_width: whether to draw pictures, and how; see `draw.draw_detections`.
        truth: the annotated objects of pictures, by their real paths, to be drawn beside what is found in them.
        skip_bad_images: an image that cannot be read, or that memory would not hold, becomes a row with `error`.
        panoptic_threshold: least score of a segment; None is the family's, see `Detector.panoptic`.
        forms: of other programs, to be written too; see `other_files.OtherFiles`.
        tile: cut large pictures into tiles; see `tiled.detect_tiled`.

    Yields:
        Once it is written, one dict an image, in the order of `images`: `file`, `width`, `height`, `detections` (label,
        score, box as x0, y0, x1, y1 in pixels, and, of a segmentation model, mask as COCO run lengths), and `picture`
        where one was drawn; of a panoptic model `panoptic` (the map's file), `segments` and `panoptic_picture`; `error`
        in place of these for a skipped image. What is not Unicode in a file's name is written as `\\udcff`.

    Raises:
        OSError: an image cannot be read (and bad images are not skipped), or the output not be written.
        ValueError: a picture would overwrite an image, or a label file one that is there.
    """
    model = detector.model
    sources, positions, rows = _sources(images, skip_bad_images)
    if progress is not None and rows:
        progress(len(rows))
    drawing = Drawing(draw_labels, line_width, truth or {}) if draw else None
    files = ImageFiles(output, sources, model.config, drawing)
    files.check_against_images(with_maps=model.task == "panoptic")
    remarks = Remarks(threshold, model.config.num_queries)
    others = OtherFiles(output, forms, model.config, images, file_stems(images))
    output.mkdir(parents=True, exist_ok=True)
    with RowFile(output / "predictions.jsonl") as lines, closing(others):
        others.begin()
        written = _written(lines, others)
        for position, row in rows.items():
            lines.add(position, row)
        for index, found in _found(tile)(
            model, detector, sources, threshold=threshold, batch_size=batch_size, workers=workers,
            skip_bad=skip_bad_images, task=model.task, panoptic_threshold=panoptic_threshold,
            window=WINDOW * batch_size, progress=progress,
        ):  # fmt: skip
            if isinstance(found, str):
                row = error_row(sources[index].path, found)
            else:
                try:
                    row = files.write(index, found)
                    remarks.add(sources[index].path, found)
                except UnreadableImage as error:
                    if not skip_bad_images:
                        raise OSError(f"{error}. {REPAIR}") from None
                    row = error_row(sources[index].path, str(error))
            lines.add(positions[index], row)
            yield from written()
        yield from written()  # of images that could not be read, where no result comes after them
    others.finish(output / "predictions.jsonl")
    files.write_panoptic_json()
    for line in remarks.lines():
        logger.warning(line)


def _found(tile: TileSide | None) -> Callable[..., Iterator[tuple[int, ImageResults | str]]]:
    """What detects, in pictures as they are or cut into tiles, which needs PyTorch."""
    if tile is None:
        return detect
    from .tiled import detect_tiled

    return partial(detect_tiled, tile=tile)


def _written(lines: RowFile, others: OtherFiles) -> Callable[[], Iterator[dict[str, Any]]]:
    """What writes the rows whose turn it is, in every form."""
    position = itertools.count()

    def write() -> Iterator[dict[str, Any]]:
        for row in lines.write_ready():
            others.add(next(position), row)
            yield row

    return write


def _sources(images: Sequence[Path], skip_bad: bool) -> tuple[list[Source], list[int], dict[int, dict[str, Any]]]:
    """The images that can be detected in, where each stands in the list, and rows of those that cannot."""
    sources: list[Source] = []
    positions: list[int] = []
    rows: dict[int, dict[str, Any]] = {}
    for position, path in enumerate(images):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # whoever reads the pixels hears them
                sources.append(Source(path, image_size(path)))
            positions.append(position)
        except OSError as error:
            if not skip_bad:
                raise OSError(f"{error}. {REPAIR}") from None
            rows[position] = error_row(path, str(error))
    return sources, positions, rows


class Remarks:
    """What a run of predictions should tell its user: that nothing was found, or that queries ran out."""

    def __init__(self, threshold: float, num_queries: int) -> None:
        self.threshold, self.num_queries = threshold, num_queries
        self.images, self.found = 0, 0
        self.best: tuple[float, Path] | None = None
        self.full: list[Path] = []  # pictures in which every query, or the most detections of an image, are used

    def add(self, path: Path, found: ImageResults) -> None:
        self.images += 1
        self.found += len(found.scores) + len(found.segments)
        if self.best is None or found.best_score > self.best[0]:
            self.best = found.best_score, path
        if self.threshold > 0 and found.queries_used >= self.num_queries:
            self.full.append(path)

    def lines(self) -> list[str]:
        """Each a sentence or two, with what to do."""
        remarks = []
        if self.best is not None and not self.found:
            score, path = self.best
            remarks.append(
                f"no detection above {self.threshold:g}; the best score was {score:.2g}, in {printable(path)}: lower "
                "--threshold to see what the model takes for likely"
            )
        if self.full:
            remarks.append(
                f"in {len(self.full)} of {self.images} images, {printable(self.full[0])} first, every one of the model's "
                f"{self.num_queries} queries scores above {self.threshold:g}: more objects than that (num_queries) it cannot "
                "find. Raise --threshold, or train with a larger --model.num_queries"
            )
        return remarks
