"""A detection's attention as a picture, laid out as figure 1 of Conditional DETR's paper."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..predict.attention import PARTS, Explanation

TILE = 192  # pixels of a tile's longer side
GAP = 4
LABELS = 84  # pixels of width for the rows' names
LINE = 22  # pixels of height of a line of text
BOX, POINT = (60, 220, 60), (60, 200, 255)
# From no attention to the most of a tile: black, violet, red, yellow, white.
COLOURS = np.array([[0, 0, 0], [90, 20, 130], [220, 50, 50], [255, 200, 40], [255, 255, 230]], np.float64)


def draw_explanation(image: Tensor, explanation: Explanation) -> Image.Image:
    """Draw what each head attended to: rows of the combined, spatial and content attention, a column a head.

    Each tile is coloured from its own least to its own greatest weight. The box is drawn in green, the reference point, in
    families that have one, as a blue cross.

    Args:
        image: (3, H, W) uint8 of the image, of any size.
    """
    height, width = tile_size(image.shape[-2], image.shape[-1])
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).resize((width, height))
    heads = len(explanation.content_scores)
    sheet = Image.new("RGB", (LABELS + heads * (width + GAP), 2 * LINE + len(PARTS) * (height + GAP)), (255, 255, 255))
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    detection = explanation.detection
    title = f"{detection.label} {detection.score:.2f}, query {explanation.query}, decoder layer {explanation.layer}"
    write.text((GAP, 3), title, fill="black", font=font)
    for head in range(heads):
        write.text((LABELS + head * (width + GAP), LINE + 3), f"head {head}", fill="black", font=font)
    for row, part in enumerate(PARTS):
        top = 2 * LINE + row * (height + GAP)
        write.text((GAP, top + height // 2 - 8), part, fill="black", font=font)
        for head, weights in enumerate(explanation.attention(part)):
            tile = _marked(_overlaid(picture, weights), explanation)
            sheet.paste(tile, (LABELS + head * (width + GAP), top))
    return sheet


def tile_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the tiles of an image of this size."""
    scale = TILE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _overlaid(picture: Image.Image, weights: np.ndarray) -> Image.Image:
    """A picture in grey under an attention (R, C) in colours, which cover it more where it is greater."""
    least, most = float(weights.min()), float(weights.max())
    share = (weights - least) / max(most - least, 1e-12)
    smooth = np.asarray(Image.fromarray(share.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR))
    place = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(smooth, place, COLOURS[:, c]) for c in range(3)], axis=-1)
    grey = np.asarray(picture.convert("L"), np.float64)[..., None] * 0.7
    opacity = np.clip(smooth[..., None] * 1.2, 0, 0.85)
    return Image.fromarray((grey * (1 - opacity) + colours * opacity).round().astype(np.uint8))


def _marked(tile: Image.Image, explanation: Explanation) -> Image.Image:
    height, width = explanation.size
    stretch = tile.width / width, tile.height / height
    x0, y0, x1, y1 = (value * stretch[i % 2] for i, value in enumerate(explanation.detection.box))
    draw = ImageDraw.Draw(tile)
    draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=BOX, width=2)
    if explanation.reference_point is not None:
        x, y = (value * stretch[i] for i, value in enumerate(explanation.reference_point))
        draw.line((x - 5, y, x + 5, y), fill=POINT, width=2)
        draw.line((x, y - 5, x, y + 5), fill=POINT, width=2)
    return tile
