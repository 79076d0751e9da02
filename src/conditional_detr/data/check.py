"""What is wrong with data as a whole, said before anything is trained or scored on it: boxes of another form than COCO's,
and pictures of other sizes than the annotation file says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..images.header import image_sizes
from .dataset import DetectionDataset

MOST_OUTSIDE = (
    0.05  # share of boxes that may be cut or have no area inside their image: rounding and slips, not a cause
)
MOST_OBJECTS = 100_000  # of one image; queries are a thousandth of it
FITTING = 0.99  # share of boxes that a form must explain
FEWEST_BOXES = 10  # fewer boxes fit another form by chance
LOOKED_AT = 200  # pictures whose headers are read: some hundredths of a second

FORMS = {
    "xyxy": "the corners x0, y0, x1, y1",
    "centre": "their centre, width and height",
    "exchanged": "y, x, height and width",
    "normalised": "fractions of the image's sides, 0…1",
}
CURES = {
    "xyxy": "write [x0, y0, x1 - x0, y1 - y0]",
    "centre": "write [cx - width / 2, cy - height / 2, width, height]",
    "exchanged": "write [x, y, width, height]",
    "normalised": "multiply x and width by the image's width, y and height by its height (and if they are YOLO's, of the "
    "centre, subtract half of width and height)",
}


def box_form(boxes: np.ndarray, sizes: np.ndarray) -> str | None:
    """What boxes seem to be, where they are not x, y, width, height in pixels.

    Args:
        boxes: (n, 4) finite numbers.
        sizes: (n, 2) height and width of the boxes' images.

    Returns:
        A key of `FORMS`, or None: they are right, or wrong in another way, or too few to tell.
    """
    if len(boxes) < FEWEST_BOXES:
        return None
    a, b, c, d = boxes.astype(np.float64).T
    height, width = sizes.astype(np.float64).T

    def share_inside(x0: Any, y0: Any, x1: Any, y1: Any) -> float:
        """Of boxes that have an area and stay inside their image, to a pixel of rounding."""
        inside = (x0 >= -1) & (y0 >= -1) & (x1 <= width + 1) & (y1 <= height + 1) & (x1 > x0) & (y1 > y0)
        return float(inside.mean())

    values = np.stack([a, b, c, d])
    within_one = ((values >= 0) & (values <= 1)).all(0) & (np.minimum(height, width) > 2)
    if within_one.mean() >= FITTING and (values != np.round(values)).any():
        return "normalised"
    if share_inside(a, b, a + c, b + d) >= 1 - MOST_OUTSIDE:
        return None
    fits = {
        "xyxy": share_inside(a, b, c, d),
        "centre": share_inside(a - c / 2, b - d / 2, a + c / 2, b + d / 2),
        "exchanged": share_inside(b, a, b + d, a + c),
    }
    best = max(fits, key=lambda name: fits[name])
    return best if fits[best] >= FITTING else None


def check_dataset(dataset: DetectionDataset) -> list[str]:
    """Look at the boxes as a whole, and at the headers of up to `LOOKED_AT` pictures.

    Returns:
        What its user should look at: one line each.

    Raises:
        ValueError: the boxes are of another form, or more than a twentieth of the pictures has width and height the other
            way round than the annotation file says, so that boxes cannot be where their objects are.
    """
    remarks = []
    objects = np.diff(dataset.first)
    if (most := int(objects.max(initial=0))) > MOST_OBJECTS:
        raise ValueError(
            f"{dataset.annotation_file}: the image {dataset.file_names[int(objects.argmax())]} has {most:,} objects, more than "
            f"{MOST_OBJECTS:,}: are they of many images? Correct their image_id, or take the image away"
        )
    outside, count = dataset.clipped + len(dataset.dropped), len(dataset.boxes) + len(dataset.dropped)
    if dataset.box_form is not None:
        what = FORMS[dataset.box_form]
        seen = f"; {outside} of {count} reach outside their image" if outside > MOST_OUTSIDE * count else ""
        cure = "" if dataset.box_form == "normalised" else ". If they are right, cut them at the edges of their images"
        raise ValueError(
            f"{dataset.annotation_file}: the boxes seem to be {what}{seen}. COCO has x, y of the upper left corner, width "
            f"and height, in pixels: {CURES[dataset.box_form]}{cure}"
        )
    if outside > MOST_OUTSIDE * count:
        remarks.append(
            f"{outside} of {count} boxes reach outside their image or have no area; are they x, y, width and height in "
            "pixels, and are the images' width and height right?"
        )
    return remarks + _check_sizes(dataset)


def _check_sizes(dataset: DetectionDataset) -> list[str]:
    looked_at = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), LOOKED_AT)).round().astype(int)).tolist()
    read, other_size, exchanged = 0, 0, 0
    example = ""
    for index in looked_at:
        found = header_sizes(dataset.image_path(index))
        if found is None:
            continue
        read += 1
        said = tuple(dataset.sizes[index].tolist())
        if said in found:
            continue
        other_size += 1
        turned = said == found[0][::-1]
        if turned or not example:
            example = (
                f"{dataset.file_names[index]} has width × height {found[0][1]} × {found[0][0]}, the file says "
                f"{said[1]} × {said[0]}"
            )
        exchanged += turned
    if exchanged > MOST_OUTSIDE * read:
        raise ValueError(
            f"{dataset.annotation_file}: {exchanged} of {read} pictures looked at have width and height the other way round "
            f"than it says: {example}. Boxes cannot be right there: correct width and height in 'images', or give the right "
            "pictures"
        )
    if other_size:
        return [
            f"{other_size} of {read} pictures looked at have another size than the annotation file says, "
            f"and their boxes are scaled to it: {example}"
        ]
    return []


def header_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Height and width of a picture as its EXIF tag turns it, and as its file has them, from its header alone; None where
    it cannot be read, which is said when its pixels are."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return image_sizes(path)
    except OSError:
        return None
