"""Masks as COCO writes them: polygons, run lengths, and the colours of panoptic PNG files."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def mask_from_segmentation(segmentation: Any, height: int, width: int) -> Tensor:
    """One object's COCO segmentation as a mask: bool (height, width), the pixels that pycocotools gives.

    Arguments and errors are those of `encode_segmentation`.
    """
    from hotcoco import mask as coco_mask  # imported here, since masks alone need it

    return torch.from_numpy(coco_mask.decode(encode_segmentation(segmentation, height, width))).bool().contiguous()


def masks_from_segmentations(segmentations: Sequence[Any], height: int, width: int) -> Tensor:
    """COCO segmentations as masks, bool (n, height, width); see `mask_from_segmentation`."""
    if not segmentations:
        return torch.zeros((0, height, width), dtype=torch.bool)
    return torch.stack([mask_from_segmentation(segmentation, height, width) for segmentation in segmentations])


def encode_segmentation(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """One object's COCO segmentation as compressed run lengths.

    Args:
        segmentation: polygons, [[x0, y0, x1, y1, ...], ...] in pixels, of which the union is taken; or run lengths,
            {"size": [height, width], "counts": list, str or bytes}. An empty list is an empty mask.
        height, width: the image's size.

    Returns:
        {"size": [height, width], "counts": bytes}, as pycocotools has them.

    Raises:
        ValueError: neither, numbers that make no polygon, or run lengths of another size; one line.
    """
    from hotcoco import mask as coco_mask

    if isinstance(segmentation, Mapping):
        counts = segmentation.get("counts")
        size = segmentation.get("size")
        if "counts" not in segmentation or not isinstance(size, Sequence) or list(size) != [height, width]:
            raise ValueError(
                f"a run-length segmentation needs 'counts' and the size {[height, width]} of its image, "
                f"got the size {reprlib.repr(size)}"
            )
        try:
            if isinstance(counts, list) and sum(counts) != height * width:
                raise ValueError(
                    f"its counts add up to {reprlib.repr(sum(counts))}, not to {height} x {width} = {height * width}"
                )
            return coco_mask.frPyObjects(dict(segmentation), height, width)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"a run-length segmentation cannot be read: {error}") from None
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, (str, bytes)):
        raise ValueError(f"a segmentation must be a list of polygons or run lengths, got {type(segmentation).__name__}")
    if not segmentation:
        return coco_mask.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
    # Four numbers would be read as a box, not as a line; a polygon has at least three points.
    if any(not isinstance(polygon, Sequence) or len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
        raise ValueError("a segmentation's polygons must be lists of at least 3 points, [x0, y0, x1, y1, x2, y2, ...]")
    try:
        polygons = [[float(value) for value in polygon] for polygon in segmentation]
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a segmentation's polygons must be lists of numbers") from None
    if not all(math.isfinite(sum(polygon)) for polygon in polygons):
        raise ValueError("a segmentation's polygons must be finite numbers")
    outlines = coco_mask.frPyObjects(polygons, height, width)
    return outlines[0] if len(outlines) == 1 else coco_mask.merge(outlines)


def segment_ids(colors: Tensor) -> Tensor:
    """Colours of a panoptic PNG, uint8 (3, H, W), as segment ids R + 256 G + 65536 B, int64 (H, W)."""
    red, green, blue = colors.to(torch.int64)
    return red + 256 * green + 65536 * blue


def boxes_around_masks(masks: Tensor) -> Tensor:
    """bool (n, H, W), none of them empty -> float32 (n, 4): the first and last column and row, (x0, y0, x1, y1)."""
    if not len(masks):
        return torch.zeros((0, 4))
    columns, rows = masks.any(1).to(torch.uint8), masks.any(2).to(torch.uint8)  # (n, W), (n, H)
    first = [columns.argmax(1), rows.argmax(1)]  # argmax gives the first of equal values
    last = [line.shape[1] - 1 - line.flip(1).argmax(1) for line in (columns, rows)]
    return torch.stack(first + last, dim=1).float()
