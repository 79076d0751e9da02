"""The data set in memory: images, boxes, classes and masks of a split, counted and described; every format is read into it."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..messages import listed_briefly
from .object_masks import InstanceMasks, PanopticMasks, as_json
from .sharing import Shared

Id = int | str  # of an image: a whole number of any size, or a string


def id_order(value: Id) -> tuple[bool, Id]:
    """A key that sorts ids: numbers first."""
    return isinstance(value, str), value


@dataclass
class DetectionDataset(Shared):
    """The images, boxes and masks of a split, whatever format they came in, in flat arrays that worker processes share.

    N images, A usable annotations ordered by image. Classes are 0…C-1 in the order of the category ids.
    """

    annotation_file: Path
    image_folder: Path
    category_ids: list[int]
    category_names: list[str]
    image_ids: Sequence[Id]  # whole numbers of any size, or strings
    file_names: Sequence[str]
    sizes: np.ndarray  # (N, 2) int64, height and width as the JSON gives them
    first: np.ndarray  # (N + 1,) int64: annotations of image i are first[i]:first[i + 1]
    boxes: np.ndarray  # (A, 4) float32, xyxy in pixels, inside the image
    classes: np.ndarray  # (A,) int64
    areas: np.ndarray  # (A,) float32, as the JSON gives them
    crowds: np.ndarray  # (A,) bool
    positions: np.ndarray  # (A,) int64: where the annotation stands in the file's list; panoptic: in all images' lists
    ground_truth: Callable[[DetectionDataset], dict[str, Any]]  # see `to_coco`
    panoptic_truth: Callable[[DetectionDataset], dict[str, Any]] | None = None  # see `to_panoptic`
    masks: InstanceMasks | PanopticMasks | None = None  # None: read for detection
    is_thing: list[bool] | None = None  # (C,), of panoptic data
    format: str = "COCO"  # that it was read from, for people
    clipped: int = 0  # boxes that reached outside their image and were cut
    dropped: list[Any] = field(default_factory=list)  # ids of annotations whose box has no area inside the image
    maskless: list[Any] = field(default_factory=list)  # ids of annotations left out because they have no mask
    short_polygons: list[Any] = field(default_factory=list)  # ids of annotations with polygons of less than 3 points
    missing: list[str] = field(
        default_factory=list
    )  # names of images without their file, or their panoptic PNG: left out
    parent_category: str | None = None  # Roboflow's, left out
    box_form: str | None = None  # what boxes seem to be that are not x, y, width, height in pixels
    notes: list[str] = field(default_factory=list)  # what else its user should know, such as how a split was made
    warnings: list[str] = field(default_factory=list)  # of its reader and of `check.check_dataset`

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def missing_images(self) -> int:
        """How many were left out because their file is not there."""
        return len(self.missing)

    def image_path(self, index: int) -> Path:
        return self.image_folder / self.file_names[index]

    def subset(self, images: Sequence[int]) -> DetectionDataset:
        """Some of its images, in this order. What was counted while reading (boxes cut, files missing) stays that of all."""
        counts = np.diff(self.first)[list(images)] if len(images) else np.zeros(0, dtype=np.int64)
        rows = np.concatenate([np.arange(self.first[i], self.first[i + 1]) for i in images] or [np.zeros(0, np.int64)])
        first = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        return dataclasses.replace(
            self,
            image_ids=[self.image_ids[i] for i in images],
            file_names=[self.file_names[i] for i in images],
            sizes=self.sizes[list(images)],
            first=first,
            boxes=self.boxes[rows],
            classes=self.classes[rows],
            areas=self.areas[rows],
            crowds=self.crowds[rows],
            positions=self.positions[rows],
            masks=None if self.masks is None else self.masks.subset(images, rows, first),
            notes=list(self.notes),
            warnings=list(self.warnings),
        )

    def objects_per_image(self) -> np.ndarray:
        """Boxes of each image that are trained on: crowds are not. (N,)"""
        image = np.repeat(np.arange(len(self)), np.diff(self.first))
        return np.bincount(image[~self.crowds], minlength=len(self))

    def fingerprint(self) -> int:
        """A number that changes when images, boxes or classes do, but not when the folder moves."""
        names = repr((self.image_ids, self.file_names, self.category_ids, self.category_names)).encode()
        crc = zlib.crc32(names)
        masks = [] if self.masks is None else [self.masks.content]
        for array in (self.boxes, self.classes, self.crowds, *masks):  # no copies: they may be hundreds of megabytes
            crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
        return crc

    def summary(self, num_queries: int | None = None) -> list[str]:
        """What a user should know before training on this: one line each."""
        objects = self.objects_per_image()
        total, most = int(objects.sum()), int(objects.max(initial=0))
        lines = [
            f"{self.annotation_file} ({self.format}): {len(self)} images, {total} objects of {len(self.category_ids)} classes",
            f"objects per image: {total / max(len(self), 1):.1f} on average, {most} at most",
        ]
        if self.is_thing is not None:
            things = sum(self.is_thing)
            lines.insert(1, f"panoptic: {things} classes are things, {len(self.is_thing) - things} are stuff")
        lines[1:1] = self.notes
        counts = [
            (int((objects == 0).sum()), "images without objects (kept: they teach what is background)"),
            (int(self.crowds.sum()), "crowd regions (left out of training, kept in evaluation)"),
            (self.clipped, "boxes reached outside their image and were cut"),
            (len(self.dropped), f"boxes without area were left out (annotations {listed_briefly(self.dropped)})"),
            (len(self.maskless), f"objects without a mask were left out (annotations {listed_briefly(self.maskless)})"),
            (
                len(self.short_polygons),
                f"objects lost polygons of fewer than 3 points (annotations {listed_briefly(self.short_polygons)})",
            ),
            (self.missing_images, "images left out because their file is missing"),
        ]
        lines += [f"{count} {what}" for count, what in counts if count]
        if self.parent_category is not None:
            lines.append(
                f"category 0 {self.parent_category!r} is Roboflow's name for all classes together and was left out"
            )
        if not len(self.boxes):
            lines.append("warning: no annotations, so nothing can be scored: there will be no AP")
        lines += [f"warning: {warning}" for warning in self.warnings]
        if num_queries is not None and (over := int((objects > num_queries).sum())):
            lines.append(
                f"warning: {over} images have more objects than the model has queries ({num_queries}); the rest can "
                "never be found. Raise model.num_queries"
            )
        return lines

    def to_coco(self) -> dict[str, Any]:
        """What the evaluator compares boxes and masks with, as COCO's detection JSON; the format that the data was read
        from knows it.

        Raises:
            OSError, ValueError: a panoptic PNG file cannot be read or contradicts the JSON.
        """
        return self.ground_truth(self)

    def to_panoptic(self) -> dict[str, Any]:
        """The contents of the panoptic JSON for the images of this set; the PNG files are in `self.masks.folder`."""
        assert self.panoptic_truth is not None, "only panoptic data has panoptic maps"
        return self.panoptic_truth(self)

    def annotations(self) -> list[dict[str, Any]]:
        """Every row of the arrays as COCO has it, numbered from 1."""
        return [
            self._annotation(image, row, number=row + 1)
            for image in range(len(self))
            for row in range(self.first[image], self.first[image + 1])
        ]

    @cached_property
    def thing_annotations(self) -> list[dict[str, Any]]:
        """The things of panoptic data as COCO's annotations, numbered from 1, with masks from the PNG files, which are
        read once."""
        assert self.masks is not None and self.is_thing is not None
        annotations: list[dict[str, Any]] = []
        for image in range(len(self)):
            own = np.arange(self.first[image], self.first[image + 1])
            things = own[np.array(self.is_thing)[self.classes[own]]]
            for a, mask in zip(things.tolist(), self.masks.run_lengths(image, things), strict=True):
                annotation = self._annotation(image, a, number=len(annotations) + 1)
                annotations.append({**annotation, "segmentation": as_json(mask)})
        return annotations

    def _annotation(self, image: int, row: int, number: int) -> dict[str, Any]:
        """A row of the arrays as COCO has it."""
        x0, y0, x1, y1 = self.boxes[row].tolist()
        return {
            "id": number,
            "image_id": self.image_ids[image],
            "category_id": self.category_ids[self.classes[row]],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": float(self.areas[row]),
            "iscrowd": int(self.crowds[row]),
        }


def check_same_categories(train: DetectionDataset, val: DetectionDataset) -> None:
    """Raises ValueError where the two sets' categories differ in id or name."""
    ours, theirs = (dict(zip(s.category_ids, s.category_names, strict=True)) for s in (train, val))
    if ours != theirs:
        different = sorted(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[0])
        raise ValueError(
            f"{val.annotation_file} and {train.annotation_file} have different categories: "
            + listed_briefly([f"{number} {name!r}" for number, name in different])
        )


def classes_by_name(names: Sequence[str], labels: Sequence[str]) -> list[int]:
    """For each of a data set's category names, the model's class with that name.

    Raises:
        ValueError: the model lacks some of the names.
    """
    found = {label: i for i, label in enumerate(labels)}
    absent = [name for name in names if name not in found]
    if absent:
        raise ValueError(
            f"the model has no class called {listed_briefly([repr(n) for n in absent])}; it knows {listed_briefly(list(labels))}. "
            "Evaluate with data of the model's classes, or train on this data first"
        )
    return [found[name] for name in names]
