"""What is written of each image that was detected in: its row, pictures for people, and its panoptic map."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..config import DetectionConfig
from ..files import write_atomically, write_json
from ..images.arrays import read_array
from ..messages import printable
from ..results.image_results import ImageResults
from ..results.named import Detection, named_detections, named_map
from ..results.panoptic_files import panoptic_row, write_panoptic_png
from .draw import draw_comparison, draw_detections, drawn_size
from .draw_maps import draw_panoptic
from .stream import Source

LONGEST_STEM = 200  # bytes, of 255 that most file systems allow: endings and temporary names need some


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn; see `draw.draw_detections`.

    Args:
        labels, line_width: see there.
        truth: the annotated objects of pictures, by their real paths, to be drawn beside what is found in them.
    """

    labels: bool = True
    line_width: int | None = None
    truth: Mapping[str, Sequence[Detection]] = field(default_factory=dict)


class ImageFiles:
    """Writes what is found in images into a folder.

    Args:
        folder: must exist when something is written.
        sources: the images.
        config: of the model.
        drawing: None draws no pictures.
    """

    def __init__(
        self, folder: Path, sources: Sequence[Source], config: DetectionConfig, drawing: Drawing | None
    ) -> None:
        self.folder, self.sources, self.config, self.drawing = folder, sources, config, drawing
        self.stems = file_stems([source.path for source in sources])
        self.category_ids: Sequence[int] = config.category_ids or range(config.num_labels)
        self._maps: dict[int, dict[str, Any]] = {}  # rows of the panoptic JSON file

    def picture(self, index: int) -> Path:
        return self.folder / f"{self.stems[index]}.jpg"

    def panoptic_picture(self, index: int) -> Path:
        return self.folder / f"{self.stems[index]}-panoptic.jpg"

    def panoptic_map(self, index: int) -> Path:
        return self.folder / "panoptic" / f"{self.stems[index]}.png"

    def check_against_images(self, with_maps: bool) -> None:
        """Raises ValueError where a file would overwrite one of the images."""
        images = {os.path.realpath(source.path) for source in self.sources}
        kinds = [self.picture, self.panoptic_picture] if self.drawing is not None else []
        kinds += [self.panoptic_map] if with_maps else []
        written = (kind(index) for kind in kinds for index in range(len(self.sources)))
        if taken := next((path for path in written if os.path.realpath(path) in images), None):
            raise ValueError(f"--output {self.folder}: this would overwrite the image {taken}; choose another folder")

    def write(self, index: int, found: ImageResults) -> dict[str, Any]:
        """Write an image's pictures and map, and return its row; see `write.predictions`.

        Raises:
            OSError: a file cannot be written.
            UnreadableImage: the image was there to detect in, and cannot be read any more to draw on.
        """
        source = self.sources[index]
        image = None if self.drawing is None else _read_to_draw(source)
        detections = named_detections(found, self.config.id2label)
        row = detections_row(source.path, source.size, detections)
        if image is not None:
            row["picture"] = self._draw(index, image, detections)
        if found.segmentation is not None:
            row |= self._write_map(index, found, image)
        return row

    def _draw(self, index: int, image: np.ndarray, detections: Sequence[Detection]) -> str:
        """Draw detections; of a panoptic model those of things, since the map shows stuff."""
        assert self.drawing is not None, "an image is read only to draw on"
        is_thing, source = self.config.is_thing, self.sources[index]
        shown = [d for d in detections if is_thing is None or is_thing[d.class_id]]
        options: dict[str, Any] = {
            "size": source.size, "labels": self.drawing.labels, "line_width": self.drawing.line_width
        }  # fmt: skip
        truth = self.drawing.truth.get(os.path.realpath(source.path))
        if truth is None:
            drawn = draw_detections(image, shown, **options)
        else:
            drawn = draw_comparison(image, shown, truth, **options)
        return _save(drawn, self.picture(index))

    def _write_map(self, index: int, found: ImageResults, image: np.ndarray | None) -> dict[str, Any]:
        """Write an image's panoptic map, and draw it; what its row says of it."""
        found_map, file = named_map(found, self.config.id2label), self.panoptic_map(index)
        write_panoptic_png(file, found_map.ids)
        self._maps[index] = panoptic_row(index, file.name, found_map.ids, found.segments, self.category_ids)
        row = {"panoptic": printable(file), "segments": [asdict(segment) for segment in found_map.segments]}
        if image is not None:
            ids = Image.fromarray(found_map.ids.astype(np.int32)).resize(
                (image.shape[-1], image.shape[-2]), Image.Resampling.NEAREST
            )
            drawn = draw_panoptic(image, np.array(ids), found.segments, self.config.id2label)
            row["panoptic_picture"] = _save(drawn, self.panoptic_picture(index))
        return row

    def write_panoptic_json(self) -> None:
        """Write what COCO's format says of all maps, if there are any, as `panoptic.json`."""
        if not self._maps:
            return
        things = self.config.is_thing or []
        content = {
            "images": [
                {
                    "id": i,
                    "file_name": printable(self.sources[i].path),
                    "height": self.sources[i].size[0],
                    "width": self.sources[i].size[1],
                }
                for i in sorted(self._maps)
            ],
            "annotations": [self._maps[i] for i in sorted(self._maps)],
            "categories": [
                {"id": number, "name": self.config.id2label[i], "isthing": int(things[i])}
                for i, number in enumerate(self.category_ids)
            ],
        }
        write_json(self.folder / "panoptic.json", content, indent=None)


def detections_row(path: str | os.PathLike[str], size: tuple[int, int], found: Sequence[Detection]) -> dict[str, Any]:
    """What is written of every image, see `write.predictions`. size: height and width."""
    return {
        "file": printable(path),
        "width": size[1],
        "height": size[0],
        "detections": [
            {"label": d.label, "score": round(d.score, 4), "box": [round(v, 2) for v in d.box]}
            | ({"mask": d.run_lengths} if d.run_lengths else {})
            for d in found
        ],
    }


def error_row(path: str | os.PathLike[str], message: str) -> dict[str, Any]:
    """The row of an image that could not be used."""
    return {"file": printable(path), "error": message}


class UnreadableImage(OSError):
    """An image that cannot be read; the message is one line that names it."""


def _read_to_draw(source: Source) -> np.ndarray:
    """(3, h, w) uint8, of `drawn_size`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when it was read for detection
            return read_array(source.path, drawn_size, expected=source.size)
    except OSError as error:
        raise UnreadableImage(str(error)) from None


def _save(picture: Image.Image, path: Path) -> str:
    """Write a picture, and return its name for the row."""
    write_atomically(path, lambda beside: picture.save(beside, format="JPEG", quality=92))
    return printable(path)


def file_stems(paths: Sequence[Path]) -> list[str]:
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
