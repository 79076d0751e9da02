"""Panoptic maps as pictures for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ..results.panoptic_files import as_array
from .draw import PLAIN_TEXT_SIDE, enlargement, sv

if TYPE_CHECKING:
    from torch import Tensor

OPACITY = 0.55  # of the colours laid over a picture
SHADES = (0.0, 0.35, -0.35, 0.55, -0.55)  # of a class's segments in turn: towards white, or (below 0) black


def draw_panoptic(
    image: np.ndarray | Tensor,
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
    numbers, index = np.unique(as_array(segmentation), return_inverse=True)
    index = index.reshape(segmentation.shape)  # (H, W), which of the numbers
    classes = {s["id"]: s["label_id"] for s in segments if s["id"] in numbers}
    colours = _colours(classes, sv.ColorPalette.DEFAULT)

    canvas = Image.fromarray(np.ascontiguousarray(np.moveaxis(np.asarray(image), 0, -1)))
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
