"""Pictures for people: boxes, masks, labels and scores over an image, and two such pictures beside each other.

A class has the same colour in every picture. The more a picture is crowded, the thinner its lines and the smaller and
more transparent its labels become; labels that would still cover others are left out, the best scores last.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..results.named import Detection

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="OpenCV")  # supervision draws well without it
    import supervision as sv

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_ENLARGED = 4096  # pixels
READABLE_SIDE = 256  # pixels: pictures whose short side is less are enlarged, or labels would hide what they name
LONGEST_DRAWN = 4096  # pixels: larger pictures are made smaller, since copies of them would fill memory
PLAIN_TEXT_SIDE = 640  # pixels of short side at which labels have their plain size
PLAIN_TEXT, SMALLEST_TEXT = 0.5, 0.33  # OpenCV's measure: 1 is a line of 22 pixels
PLATES = 0.06  # share of a picture that labels may cover; where they would cover more they shrink
MOST_COVERED = 0.25  # share of a picture that labels cover at most
SHARED = 0.1  # share of a label that others may cover
MASK_OPACITY = 0.45
TILE = 400  # pixels of a contact sheet's tile, its longest side
CAPTION = 22  # pixels of height, of pictures of `PLAIN_TEXT_SIDE`


def draw_detections(
    image: np.ndarray | Tensor,
    detections: Sequence[Detection],
    *,
    size: tuple[int, int] | None = None,
    labels: bool = True,
    scores: bool = True,
    line_width: int | None = None,
) -> Image.Image:
    """Draw masks, boxes, labels and scores on an image.

    Small images are enlarged by a whole factor, so that labels can be read.

    Args:
        image: (3, H, W) uint8.
        detections: best first.
        size: height and width of the image that boxes and masks are of, where `image` is that image made smaller.
        labels: write the classes' names; else boxes and masks alone.
        scores: write the scores behind the names.
        line_width: of boxes in pixels of the picture; None chooses by the picture's size and how crowded it is.
    """
    height, width = size or (image.shape[-2], image.shape[-1])
    canvas = Image.fromarray(np.ascontiguousarray(np.moveaxis(np.asarray(image), 0, -1)))
    factor = enlargement(canvas.size)
    if factor > 1:
        canvas = canvas.resize((canvas.width * factor, canvas.height * factor), Image.Resampling.BICUBIC)
    if not detections:
        return canvas
    stretch = np.array([canvas.width / width, canvas.height / height] * 2, dtype=np.float32)
    shown = sv.Detections(
        xyxy=np.array([d.box for d in detections], dtype=np.float32) * stretch,
        confidence=np.array([d.score for d in detections], dtype=np.float32),
        class_id=np.array([d.class_id for d in detections]),
    )
    canvas = _with_masks(canvas, detections)
    canvas = sv.BoxAnnotator(thickness=line_width or _line_width(canvas, shown.xyxy)).annotate(canvas, shown)
    if not labels:
        return canvas
    return _with_labels(canvas, shown, [f"{d.label} {d.score:.2f}" if scores else d.label for d in detections])


def draw_comparison(
    image: np.ndarray | Tensor,
    detections: Sequence[Detection],
    truth: Sequence[Detection],
    *,
    size: tuple[int, int] | None = None,
    labels: bool = True,
    line_width: int | None = None,
) -> Image.Image:
    """An image with its annotated objects on the left and what was found in it on the right.

    Args:
        image: (3, H, W) uint8.
        detections, truth, size, labels, line_width: see `draw_detections`; scores of the truth do not matter.
    """
    left = draw_detections(image, truth, size=size, labels=labels, scores=False, line_width=line_width)
    right = draw_detections(image, detections, size=size, labels=labels, line_width=line_width)
    scale = max(0.7, min(left.size) / PLAIN_TEXT_SIDE)
    strip, gap = round(CAPTION * scale), max(2, round(4 * scale))
    sheet = Image.new("RGB", (2 * left.width + gap, left.height + strip), "white")
    for picture, x, words in ((left, 0, "truth"), (right, left.width + gap, "predicted")):
        place = sv.Detections(xyxy=np.array([[x, 0, x, 0]], np.float32), class_id=np.array([0]))
        caption = sv.LabelAnnotator(
            color=sv.Color.WHITE, text_color=sv.Color.BLACK, text_scale=PLAIN_TEXT * scale, text_padding=round(4 * scale),
            text_position=sv.Position.BOTTOM_LEFT,
        )  # fmt: skip
        sheet = caption.annotate(sheet, place, labels=[words])
        sheet.paste(picture, (x, strip))
    return sheet


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 4, side: int = TILE) -> Image.Image:
    """Pictures beside and below each other, each within `side` pixels; a row is as high as its highest."""
    small = []
    for picture in pictures:
        picture = picture.copy()
        picture.thumbnail((side, side))
        small.append(picture)
    rows = [small[i : i + columns] for i in range(0, len(small), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    widths = [max(row[i].width for row in rows if i < len(row)) for i in range(min(columns, len(small)))]
    gap = 4
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) - 1), sum(heights) + gap * (len(heights) - 1)), "white")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            sheet.paste(picture, (sum(widths[:c]) + gap * c, sum(heights[:r]) + gap * r))
    return sheet


def enlargement(size: tuple[int, int]) -> int:
    """The whole factor that makes a small picture readable, without making a narrow one huge."""
    return max(1, min(-(-READABLE_SIDE // min(size)), LONGEST_ENLARGED // max(size)))


def drawn_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which an image is drawn: its own, unless it is longer than `LONGEST_DRAWN`."""
    factor = min(1.0, LONGEST_DRAWN / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _with_masks(canvas: Image.Image, detections: Sequence[Detection]) -> Image.Image:
    """Lay the masks over a picture, large ones below small ones. One after another: together they take n · h · w bytes."""
    masks = [(i, d) for i, d in enumerate(detections) if d.run_lengths is not None]
    if not masks:
        return canvas
    areas = {i: (d.box[2] - d.box[0]) * (d.box[3] - d.box[1]) for i, d in masks}
    painted = canvas.copy()
    for _, detection in sorted(masks, key=lambda pair: -areas[pair[0]]):
        mask = Image.fromarray(np.asarray(detection.mask)).resize(canvas.size, Image.Resampling.NEAREST)
        painted.paste(sv.ColorPalette.DEFAULT.by_idx(detection.class_id).as_rgb(), mask=mask)
    return Image.blend(canvas, painted, MASK_OPACITY)


def _line_width(canvas: Image.Image, boxes: np.ndarray) -> int:
    """By the picture's size, but no more than a thirtieth of the usual box's short side."""
    plain = max(2, round(2 * min(canvas.size) / PLAIN_TEXT_SIDE))
    sides = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return max(1, min(plain, round(float(np.median(sides)) / 30)))


def _with_labels(canvas: Image.Image, shown: sv.Detections, texts: list[str]) -> Image.Image:
    scale = min(canvas.size) / PLAIN_TEXT_SIDE
    plain = max(0.7 * PLAIN_TEXT, PLAIN_TEXT * scale)
    covered = sum(width * height for width, height in (_plate(text, plain) for text in texts))
    crowding = covered / (canvas.width * canvas.height) / PLATES
    smallest = min(plain, max(SMALLEST_TEXT, plain / 2))
    text_scale = max(smallest, plain / max(1.0, crowding) ** 0.5)
    chosen, places = _places(canvas, shown.xyxy, [_plate(text, text_scale) for text in texts])
    corners = np.array([[x, y, x, y] for x, y in places], np.float32)
    labels = sv.LabelAnnotator(
        text_scale=text_scale, text_thickness=max(1, round(1.6 * text_scale)), text_padding=_padding(text_scale),
        text_position=sv.Position.BOTTOM_LEFT,
    )  # fmt: skip
    plates = sv.Detections(xyxy=corners, class_id=np.asarray(shown.class_id)[chosen])
    written = labels.annotate(canvas.copy(), plates, labels=[texts[i] for i in chosen])
    return Image.blend(canvas, written, float(np.clip(1.05 - 0.05 * crowding, 0.7, 1)))


def _padding(text_scale: float) -> int:
    return max(1, round(7 * text_scale - 1))


def _plate(text: str, text_scale: float) -> tuple[int, int]:
    """Width and height of a label, about."""
    return round(18.5 * text_scale * len(text)) + 2 * _padding(text_scale), round(22 * text_scale) + 2 * _padding(
        text_scale
    )


def _places(
    canvas: Image.Image, boxes: np.ndarray, plates: list[tuple[int, int]]
) -> tuple[list[int], list[tuple[float, float]]]:
    """Which labels are written, and their top left corners: above their box, or in it, below it, and where others leave
    room; the best score first."""
    room = MOST_COVERED * canvas.width * canvas.height
    chosen: list[int] = []
    taken = np.zeros((0, 4), np.float32)
    for i, ((x0, y0, _, y1), (width, height)) in enumerate(zip(boxes.tolist(), plates, strict=True)):
        if (room := room - width * height) < 0 and chosen:
            break
        x = min(max(0.0, x0), max(0.0, canvas.width - width))
        for y in (y0 - height, y0, y1, y1 - height):
            if not 0 <= y <= max(0.0, canvas.height - height) and (i or y != y0):
                continue
            y = min(max(0.0, y), max(0.0, canvas.height - height))
            plate = np.array([x, y, x + width, y + height], np.float32)
            low, high = np.maximum(taken[:, :2], plate[:2]), np.minimum(taken[:, 2:], plate[2:])
            if (np.clip(high - low, 0, None).prod(1) <= SHARED * width * height).all():
                chosen.append(i)
                taken = np.concatenate([taken, plate[None]])
                break
    return chosen, [(float(x), float(y)) for x, y in taken[:, :2]]
