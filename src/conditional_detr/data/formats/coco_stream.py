"""A COCO file's lists read in one pass that makes no objects of what is not needed: seconds and little memory, where
`json` takes many of both for millions of numbers of polygons.

Only what is plainly right is read so. Anything else, faults among it, is left to `json` and `entries`, which tell the one from
the other and name the place: two readers, but one that decides what is wrong.
"""

import codecs
import mmap
from array import array  # without `from __future__ import annotations`: msgspec evaluates those of the classes below
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..dataset import Id
from .coco_rows import Columns, Masks
from .entries import LARGEST, LARGEST_AREA, LARGEST_SIDE

PIECE = 2**22  # bytes
FORGET = 2**14  # annotations after which pages of the file are given back


@dataclass
class Content:
    """What a COCO file lists: images and categories of which little is known yet; annotations whose numbers are numbers."""

    images: list[Any] = field(default_factory=list)  # with id, file_name, height, width
    categories: list[Any] = field(default_factory=list)
    # Of annotations. Ids of images and categories are numbered as they come: 4 bytes each, whatever they are.
    image_numbers: dict[Id, int] = field(default_factory=dict)
    images_of: "array[int]" = field(default_factory=lambda: array("i"))
    category_numbers: dict[Id, int] = field(default_factory=dict)
    categories_of: "array[int]" = field(default_factory=lambda: array("i"))
    boxes: "array[float]" = field(default_factory=lambda: array("d"))  # x, y, width, height
    areas: "array[float]" = field(default_factory=lambda: array("d"))
    crowds: bytearray = field(default_factory=bytearray)
    ids: list[Any] = field(default_factory=list)
    masks: Masks | None = None

    def image_entries(self) -> Iterator[dict[str, Any]]:
        return ({name: getattr(image, name) for name in image.__struct_fields__} for image in self.images)

    def columns(self, index_of: dict[Id, int], class_of: dict[Id, int]) -> Columns | None:
        """The annotations of the images that are there; None where one is of no image, or of no category, or where masks
        of absent images were counted.

        Args:
            index_of: place of each image that is there.
            class_of: number of each category.
        """
        known = index_of.keys() | {image.id for image in self.images}
        if not (self.image_numbers.keys() <= known and self.category_numbers.keys() <= class_of.keys()):
            return None
        places = np.array([index_of.get(number, -1) for number in self.image_numbers] or [0], dtype=np.int64)
        classes = np.array([class_of[number] for number in self.category_numbers] or [0], dtype=np.int64)
        images = places[np.frombuffer(self.images_of, dtype=np.int32)]
        there = images >= 0
        if not there.all() and self.masks is not None:
            return None
        return Columns(
            images=images[there],
            classes=classes[np.frombuffer(self.categories_of, dtype=np.int32)][there],
            boxes=np.frombuffer(self.boxes).reshape(-1, 4)[there],
            areas=np.frombuffer(self.areas)[there],
            crowds=np.frombuffer(self.crowds, dtype=np.uint8)[there],
            ids=self.ids,
            positions=np.flatnonzero(there),
            masks=self.masks,
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
            if masks:
                sizes[self.id] = self.height, self.width

    class Annotation(msgspec.Struct, gc=False):
        image_id: int | str | None
        category_id: int | str
        bbox: tuple[float, float, float, float] | None
        area: float | None = None
        iscrowd: bool | int | None = None
        id: Any = "?"

        def __post_init__(self) -> None:
            _add(found, self)
            self.image_id = self.bbox = self.area = self.id = None  # what stays of it is small
            if len(found.ids) % FORGET == 0:
                _forget(mapped)

    class Masked(Annotation, gc=False):
        segmentation: Any = None

        def __post_init__(self) -> None:
            if found.masks is None or self.bbox is None or self.image_id is None or self.image_id not in sizes:
                raise ValueError
            found.masks.add(self.segmentation, self.id, self.bbox, sizes[self.image_id])
            self.segmentation = None
            Annotation.__post_init__(self)  # msgspec makes the class anew, and super() does not know it

    class Images(msgspec.Struct):
        images: list[Image]

    class File(Images):
        categories: list[Any]
        annotations: list[Masked if masks else Annotation] = []  # type: ignore[valid-type]  # test sets have none

    if masks:  # their images' sizes are needed, and some files list the images last
        msgspec.json.decode(mapped, type=Images)
    content = msgspec.json.decode(mapped, type=File)
    if len(found.ids) != len(content.annotations) or (masks and len(sizes) != len(content.images)):
        raise ValueError  # a list is there twice
    found.images, found.categories = content.images, content.categories
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
    found.images_of.append(found.image_numbers.setdefault(annotation.image_id, len(found.image_numbers)))
    found.categories_of.append(found.category_numbers.setdefault(annotation.category_id, len(found.category_numbers)))
    found.boxes.extend(annotation.bbox)
    found.areas.append(area)
    found.crowds.append(crowd or 0)
    found.ids.append(annotation.id)
