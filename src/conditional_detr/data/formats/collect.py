"""What the readers of formats other than COCO's have in common: images and objects, as they are read, become the arrays
of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ...coco_masks import encode_segmentation
from ..check import MOST_OBJECTS, header_sizes
from ..dataset import DetectionDataset
from ..object_masks import InstanceMasks, as_json
from .entries import LARGEST, LARGEST_PICTURE, LARGEST_SIDE
from .polygons import POLYGONS_LOOKED_AT, crosses_itself, crossing_remark


@dataclass(frozen=True)
class Place:
    """Where something stands in a file, for messages."""

    file: str | Path
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else str(self.file)

    def fault(self, what: str) -> NoReturn:
        """Raises ValueError about what stands there."""
        raise ValueError(f"{self}: {what}")


@dataclass
class Collected:
    """Images in the order in which they are added, each with the objects that are added after it.

    Args:
        annotations: the file or folder that the data set is called after.
        images: the folder that the images' names count from.
        names: of the classes.
        category_ids: of the classes, ascending.
        masks: keep every object's mask; one without is left out and counted.
    """

    annotations: Path
    images: Path
    format: str
    names: Sequence[str]
    category_ids: Sequence[int]
    masks: bool
    skip_bad: bool
    file_names: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    first: list[int] = field(default_factory=lambda: [0])
    rows: list[tuple[float, float, float, float, int, float, bool]] = field(default_factory=list)
    run_lengths: list[bytes] = field(default_factory=list)
    clipped: int = 0
    dropped: list[str] = field(default_factory=list)
    maskless: list[str] = field(default_factory=list)
    short_polygons: list[str] = field(default_factory=list)
    outlined: int = 0  # objects with polygons
    crossing: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def picture_size(
        self, file_name: str, place: Place | None = None
    ) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Height and width of a picture, as it is seen and as its file has them; None where it is missing or damaged and
        that is to be skipped.

        Raises:
            OSError: it is missing or damaged, and not to be skipped.
        """
        path = self.images / file_name
        if (found := header_sizes(path)) is not None:
            return found
        if self.skip_bad:
            self.missing.append(file_name)
            return None
        where, advice = f"{place}: " if place else "", "or leave such images out with --skip_bad_images true"
        if not path.is_file():
            raise FileNotFoundError(f"{where}the picture {path} is not there. Check the folder, {advice}")
        raise OSError(f"{where}{path} is not a readable picture. Repair it, {advice}")

    def add_image(self, file_name: str, height: int, width: int, place: Place | None = None) -> None:
        if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE and height * width < LARGEST_PICTURE):
            (place or Place(self.images / file_name)).fault(
                f"width × height is {width} × {height}; expected whole numbers of pixels"
            )
        self.file_names.append(file_name)
        self.sizes.append((height, width))
        self.first.append(len(self.rows))

    def add_object(
        self,
        place: Place,
        number: int,
        box: tuple[float, float, float, float],
        *,
        polygons: Sequence[Sequence[float]] = (),
        segmentation: Any = None,
        crowd: bool = False,
        rounding: float = 0.5,
    ) -> None:
        """Add an object of the last image.

        Args:
            number: of its class, from 0.
            box: x0, y0, x1, y1 in pixels.
            polygons: its outlines, [x0, y0, x1, y1, …] in pixels.
            segmentation: its mask as COCO has it, in place of polygons.
            rounding: so many pixels outside the image are no fault.

        Raises:
            ValueError: numbers that are none, or more objects than any image has.
        """
        x0, y0, x1, y1 = box
        if not (abs(x0) <= LARGEST and abs(y0) <= LARGEST and abs(x1) <= LARGEST and abs(y1) <= LARGEST):
            place.fault(f"the box {x0:g}, {y0:g}, {x1:g}, {y1:g} is not of finite numbers in pixels")
        if len(self.rows) - self.first[-2] >= MOST_OBJECTS:
            place.fault(
                f"more than {MOST_OBJECTS:,} objects in one image, {self.file_names[-1]}: are they of many images, or of no "
                "image? Correct the file, or take it and its image away"
            )
        height, width = self.sizes[-1]
        left, top, right, bottom = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
        if right <= left or bottom <= top:
            self.dropped.append(str(place))
            return
        area = (right - left) * (bottom - top)
        if self.masks:
            mask = self._mask(place, polygons, segmentation)
            if not mask:
                self.maskless.append(str(place))
                return
            counts, area = mask
            self.run_lengths.append(counts)
        self.clipped += x0 < -rounding or y0 < -rounding or x1 > width + rounding or y1 > height + rounding
        self.rows.append((left, top, right, bottom, number, area, crowd))
        self.first[-1] = len(self.rows)

    def _mask(self, place: Place, polygons: Sequence[Sequence[float]], segmentation: Any) -> tuple[bytes, float] | None:
        """An object's compressed run lengths and its area; None where it has no pixel."""
        from hotcoco import mask as coco_mask

        if segmentation is None:
            long = [polygon for polygon in polygons if len(polygon) >= 6]
            if len(long) < len(polygons):
                self.short_polygons.append(str(place))
            if not long:
                return None
            if not all(math.isfinite(sum(polygon)) for polygon in long):
                place.fault("a polygon's numbers must be finite")
            self.outlined += 1
            if self.outlined <= POLYGONS_LOOKED_AT and any(map(crosses_itself, long)):
                self.crossing.append(str(place))
            segmentation = long
        try:
            found = encode_segmentation(segmentation, *self.sizes[-1])
        except ValueError as error:
            place.fault(str(error))
        area = float(coco_mask.area(found))
        return (found["counts"], area) if area else None

    def dataset(self) -> DetectionDataset:
        """The arrays.

        Raises:
            FileNotFoundError: there is no image.
            ValueError: there are objects, but none that is usable.
        """
        lost = len(self.dropped) + len(self.maskless)
        if not self.file_names:
            more = f"; none of {len(self.missing)} is readable in {self.images}" if self.missing else ""
            raise FileNotFoundError(f"{self.annotations} ({self.format}): there are no images{more}")
        if self.maskless and not self.rows:
            raise ValueError(
                f"{self.annotations} ({self.format}): not one of {lost} objects has a mask: the task 'instance' needs "
                "polygons. Give data with masks, or train a detector on this"
            )
        if self.dropped and not self.rows:
            raise ValueError(
                f"{self.annotations} ({self.format}): not one of {lost} boxes has an area inside its image "
                f"(the first: {self.dropped[0]})"
            )
        sizes = np.array(self.sizes, dtype=np.int64).reshape(-1, 2)
        table = np.array([row[:4] for row in self.rows], dtype=np.float32).reshape(-1, 4)
        masks = None
        if self.masks:
            masks = InstanceMasks(
                sizes=sizes,
                run_length_bytes=np.frombuffer(b"".join(self.run_lengths), dtype=np.uint8),
                first=np.concatenate(([0], np.cumsum([len(own) for own in self.run_lengths], dtype=np.int64))),
            )
        remarks = list(self.warnings)
        if self.crossing:
            remarks.append(crossing_remark(self.crossing))
        return DetectionDataset(
            annotation_file=self.annotations,
            image_folder=self.images,
            category_ids=list(self.category_ids),
            category_names=list(self.names),
            image_ids=list(range(1, len(self.file_names) + 1)),
            file_names=self.file_names,
            sizes=sizes,
            first=np.array(self.first, dtype=np.int64),
            boxes=table,
            classes=np.array([row[4] for row in self.rows], dtype=np.int64),
            areas=np.array([row[5] for row in self.rows], dtype=np.float32),
            crowds=np.array([row[6] for row in self.rows], dtype=bool),
            positions=np.arange(len(self.rows), dtype=np.int64),
            ground_truth=ground_truth,
            masks=masks,
            format=self.format,
            clipped=self.clipped,
            dropped=list(self.dropped),
            maskless=list(self.maskless),
            short_polygons=list(self.short_polygons),
            missing=list(self.missing),
            warnings=remarks,
        )


def ground_truth(dataset: DetectionDataset) -> dict[str, Any]:
    """The arrays as COCO's detection JSON: what there is no file of."""
    annotations = dataset.annotations()
    if isinstance(dataset.masks, InstanceMasks):
        masks = [
            mask
            for image in range(len(dataset))
            for mask in dataset.masks.run_lengths(image, range(dataset.first[image], dataset.first[image + 1]))
        ]
        annotations = [
            {**annotation, "segmentation": as_json(mask)} for annotation, mask in zip(annotations, masks, strict=True)
        ]
    rows = zip(dataset.image_ids, dataset.file_names, dataset.sizes.tolist(), strict=True)
    categories = zip(dataset.category_ids, dataset.category_names, strict=True)
    return {
        "images": [{"id": i, "file_name": name, "height": h, "width": w} for i, name, (h, w) in rows],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
