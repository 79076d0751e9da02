"""Detect in files and folders, and write what was found: `cdetr predict`."""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..files import write_atomically, write_json
from ..images.read import check_is_file, image_size, read_resized, refuse_url
from ..messages import printable
from ..results.named import Detection
from ..results.panoptic_files import panoptic_row, write_panoptic_png
from .detector import Detector
from .draw import draw_comparison, draw_detections, drawn_size
from .draw_maps import draw_panoptic
from .stream import REPAIR, Source, detect

logger = logging.getLogger(__name__)

# Formats that Pillow knows by name and that hold no picture, or one that other programs must draw.
NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name not in NOT_PICTURES and name in Image.OPEN
) | {".mpo"}  # opened as JPEG
WINDOW = 64  # batches of images that follow one another are grouped by shape; predictions wait for so many at most
LONGEST_STEM = 200  # bytes, of 255 that most file systems allow: endings and temporary names need some


def find_images(patterns: Sequence[str]) -> list[Path]:
    """The image files that paths, folders (searched through) and glob patterns name; sorted, each once.

    Raises:
        FileNotFoundError: one of them names nothing.
        OSError: one is a pipe or a device.
        ValueError: one is an address on the network.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        refuse_url(pattern)
        path = Path(pattern)
        is_folder = os.path.isdir(path)
        if is_folder:
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        elif os.path.exists(path):
            check_is_file(path)
            files = [path]
        else:
            files = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if os.path.isfile(p))
        if not files:
            what = "holds no images" if is_folder else "is neither a file, a folder nor a pattern that matches any"
            raise FileNotFoundError(f"{printable(pattern)} {what}")
        found.update(dict.fromkeys(files))
    return list(found)


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

    Yields:
        Once it is written, one dict an image, in the order of `images`: `file`, `width`, `height`, `detections` (label,
        score, box as x0, y0, x1, y1 in pixels, and, of a segmentation model, mask as COCO run lengths), and `picture`
        where one was drawn; of a panoptic model `panoptic` (the map's file), `segments` and `panoptic_picture`; `error`
        in place of these for a skipped image. What is not Unicode in a file's name is written as `\\udcff`.

    Raises:
        OSError: an image cannot be read (and bad images are not skipped), or the output not be written.
        ValueError: a picture would overwrite an image.
    """
    sources: list[Source] = []
    rows: dict[int, dict[str, Any]] = {}  # of images that are done but come after one that is not
    order: list[int] = []
    for position, path in enumerate(images):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # whoever reads the pixels hears them
                sources.append(Source(path, image_size(path)))
            order.append(position)
        except OSError as error:
            if not skip_bad_images:
                raise OSError(f"{error}. {REPAIR}") from None
            rows[position] = {"file": printable(path), "error": str(error)}
    if progress is not None and rows:
        progress(len(rows))
    stems = _stems([source.path for source in sources])
    inputs = {os.path.realpath(source.path) for source in sources}
    written = [output / f"{stem}{end}" for stem in stems for end in (".jpg", "-panoptic.jpg")] if draw else []
    written += [output / "panoptic" / f"{stem}.png" for stem in stems] if detector.model.task == "panoptic" else []
    if taken := next((path for path in written if os.path.realpath(path) in inputs), None):
        raise ValueError(f"--output {output}: this would overwrite the image {taken}; choose another folder")

    found = detect(
        detector.model, detector.processor, sources, threshold=threshold, batch_size=batch_size, workers=workers,
        skip_bad=skip_bad_images, task=detector.model.task, panoptic_threshold=panoptic_threshold,
        window=WINDOW * batch_size, progress=progress,
    )  # fmt: skip
    config = detector.model.config
    category_ids = config.category_ids or range(config.num_labels)
    maps: dict[int, dict[str, Any]] = {}

    def row_of(index: int, result: dict[str, Any], image: Tensor | None) -> dict[str, Any]:
        source, stem = sources[index], stems[index]
        detections = list(detector.named(result))
        row: dict[str, Any] = {
            "file": printable(source.path),
            "width": source.size[1],
            "height": source.size[0],
            "detections": [
                {"label": d.label, "score": round(d.score, 4), "box": [round(v, 2) for v in d.box]}
                | ({"mask": d.run_lengths} if d.run_lengths else {})
                for d in detections
            ],
        }
        if image is not None:
            picture = output / f"{stem}.jpg"
            row["picture"] = printable(picture)
            shown = [
                d for d in detections if config.is_thing is None or config.is_thing[d.class_id]
            ]  # a map shows stuff
            own = (truth or {}).get(os.path.realpath(source.path))
            options: dict[str, Any] = {"size": source.size, "labels": draw_labels, "line_width": line_width}
            if own is None:
                _save(draw_detections(image, shown, **options), picture)
            else:
                _save(draw_comparison(image, shown, own, **options), picture)
        if "segmentation" in result:
            found_map = detector.named_map(result)
            file = output / "panoptic" / f"{stem}.png"
            write_panoptic_png(file, found_map.ids)
            maps[index] = panoptic_row(index, file.name, found_map.ids, result["segments_info"], category_ids)
            row |= {"panoptic": printable(file), "segments": [asdict(segment) for segment in found_map.segments]}
            if image is not None:
                picture = output / f"{stem}-panoptic.jpg"
                ids = Image.fromarray(found_map.ids.astype(np.int32)).resize(
                    (image.shape[-1], image.shape[-2]), Image.Resampling.NEAREST
                )
                _save(draw_panoptic(image, np.array(ids), result["segments_info"], config.id2label), picture)
                row["panoptic_picture"] = printable(picture)
        return row

    seen = Seen(threshold, config.num_queries)
    output.mkdir(parents=True, exist_ok=True)
    count = 0
    with _open_lines(output / "predictions.jsonl") as lines:
        for index, result in _and_then_nothing(found):
            if index is not None and isinstance(result, dict):
                try:
                    image = _read_to_draw(sources[index]) if draw else None
                except OSError as error:  # it was there to detect in, and is not any more
                    if not skip_bad_images:
                        raise OSError(f"{error}. {REPAIR}") from None
                    result = str(error)
                else:
                    seen.add(sources[index].path, result)
                    rows[order[index]] = row_of(index, result, image)
            if index is not None and isinstance(result, str):
                rows[order[index]] = {"file": printable(sources[index].path), "error": result}
            while count in rows:
                row = rows.pop(count)
                _write_line(lines, output, row)
                count += 1
                yield row
    if maps:
        things = config.is_thing or []
        content = {
            "images": [
                {
                    "id": i,
                    "file_name": printable(sources[i].path),
                    "height": sources[i].size[0],
                    "width": sources[i].size[1],
                }
                for i in sorted(maps)
            ],
            "annotations": [maps[i] for i in sorted(maps)],
            "categories": [
                {"id": number, "name": config.id2label[i], "isthing": int(things[i])}
                for i, number in enumerate(category_ids)
            ],
        }
        write_json(output / "panoptic.json", content, indent=None)
    for remark in seen.remarks():
        logger.warning(remark)


