"""The masks of a data set: kept as run lengths or PNG files, decoded when a sample needs them.

Memory stays bounded however many objects an image has: only a few masks are ever there at the image's full size, each
goes through the sample's transform, and what is kept is the small result, a byte a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..coco_masks import boxes_around_masks, segment_ids
from ..images.read import read_image
from .sharing import Shared

# Pixels of full-size masks decoded at once: small images go through the transform together, large ones one by one.
DECODED_AT_ONCE = 2**22


@dataclass
class InstanceMasks(Shared):
    """One mask for each of A annotations, in flat arrays that worker processes share."""

    sizes: np.ndarray  # (N, 2) int64, height and width of the images
    run_length_bytes: np.ndarray  # uint8: COCO's compressed run lengths, one annotation after another
    first: np.ndarray  # (A + 1,) int64: annotation a has the bytes first[a]:first[a + 1]

    def decode(
        self,
        image: int,
        annotations: Sequence[int],
        size: tuple[int, int] | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Masks of some annotations of one image. Peak memory: n · h · w bytes for the result, and at full size one mask
        (in an image of less than 4 megapixels as many as have 4 million pixels together) with what `change` makes of it.

        Args:
            image: index of the image.
            annotations: n indices of annotations, all of that image.
            size: (h, w) that `change` gives; None for the image's own.
            change: (k, H, W) -> (k, h, w), uint8; called with a few masks at a time.

        Returns:
            bool (n, h, w).
        """
        from hotcoco import mask as coco_mask

        height, width = self.sizes[image].tolist()
        masks = torch.zeros((len(annotations), *(size or (height, width))), dtype=torch.bool)
        few = max(1, DECODED_AT_ONCE // (height * width))
        for start in range(0, len(annotations), few):
            run_lengths = self.run_lengths(image, annotations[start : start + few])
            full = torch.from_numpy(coco_mask.decode(run_lengths)).permute(2, 0, 1)  # (k, H, W)
            masks[start : start + few] = full if change is None else change(full)
        return masks

    def run_lengths(self, image: int, annotations: Sequence[int]) -> list[dict[str, Any]]:
        """The same masks as {"size": [height, width], "counts": bytes}."""
        size = self.sizes[image].tolist()
        parts = [self.run_length_bytes[self.first[a] : self.first[a + 1]] for a in annotations]
        return [{"size": size, "counts": part.tobytes()} for part in parts]

    def subset(self, images: Sequence[int], annotations: np.ndarray, first: np.ndarray) -> InstanceMasks:
        """The masks of some images.

        Args:
            annotations: all of theirs, in their order.
            first: where those of each image begin among them (n + 1,).
        """
        parts = [self.run_length_bytes[self.first[a] : self.first[a + 1]] for a in annotations]
        return InstanceMasks(
            sizes=self.sizes[list(images)],
            run_length_bytes=np.concatenate(parts or [np.zeros(0, dtype=np.uint8)]),
            first=np.concatenate(([0], np.cumsum([len(part) for part in parts], dtype=np.int64))),
        )

    @property
    def content(self) -> np.ndarray:
        """What a fingerprint is made of."""
        return self.run_length_bytes


@dataclass
class PanopticMasks(Shared):
    """The segments of each image, in one PNG file an image."""

    sizes: np.ndarray  # (N, 2) int64, height and width of the images
    folder: Path
    file_names: Sequence[str]  # N
    first: np.ndarray  # (N + 1,) int64: segments of image i are first[i]:first[i + 1]
    segment_ids: np.ndarray  # (A,) int64, as the JSON and the PNG's colours have them; unique in an image only

    def segment_map(self, image: int) -> Tensor:
        """(H, W), uint8 where that suffices, else int32: 0 = no segment, k + 1 = the image's k-th segment.

        Raises:
            OSError, ValueError: see `read_segment_map`.
        """
        own = self.segment_ids[self.first[image] : self.first[image + 1]]
        height, width = self.sizes[image].tolist()
        return read_segment_map(self.folder / self.file_names[image], own, height, width)

    def decode(
        self,
        image: int,
        annotations: Sequence[int],
        size: tuple[int, int] | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """As `InstanceMasks.decode`. Peak memory: n · h · w bytes for the result, and the decoded PNG (3 bytes a pixel)
        and one map of the image with what `change` makes of it: `change` sees all segments as one (1, H, W).

        Raises:
            OSError, ValueError: see `read_segment_map`.
        """
        segments = self.segment_map(image)
        if change is not None:
            segments = change(segments[None])[0]
        numbers = torch.as_tensor(np.asarray(annotations, dtype=np.int64) - self.first[image] + 1)
        return segments == numbers.to(segments.dtype)[:, None, None]

    def run_lengths(self, image: int, annotations: Sequence[int]) -> list[dict[str, Any]]:
        """The same masks as {"size": [height, width], "counts": bytes}."""
        from hotcoco import mask as coco_mask

        segments = np.asfortranarray(self.segment_map(image).numpy())
        return [coco_mask.encode(segments == a - self.first[image] + 1) for a in annotations]

    def subset(self, images: Sequence[int], annotations: np.ndarray, first: np.ndarray) -> PanopticMasks:
        """The segments of some images; see `InstanceMasks.subset`."""
        return PanopticMasks(
            sizes=self.sizes[list(images)],
            folder=self.folder,
            file_names=[self.file_names[i] for i in images],
            first=first,
            segment_ids=self.segment_ids[annotations],
        )

    @property
    def content(self) -> np.ndarray:
        """What a fingerprint is made of."""
        return self.segment_ids


def read_segment_map(path: Path, ids: Sequence[int] | np.ndarray, height: int, width: int) -> Tensor:
    """A panoptic PNG as a map of the segments that the JSON lists.

    Args:
        path: colours are ids, R + 256 G + 65536 B; 0 is no segment.
        ids: n segment ids.
        height, width: the image's size.

    Returns:
        (height, width), uint8 where that suffices, else int32: 0 = no segment, k + 1 = the segment ids[k].

    Raises:
        OSError: the file is not there or not readable.
        ValueError: another size, a colour that is no listed segment, or a segment without a pixel; one line that names
            file and id.
    """
    colours = read_image(path, exif=False)
    if tuple(colours.shape[-2:]) != (height, width):
        raise ValueError(
            f"{path}: {colours.shape[-2]} x {colours.shape[-1]} pixels, but its image has {height} x {width}"
        )
    count = len(ids)
    unknown = count + 1
    number = np.full(2**24, unknown, dtype=np.uint8 if unknown < 256 else np.int32)  # of every colour
    number[0] = 0
    number[np.asarray(ids, dtype=np.int64)] = np.arange(1, count + 1)
    segments = np.empty((height, width), dtype=number.dtype)
    pixels = np.zeros(count + 2, dtype=np.int64)
    for top in range(0, height, 64):  # the 64-bit ids of a few rows at a time
        rows = segments[top : top + 64]
        rows[:] = number[segment_ids(colours[:, top : top + 64]).numpy()]
        pixels += np.bincount(rows.ravel(), minlength=count + 2)
    if pixels[unknown]:
        row, column = np.argwhere(segments == unknown)[0].tolist()
        found = int(segment_ids(colours[:, row : row + 1, column : column + 1]))
        raise ValueError(
            f"{path}: has pixels of segment {found} (the first at x {column}, y {row}), which the JSON lacks or gives a box without area"
        )
    if not pixels[1 : count + 1].all():
        empty = int(np.flatnonzero(pixels[1 : count + 1] == 0)[0])
        raise ValueError(f"{path}: has no pixel of segment {ids[empty]}, which the JSON lists")
    return torch.from_numpy(segments)


def segment_boxes(segments: Tensor, count: int) -> list[list[float]]:
    """Boxes [x, y, width, height] in pixels around the `count` segments of a map, none of them empty."""
    corners = [boxes_around_masks((segments == k + 1)[None])[0].tolist() for k in range(count)]
    return [[x0, y0, x1 + 1 - x0, y1 + 1 - y0] for x0, y0, x1, y1 in corners]


def as_json(mask: dict[str, Any]) -> dict[str, Any]:
    """Compressed run lengths as JSON can hold them."""
    return {**mask, "counts": mask["counts"].decode()}
