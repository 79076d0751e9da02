"""Masks as COCO writes them: polygons, run lengths, and the colours of panoptic PNG files."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
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


def placed_mask(run_lengths: Mapping[str, Any], place: Sequence[int], size: tuple[int, int]) -> dict[str, Any]:
    """A mask of a part of an image as one of the image, in memory that does not grow with the image.

    Args:
        run_lengths: of the part, {"size": [height, width], "counts": str or bytes}; where the part has another size in the image,
            pixels are repeated or left out.
        place: (left, top, right, bottom) of the part in the image.
        size: height and width of the image.

    Returns:
        {"size": [height, width], "counts": str}
    """
    from hotcoco import mask as coco_mask

    left, top, right, bottom = place
    mask = coco_mask.decode(dict(run_lengths)).astype(bool).T  # (columns, rows), the order of run lengths
    rows = _edges(mask.shape[1], bottom - top)
    columns = np.repeat(np.arange(mask.shape[0]), np.diff(_edges(mask.shape[0], right - left)))
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    changes = np.diff(padded, axis=1)[columns]  # 1 where a run begins, -1 behind its end
    column, first = np.nonzero(changes == 1)
    last = np.nonzero(changes == -1)[1]
    runs = np.stack([(left + column) * size[0] + top + rows[end] for end in (first, last)], axis=1)
    runs = runs[runs[:, 0] < runs[:, 1]]  # a run of a part that is made smaller may vanish
    starts, ends = runs[:, 0], runs[:, 1]
    apart = np.append(True, starts[1:] > ends[:-1])[: len(starts)]  # where a run goes on in the next column it is one
    ends = ends[np.append(apart[1:], True)[: len(ends)]]
    bounds = np.concatenate([[0], np.stack([starts[apart], ends], axis=1).ravel(), [size[0] * size[1]]])
    counts = np.diff(bounds).tolist()
    counts = counts[:-1] if not counts[-1] else counts  # the image ends with a run
    return as_text(coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size))


def merged_masks(masks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The union of masks of one image. run lengths -> {"size": [height, width], "counts": str}"""
    from hotcoco import mask as coco_mask

    return masks[0] if len(masks) == 1 else as_text(coco_mask.merge(list(masks)))


def as_text(run_lengths: Mapping[str, Any]) -> dict[str, Any]:
    """Run lengths with counts that JSON can hold."""
    counts = run_lengths["counts"]
    return {"size": list(run_lengths["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _edges(count: int, length: int) -> np.ndarray:
    """Where `count` cells that fill `length` pixels begin and end."""
    return np.round(np.arange(count + 1) * (length / count)).astype(np.int64)
