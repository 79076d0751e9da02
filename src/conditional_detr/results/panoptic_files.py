"""Panoptic maps as files: COCO's PNG and JSON, and pictures for people.

COCO's format is a PNG an image, whose colours are the segments' ids (R + 256 G + 65536 B, 0 = void), and one JSON file,
`{"annotations": rows, "images": [...], "categories": [...]}`, with a row an image:
`{"image_id", "file_name", "segments_info": [{"id", "category_id", "area", "iscrowd"}, ...]}`. `transformers.annotations`
reads it.

Segmentations and segments here are those of post-processing: ids int (H, W), 0 or -1 = no segment, and dicts with `id`,
`label_id` (the class) and, optionally, `score`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from torch import Tensor

from ..files import write_atomically

LARGEST_ID = 256**3 - 1
OPACITY = 0.55  # of the colours laid over a picture
SHADES = (0.0, 0.35, -0.35, 0.55, -0.55)  # of a class's segments in turn: towards white, or (below 0) black


def panoptic_png_bytes(segmentation: Tensor | np.ndarray) -> bytes:
    """A segmentation (H, W) as the bytes of a PNG file; negative ids become void.

    Raises:
        ValueError: an id that three bytes do not hold.
    """
    ids = np.maximum(_as_array(segmentation), 0)
    if ids.size and ids.max() > LARGEST_ID:
        raise ValueError(f"segment id {ids.max()} does not fit into a panoptic PNG; the largest is {LARGEST_ID}")
    colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).save(file, format="PNG", compress_level=3)
    return file.getvalue()


def write_panoptic_png(path: Path, segmentation: Tensor | np.ndarray) -> None:
    """Write a segmentation (H, W) as a PNG file, whole or not at all; errors as of `panoptic_png_bytes`, and OSError."""
    content = panoptic_png_bytes(segmentation)
    write_atomically(path, lambda beside: beside.write_bytes(content))


def panoptic_row(
    image_id: int | str,
    file_name: str,
    segmentation: Tensor | np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    category_ids: Sequence[int] | Mapping[int, int],
) -> dict[str, Any]:
    """One image's row of a panoptic JSON file: the segments that have pixels, with their area and, if known, score.

    Args:
        image_id: the data set's.
        file_name: of the PNG.
        segmentation: int (H, W).
        segments: several of one id (fused ones) must be of one class; the first one's score is taken.
        category_ids: class -> the data set's category id.

    Raises:
        ValueError: a segment of two classes, or of one without a category, or pixels without a segment; the message
            names the file and the id.
    """
    pixels = _areas(segmentation)
    listed: dict[int, dict[str, Any]] = {}
    for segment in segments:
        number, label = segment["id"], segment["label_id"]
        if number not in pixels:
            continue
        try:
            category = category_ids[label]
        except LookupError:
            raise ValueError(f"{file_name}: segment {number} is of class {label}, which has no category id") from None
        score = {"score": segment["score"]} if "score" in segment else {}
        row = {"id": number, "category_id": category, "area": pixels[number], "iscrowd": 0, **score}
        if listed.setdefault(number, row)["category_id"] != category:
            raise ValueError(
                f"{file_name}: segment {number} is of category {listed[number]['category_id']} and of {category}"
            )
    if unlisted := pixels.keys() - listed.keys():
        raise ValueError(f"{file_name}: {pixels[min(unlisted)]} pixels have the id {min(unlisted)}, but no segment has")
    return {"image_id": image_id, "file_name": file_name, "segments_info": list(listed.values())}


def keep_classes(
    segmentation: Tensor | np.ndarray, segments: Sequence[Mapping[str, Any]], classes: Any
) -> tuple[np.ndarray, list[Mapping[str, Any]]]:
    """Turn the segments whose class is not in `classes` (a container) into void: those a data set does not know."""
    kept = [segment for segment in segments if segment["label_id"] in classes]
    ids = _as_array(segmentation)
    return np.where(np.isin(ids, [segment["id"] for segment in kept]), ids, 0), kept


def draw_panoptic(
    image: Tensor,
    segmentation: Tensor | np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    labels: Mapping[int, str] | Sequence[str],
) -> Image.Image:
    """Lay the segments over an image in their classes' colours, with borders and names; void stays as it is.

    A class has the colour that its boxes have, in every picture; its segments differ in shade. The image beneath is grey,
    or its own colours would mix with theirs. Small images are enlarged by a whole factor, so that names can be read.

    Args:
        image: (3, H, W) uint8.
        segmentation: int (H, W).
        segments: those without pixels are left out.
        labels: class -> name.
    """
    from ..predict.draw import PLAIN_TEXT_SIDE, enlargement, sv  # evaluation writes maps, but draws none

    numbers, index = np.unique(_as_array(segmentation), return_inverse=True)
    index = index.reshape(segmentation.shape)  # (H, W), which of the numbers
    classes = {s["id"]: s["label_id"] for s in segments if s["id"] in numbers}
    colours = _colours(classes, sv.ColorPalette.DEFAULT)

    canvas = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    factor = enlargement(canvas.size)
    canvas = canvas.resize((canvas.width * factor, canvas.height * factor), Image.Resampling.BICUBIC)
    scale = min(canvas.size) / PLAIN_TEXT_SIDE
    paint = np.array([colours.get(number, (0, 0, 0)) for number in numbers.tolist()], np.uint8)
    covered = np.array([number in colours for number in numbers.tolist()])
    large = index.repeat(factor, axis=0).repeat(factor, axis=1)
    border = _border(large, width=max(1, round(scale)))
    painted = Image.blend(canvas.convert("L").convert("RGB"), Image.fromarray(paint[large]), OPACITY)
    canvas.paste(painted, mask=Image.fromarray(np.uint8(255) * covered[large]))
    canvas.paste((255, 255, 255), mask=Image.fromarray(np.uint8(255 * border)))
    if not colours:
        return canvas

    boxes = ndimage.find_objects(index + 1)
    places = []
    for number in classes:
        which = int(np.searchsorted(numbers, number))
        rows, columns = boxes[which]
        # Far from the segment's border (the picture's too), and of such pixels the middle one.
        depth = ndimage.distance_transform_edt(np.pad(index[rows, columns] == which, 1))
        inner = np.argwhere(depth > 0.9 * depth.max()) - 0.5  # the pixels' centres, (y, x)
        y, x = inner[((inner - inner.mean(axis=0)) ** 2).sum(axis=1).argmin()]
        places.append(((columns.start + x) * factor, (rows.start + y) * factor))
    points = np.array(places, np.float32)
    shown = sv.Detections(xyxy=np.concatenate([points, points], axis=1), class_id=np.array(list(classes.values())))
    names = sv.LabelAnnotator(
        color=sv.ColorPalette([sv.Color(*colour) for colour in colours.values()]), color_lookup=sv.ColorLookup.INDEX,
        text_color=sv.ColorPalette([sv.Color.BLACK if _is_light(c) else sv.Color.WHITE for c in colours.values()]),
        text_scale=max(0.35, 0.5 * scale), text_thickness=max(1, round(scale)), text_padding=max(2, round(4 * scale)),
        text_position=sv.Position.CENTER, smart_position=True,
    )  # fmt: skip
    return names.annotate(canvas, shown, labels=[labels[label] for label in classes.values()])


def _colours(classes: Mapping[int, int], palette: Any) -> dict[int, tuple[int, ...]]:
    """RGB of each segment: segment id -> class, and the classes' colours."""
    seen: dict[int, int] = {}
    colours = {}
    for number, label in classes.items():
        shade = SHADES[seen.get(label, 0) % len(SHADES)]
        seen[label] = seen.get(label, 0) + 1
        towards = 255 if shade > 0 else 0
        colours[number] = tuple(round(v + abs(shade) * (towards - v)) for v in palette.by_idx(label).as_rgb())
    return colours


def _is_light(colour: tuple[int, ...]) -> bool:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue > 150


def _border(index: np.ndarray, width: int) -> np.ndarray:
    """bool (H, W), the pixels at most `width` from another segment's."""
    border = np.zeros(index.shape, bool)
    for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = index[here] != index[there]
        border[here] |= differs
        border[there] |= differs
    return border if width == 1 else ndimage.binary_dilation(border, iterations=width - 1)


def _as_array(segmentation: Tensor | np.ndarray) -> np.ndarray:
    """int64 (H, W)"""
    return np.asarray(segmentation.cpu() if isinstance(segmentation, Tensor) else segmentation).astype(np.int64)


def _areas(segmentation: Tensor | np.ndarray) -> dict[int, int]:
    """Segment id -> number of pixels, without void."""
    ids, counts = np.unique(_as_array(segmentation), return_counts=True)
    return {number: count for number, count in zip(ids.tolist(), counts.tolist(), strict=True) if number > 0}
