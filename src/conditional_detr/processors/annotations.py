"""COCO annotations -> labels: what the loss compares predictions with.

Labels are a dict of tensors with transformers' keys: `class_labels` (n,) int64, `boxes` (n, 4) float32, `masks`
(n, H, W) bool where asked for, `image_id` (1,) int64, `area` (n,) float32 in pixels, `iscrowd` (n,) int64, all 0,
`orig_size` (2,) and `size` (2,) int64, (height, width) as read and as resized. Crowds are left out of all of them alike
(docs/correctness.md, trap 6): transformers builds masks from crowds too, and fails. Objects whose box has no area inside
the image are left out as well.

Order of use: `detection_labels` or `panoptic_labels`, `resize_labels`, `relative_labels`, `pad_labels`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..boxes import relative_boxes
from ..coco_masks import boxes_around_masks, masks_from_segmentations, segment_ids
from ..images.pixels import resize
from ..images.read import read_image

Labels = dict[str, Tensor]


def read_labels(
    images: Sequence[Tensor],
    annotations: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
    format: str,
    return_masks: bool | None = None,
    masks_path: str | os.PathLike[str] | None = None,
) -> list[Labels] | None:
    """Of each image (C, H, W), its labels in pixels; None without annotations.

    Args:
        annotations: one, or one an image.
        format: "coco_detection" or "coco_panoptic".
        return_masks: labels have `masks`; None: only panoptic ones have.
        masks_path: the folder of the PNG files of panoptic annotations.

    Raises:
        OSError, ValueError: see `detection_labels` and `panoptic_labels`; or not one annotation an image.
        TypeError: neither a dict nor a list.
    """
    if annotations is None:
        return None
    if not isinstance(annotations, Mapping | Sequence):
        raise TypeError(f"annotations must be one dict, or one an image, got {type(annotations).__name__}")
    listed = [annotations] if isinstance(annotations, Mapping) else list(annotations)
    if len(listed) != len(images):
        raise ValueError(f"{len(listed)} annotations for {len(images)} images")
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    if format == "coco_panoptic":
        with_masks = True if return_masks is None else return_masks
        return [panoptic_labels(item, *size, masks_path, with_masks) for item, size in zip(listed, sizes, strict=True)]
    return [detection_labels(item, *size, bool(return_masks)) for item, size in zip(listed, sizes, strict=True)]


def detection_labels(annotation: Mapping[str, Any], height: int, width: int, return_masks: bool = False) -> Labels:
    """Labels of one image from its COCO detection annotation.

    Args:
        annotation: {"image_id": int, "annotations": [{"category_id", "bbox": (x, y, w, h) in pixels, "area"?, "iscrowd"?,
            "segmentation" if `return_masks`}, ...]}. Without an area, that of the box is taken.
        height, width: the image's size in pixels.
        return_masks: `masks` as well.

    Returns:
        labels, `boxes` (x0, y0, x1, y1) in pixels, clipped to the image.

    Raises:
        ValueError: not of that form; one line that names what is missing.
    """
    check_annotation(annotation, "coco_detection")
    image_id = annotation["image_id"]
    objects = [item for item in annotation["annotations"] if not item.get("iscrowd", 0)]
    for item in objects:
        _require(item, ("category_id", "bbox", "segmentation") if return_masks else ("category_id", "bbox"), image_id)

    boxes = _float_tensor([item["bbox"] for item in objects], (len(objects), 4), "bbox", image_id)
    areas = [item["area"] if item.get("area") is not None else item["bbox"][2] * item["bbox"][3] for item in objects]
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])

    labels = _labels(
        image_id,
        class_labels=_int_tensor([item["category_id"] for item in objects], "category_id", image_id)[kept],
        boxes=boxes[kept],
        area=_float_tensor(areas, (len(objects),), "area", image_id)[kept],
        size=(height, width),
    )
    if return_masks:
        segmentations = [item["segmentation"] for item, keep in zip(objects, kept.tolist(), strict=True) if keep]
        labels["masks"] = masks_from_segmentations(segmentations, height, width)
    return labels


def panoptic_labels(
    annotation: Mapping[str, Any],
    height: int,
    width: int,
    masks_path: str | os.PathLike[str] | None,
    return_masks: bool = True,
) -> Labels:
    """Labels of one image from its COCO panoptic annotation and the PNG file that colours its segments.

    A box spans the first to the last pixel of its segment, both as coordinates, as in the original DETR; segments of
    which the PNG has no pixel are left out. A PNG of another size but the image's proportions, as of an image that was made
    smaller, is resized by the nearest pixel, and its areas with it; transformers resizes masks alone, and leaves boxes
    where they are in the PNG.

    Args:
        annotation: {"image_id" (or "id"): int, "file_name": str, "segments_info": [{"id", "category_id", "area"?,
            "iscrowd"?}, ...]}. Without an area, the number of pixels is taken.
        height, width: the image's size in pixels.
        masks_path: the folder that has `file_name`.
        return_masks: `masks` as well.

    Returns:
        labels, `boxes` (x0, y0, x1, y1) in pixels.

    Raises:
        OSError: the PNG file is not there or not readable.
        ValueError: not of that form, or a PNG of other proportions; one line that names what is missing.
    """
    check_annotation(annotation, "coco_panoptic")
    if masks_path is None:
        raise ValueError("panoptic annotations need masks_path, the folder that has their PNG files")
    image_id = annotation["image_id"] if "image_id" in annotation else annotation["id"]
    path = Path(masks_path) / annotation["file_name"]
    ids = segment_ids(read_image(path, exif=False))
    shrunk = height * width / ids.numel()
    if tuple(ids.shape) != (height, width):
        ids = _resized_ids(ids, height, width, path)

    segments = [item for item in annotation["segments_info"] if not item.get("iscrowd", 0)]
    for item in segments:
        _require(item, ("id", "category_id"), image_id)
    masks = ids == _int_tensor([item["id"] for item in segments], "id", image_id)[:, None, None]  # (n, H, W)
    kept = masks.flatten(1).any(1)
    masks = masks[kept]
    pixels = masks.flatten(1).sum(1)
    segments = [item for item, keep in zip(segments, kept.tolist(), strict=True) if keep]
    areas = [item.get("area") for item in segments]

    labels = _labels(
        image_id,
        class_labels=_int_tensor([item["category_id"] for item in segments], "category_id", image_id),
        boxes=boxes_around_masks(masks),
        area=_float_tensor(
            [count if area is None else area * shrunk for area, count in zip(areas, pixels.tolist(), strict=True)],
            (len(areas),),
            "area",
            image_id,
        ),
        size=(height, width),
    )
    if return_masks:
        labels["masks"] = masks
    return labels


def resize_labels(labels: Labels, height: int, width: int) -> Labels:
    """The labels of the image resized to `height` x `width`; boxes in pixels, masks by the nearest pixel."""
    old_height, old_width = labels["size"].tolist()
    ratio_height, ratio_width = height / old_height, width / old_width
    resized = dict(labels)
    resized["boxes"] = labels["boxes"] * torch.tensor([ratio_width, ratio_height, ratio_width, ratio_height])
    resized["area"] = labels["area"] * (ratio_width * ratio_height)
    resized["size"] = torch.tensor([height, width])
    if "masks" in labels:
        masks = labels["masks"].to(torch.uint8)
        if len(masks):
            resized["masks"] = resize(masks, (height, width), Image.Resampling.NEAREST).bool()
        else:
            resized["masks"] = torch.zeros((0, height, width), dtype=torch.bool)
    return resized


def relative_labels(labels: Labels) -> Labels:
    """The labels with boxes (cx, cy, w, h) relative to their image, 0..1, from (x0, y0, x1, y1) in pixels."""
    height, width = labels["size"].tolist()
    return {**labels, "boxes": relative_boxes(labels["boxes"], height, width)}


def pad_labels(labels: Labels, height: int, width: int) -> Labels:
    """The labels of the image padded below and to the right to `height` x `width`.

    Masks get the canvas's size. Boxes and `size` stay those of the image without its padding, which is what predictions
    are relative to (docs/correctness.md, trap 7); transformers makes them relative to the canvas.
    """
    if "masks" not in labels:
        return labels
    masks = labels["masks"]
    padding = (0, width - masks.shape[-1], 0, height - masks.shape[-2])
    return {**labels, "masks": torch.nn.functional.pad(masks, padding)}


def check_annotation(annotation: Any, format: str) -> None:
    """Raises ValueError, one line that names what is missing, unless `annotation` is one image's COCO annotation.

    Args:
        annotation: anything.
        format: "coco_detection" or "coco_panoptic".
    """
    items = "annotations" if format == "coco_detection" else "segments_info"
    needed = ("image_id", items) if format == "coco_detection" else ("image_id", "file_name", items)
    if not isinstance(annotation, Mapping):
        raise ValueError(f"a {format} annotation must be a dict with {_names(needed)}, got {type(annotation).__name__}")
    has_id = "image_id" in annotation or (format == "coco_panoptic" and "id" in annotation)
    missing = [name for name in needed if name not in annotation and not (name == "image_id" and has_id)]
    if missing:
        raise ValueError(f"a {format} annotation needs {_names(needed)}; missing: {_names(missing)}")
    if not isinstance(annotation[items], (list, tuple)) or not all(isinstance(x, Mapping) for x in annotation[items]):
        raise ValueError(f"'{items}' of a {format} annotation must be a list of dicts")


def _resized_ids(ids: Tensor, height: int, width: int, path: Path) -> Tensor:
    """Segment ids (H, W) of an image of other size, (height, width), by the nearest pixel.

    Raises:
        ValueError: the proportions differ by more than rounding, so that the PNG is of another image, or turned.
    """
    rows, columns = ids.shape
    if min(abs(rows * width / columns - height), abs(columns * height / rows - width)) > 1:
        raise ValueError(
            f"{path}: {rows} x {columns} pixels, but its image has {height} x {width}, of other proportions: "
            "is it the PNG of this image, and not turned?"
        )
    row = (torch.arange(height) * 2 + 1) * rows // (2 * height)
    column = (torch.arange(width) * 2 + 1) * columns // (2 * width)
    return ids[row[:, None], column]


def _labels(image_id: Any, *, class_labels: Tensor, boxes: Tensor, area: Tensor, size: tuple[int, int]) -> Labels:
    return {
        "image_id": _int_tensor([image_id], "image_id", image_id),
        "class_labels": class_labels,
        "boxes": boxes,
        "area": area,
        "iscrowd": torch.zeros_like(class_labels),
        "orig_size": torch.tensor(size),
        "size": torch.tensor(size),
    }


def _require(item: Mapping[str, Any], names: Sequence[str], image_id: Any) -> None:
    missing = [name for name in names if name not in item]
    if missing:
        raise ValueError(f"an object of image {image_id} lacks {_names(missing)}")


def _int_tensor(values: list[Any], name: str, image_id: Any) -> Tensor:
    try:
        return torch.tensor([int(value) for value in values], dtype=torch.int64)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last: more than 64 bits
        raise ValueError(f"{name} of image {image_id} must be integers, got {values}") from None


def _float_tensor(values: list[Any], shape: tuple[int, ...], name: str, image_id: Any) -> Tensor:
    try:
        return torch.tensor(values, dtype=torch.float32).reshape(shape)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        form = "4 numbers (x, y, width, height)" if name == "bbox" else "numbers"
        raise ValueError(f"{name} of every object of image {image_id} must be {form}, got {values}") from None


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