class Seen:
    """What a run of predictions should tell its user: that nothing was found, or that queries ran out."""

    def __init__(self, threshold: float, num_queries: int) -> None:
        self.threshold, self.num_queries = threshold, num_queries
        self.images, self.found = 0, 0
        self.best: tuple[float, Path] | None = None
        self.full: list[Path] = []  # pictures in which every query, or the most detections of an image, are used

    def add(self, path: Path, result: dict[str, Any]) -> None:
        self.images += 1
        self.found += len(result["scores"]) + len(result.get("segments_info", ()))
        if self.best is None or result["best_score"] > self.best[0]:
            self.best = result["best_score"], path
        if self.threshold > 0 and result["queries_used"] >= self.num_queries:
            self.full.append(path)

    def remarks(self) -> list[str]:
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


def _read_to_draw(source: Source) -> Tensor:
    """(3, h, w) uint8, of `drawn_size`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when it was read for detection
        return read_resized(source.path, drawn_size, expected=source.size)


def _and_then_nothing(found: Iterator[tuple[int, Any]]) -> Iterator[tuple[int | None, Any]]:
    """What is found, and a last turn for the rows that no result comes after: where every image was bad, say."""
    yield from found
    yield None, None


def _open_lines(path: Path) -> IO[bytes]:
    """A new file, unbuffered, so that each line is in it when it is written."""
    try:
        return open(path, "wb", buffering=0)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; choose another folder (--output)") from None


def _write_line(lines: IO[bytes], output: Path, row: dict[str, Any]) -> None:
    """Append a row, whole or not at all."""
    line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    before = lines.tell()
    try:
        while line:
            line = line[lines.write(line) :]
    except OSError as error:
        lines.truncate(before)
        raise OSError(
            f"cannot write {output / 'predictions.jsonl'}: {error.strerror}; it holds what was found before. Free some "
            "space or choose another folder (--output)"
        ) from None


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda beside: picture.save(beside, format="JPEG", quality=92))


def _stems(paths: Sequence[Path]) -> list[str]:
    """A name for what is written of each image: its own, with a number where files of two would be the same, on file
    systems that do not tell upper from lower case too. Cut where it is too long, and Unicode."""
    taken: set[str] = set()
    next_number: Counter[str] = Counter()
    stems = []
    for path in paths:
        own = re.sub("[\ud800-\udfff]", "_", path.stem).encode()[:LONGEST_STEM].decode("utf-8", "ignore")
        stem, key = own, own.casefold()
        while not taken.isdisjoint({stem.casefold(), f"{stem}-panoptic".casefold()}):
            next_number[key] += 1
            stem = f"{own}-{next_number[key] + 1}"
        taken |= {stem.casefold(), f"{stem}-panoptic".casefold()}
        stems.append(stem)
    return stems
