"""A COCO file's lists read in one pass that makes no objects of what is not needed: seconds and little memory, where
`json` takes many of both for the millions of numbers of polygons.

Only what is plainly right is read so. Anything else, faults among it, is left to `json` and `entries`, which tell the one from
the other and name the place: two readers, but one that decides what is wrong.
"""

import codecs
import mmap
from array import array  # without `from __future__ import annotations`: msgspec evaluates those of the classes below
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ..dataset import Id
from .coco_rows import Columns, Masks
from .entries import LARGEST, LARGEST_AREA, LARGEST_SIDE

PIECE = 2**22  # bytes
FORGET = 2**14  # annotations after which pages of the file are given back


@dataclass
class Content:
    """What a COCO file lists: images and categories of which nothing is known yet; annotations whose numbers are numbers."""

    images: list[dict[str, Any]] = field(default_factory=list)  # id, file_name, height, width, as far as they are there
    categories: list[Any] = field(default_factory=list)
    image_ids: list[Id] = field(default_factory=list)  # of annotations, as all that follows
    category_ids: list[Id] = field(default_factory=list)
    boxes: "array[float]" = field(default_factory=lambda: array("d"))  # x, y, width, height
    areas: "array[float]" = field(default_factory=lambda: array("d"))
    crowds: bytearray = field(default_factory=bytearray)
    ids: list[Any] = field(default_factory=list)
    masks: Masks | None = None

    def columns(self, index_of: dict[Id, int], class_of: dict[Id, int], absent: bool) -> Columns | None:
        """The annotations of the images that are there; None where one is of no image, or of no category, or where masks
        of absent images are among them.

        Args:
            index_of: place of each image that is there.
            absent: whether annotations may be of images that are not.
        """
        known = {image["id"] for image in self.images}
        images = list(map(index_of.get, self.image_ids))
        classes = list(map(class_of.get, self.category_ids))
        if None in classes or not known.issuperset(self.image_ids):
            return None
        found = Columns(
            [image for image in images if image is not None],
            [number for number in classes if number is not None],
            self.boxes, self.areas, self.crowds, self.ids, range(len(images)), self.masks,
        )  # fmt: skip
        if len(found.images) == len(images):
            return found
        return _selected(found, [i for i, image in enumerate(images) if image is not None]) if absent else None


def _selected(columns: Columns, kept: list[int]) -> Columns | None:
    """Some annotations; None where there are masks, among which those of the others were counted."""
    if columns.masks is not None:
        return None
    boxes = columns.boxes
    return Columns(
        columns.images,
        [columns.classes[i] for i in kept],
        array("d", [value for i in kept for value in boxes[4 * i : 4 * i + 4]]),
        array("d", [columns.areas[i] for i in kept]),
        bytearray(columns.crowds[i] for i in kept),
        [columns.ids[i] for i in kept],
        kept,
    )


def read_stream(path: Path, masks: bool) -> Content | None:
    """Read a file; None where it is not plain.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            return None
        with mapped:
            try:
                _check_text(mapped)
                content = _decode(mapped, masks)
            except (ValueError, RecursionError, OverflowError):  # msgspec's errors are ValueErrors
                return None
    return content if content.images else None


def _check_text(mapped: mmap.mmap) -> None:
    """Raises UnicodeDecodeError where it is not UTF-8: values that are passed over are not looked at else."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(mapped), PIECE):
        decoder.decode(mapped[start : start + PIECE])
        _forget(mapped)
    decoder.decode(b"", final=True)


def _forget(mapped: mmap.mmap) -> None:
    """Give back the memory of pages that were read; the file has them still."""
    if hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _decode(mapped: mmap.mmap, masks: bool) -> Content:
    """Decode, emptying every entry into columns as soon as it is there.

    Raises:
        ValueError: it is not plain.
    """
    found = Content(masks=Masks() if masks else None)
    sizes: dict[Id, tuple[int, int]] = {}

    class Image(msgspec.Struct, gc=False):
        id: int | str
        file_name: str
        height: int
        width: int

        def __post_init__(self) -> None:
            if not (1 <= self.height <= LARGEST_SIDE and 1 <= self.width <= LARGEST_SIDE):
                raise ValueError
            found.images.append(
                {"id": self.id, "file_name": self.file_name, "height": self.height, "width": self.width}
            )
            sizes[self.id] = self.height, self.width

    class Annotation(msgspec.Struct, gc=False):
        image_id: int | str
        category_id: int | str
        bbox: tuple[float, float, float, float] | None
        area: float | None = None
        iscrowd: bool | int | None = None
        id: Any = "?"

        def __post_init__(self) -> None:
            _add(found, self)
            self.bbox = self.id = None  # what stays of it is small
            if len(found.image_ids) % FORGET == 0:
                _forget(mapped)

    class Masked(Annotation, gc=False):
        segmentation: Any = None

        def __post_init__(self) -> None:
            if found.masks is None or self.bbox is None or self.image_id not in sizes:
                raise ValueError  # such as a file that lists its images last
            found.masks.add(self.segmentation, self.id, self.bbox, sizes[self.image_id])
            self.segmentation = None
            super().__post_init__()

    class File(msgspec.Struct):
        images: list[Image]
        categories: list[Any]
        annotations: list[Masked if masks else Annotation] = []  # type: ignore[valid-type]  # test sets have none

    content = msgspec.json.decode(mapped, type=File)
    if not len(found.images) == len(content.images) or not len(found.image_ids) == len(content.annotations):
        raise ValueError  # a list is there twice
    found.categories = content.categories
    return found


def _add(found: Content, annotation: Any) -> None:
    """Raises ValueError where a number is not in its range."""
    x, y, width, height = annotation.bbox
    area, crowd = annotation.area, annotation.iscrowd
    if area is None:
        area = width * height
    inside = -LARGEST <= x <= LARGEST and -LARGEST <= y <= LARGEST and -LARGEST <= width <= LARGEST
    if not (
        inside and -LARGEST <= height <= LARGEST and -LARGEST_AREA <= area <= LARGEST_AREA and crowd in (0, 1, None)
    ):
        raise ValueError
    found.image_ids.append(annotation.image_id)
    found.category_ids.append(annotation.category_id)
    found.boxes.extend(annotation.bbox)
    found.areas.append(area)
    found.crowds.append(crowd or 0)
    found.ids.append(annotation.id)
