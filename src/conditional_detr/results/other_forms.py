"""Detections of an image in the forms that other programs have: supervision's, COCO's, YOLO's, CSV and LabelMe's.

Boxes and masks are in pixels of the image as it is seen (EXIF applied), as `Detection` has them.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..outlines import outline, simple_outlines
from .named import Detection

if TYPE_CHECKING:
    import supervision

CSV_FIELDS = ("file", "width", "height", "label", "class_id", "score", "x0", "y0", "x1", "y1")


def to_supervision(detections: Sequence[Detection]) -> supervision.Detections:
    """supervision's `Detections`, for its annotators, trackers, zones and metrics; names of classes in
    `data["class_name"]`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that OpenCV is not there
        import supervision

    masks = [mask for detection in detections if (mask := detection.mask) is not None]
    return supervision.Detections(
        xyxy=np.array([d.box for d in detections], dtype=np.float32).reshape(-1, 4),
        mask=np.stack(masks) if masks else None,
        confidence=np.array([d.score for d in detections], dtype=np.float32),
        class_id=np.array([d.class_id for d in detections], dtype=int),
        data={"class_name": np.array([d.label for d in detections], dtype=str)},
    )


def to_coco(
    detections: Sequence[Detection], image_id: int | str, category_ids: Sequence[int] | Mapping[int, int]
) -> list[dict[str, Any]]:
    """COCO's results, as pycocotools' `loadRes` takes them: `image_id`, `category_id`, `bbox` (x, y, width, height), `score`
    and, where there are masks, `segmentation` (run lengths).

    Args:
        category_ids: class -> the data set's category id.
    """
    results = []
    for detection in detections:
        x0, y0, x1, y1 = detection.box
        result = {
            "image_id": image_id,
            "category_id": category_ids[detection.class_id],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": detection.score,
        }
        results.append(result if detection.run_lengths is None else {**result, "segmentation": detection.run_lengths})
    return results


def to_yolo(detections: Sequence[Detection], width: int, height: int) -> str:
    """A YOLO label file: `class cx cy w h` a line, as fractions of the image, or `class x1 y1 x2 y2 …` around a mask, exactly.
    It has no scores, so that it can be trained on."""
    lines = []
    for detection in detections:
        mask = detection.mask
        if mask is not None and mask.any():
            points = outline(mask)
            values = [value / side for value, side in zip(points, [width, height] * (len(points) // 2), strict=True)]
        else:
            x0, y0, x1, y1 = detection.box
            values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
        lines.append(" ".join([str(detection.class_id), *(f"{value:.9g}" for value in values)]) + "\n")
    return "".join(lines)


def to_csv(detections: Sequence[Detection], file: str, width: int, height: int) -> str:
    """Lines of `CSV_FIELDS`, one a detection, without that of the names. No masks."""
    text = io.StringIO()
    rows = ((file, width, height, d.label, d.class_id, d.score, *d.box) for d in detections)
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def to_labelme(detections: Sequence[Detection], image_path: str, width: int, height: int) -> dict[str, Any]:
    """What a LabelMe file holds: rectangles, or polygons around masks, to be corrected by hand.

    A polygon stays within a pixel of its mask's sides, with as few corners as do; holes are filled. Parts of one object share
    a `group_id`. The score is in `score`, which LabelMe keeps.

    Args:
        image_path: where the image is, from the file's folder.
    """
    shapes: list[dict[str, Any]] = []
    for number, detection in enumerate(detections, start=1):
        mask = detection.mask
        x0, y0, x1, y1 = detection.box
        outlines = [[(x0, y0), (x1, y1)]] if mask is None or not mask.any() else simple_outlines(mask)
        shapes += [
            {
                "label": detection.label,
                "points": [list(point) for point in points],
                "group_id": number if len(outlines) > 1 else None,
                "description": "",
                "shape_type": "rectangle" if len(points) == 2 else "polygon",
                "flags": {},
                "mask": None,
                "score": detection.score,
            }
            for points in outlines
        ]
    return {
        "version": "5.5.0",  # of LabelMe, whose form this is
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
