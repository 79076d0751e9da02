"""Scenes drawn by chance: a textured background of one to three bands of stuff with a few coloured shapes on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SMALLEST, LARGEST = 0.14, 0.55  # an object's diameter over the image's shorter side
MIN_DIAMETER = 8  # pixels
MIN_VISIBLE = 0.7  # the share of an object's pixels that neither another object nor the image's edge hides
MIN_CONTRAST = 120.0  # Euclidean RGB distance, of at most 441, between an object and what it is seen against
SUPERSAMPLING = 4

Array = NDArray[Any]


def draw_scene(
    rng: np.random.Generator, height: int, width: int, max_objects: int, shapes: Sequence[str]
) -> tuple[Array, Array, list[str]]:
    """Draw one scene.

    Returns:
        the image (H, W, 3) uint8, the segment of each pixel (H, W) int64, and the category name of each segment: stuff
        from the top down, then objects from the back to the front.
    """
    canvas, segments, names = _draw_background(rng, height, width)
    full_areas = [0] * len(names)  # of objects before occlusion; stuff may be hidden altogether
    for _ in range(rng.integers(1, max_objects + 1)):
        name = shapes[int(rng.integers(len(shapes)))]
        diameter = max(MIN_DIAMETER, min(height, width) * SMALLEST * (LARGEST / SMALLEST) ** rng.random())
        coverage, contour = _draw_shape(rng, name, diameter)
        mask = coverage >= 0.5
        corner = _find_place(rng, mask, segments, full_areas)
        if corner is None:
            continue
        here, there = _overlap(corner, mask.shape, (height, width))
        colour = _choose_colour(rng, canvas[there].reshape(-1, 3))
        if rng.random() < 0.5:
            _cast_shadow(canvas, coverage, corner, diameter)
        paint = _texture_object(rng, colour, mask.shape, diameter)
        if rng.random() < 0.4:
            paint += contour[..., None] * (0.45 * colour - paint)
        canvas[there] += coverage[here][..., None] * (paint[here] - canvas[there])
        segments[there][mask[here]] = len(names)
        names.append(name)
        full_areas.append(int(mask.sum()))
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8), segments, names


# Objects. A shape is its outline and then its holes, each a polygon (N, 2) of x, y with y down.


def _corners(count: int, radii: Sequence[float] = (1.0,), turn: float = 0.0) -> Array:
    """`count` vertices (N, 2) around the origin from straight up, shifted by `turn` turns; the radii take turns."""
    angles = 2 * np.pi * (np.arange(count) / count + turn - 0.25)
    lengths = np.resize(radii, count)
    return np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], axis=1)


def _heart() -> Array:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


_ARM = 0.34  # half the width of the cross's arms
_CROSS = [(1, _ARM), (_ARM, _ARM), (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM)]

SHAPES: dict[str, tuple[Array, ...]] = {
    "circle": (_corners(48),),
    "square": (_corners(4, turn=1 / 8),),
    "triangle": (_corners(3),),
    "star": (_corners(10, radii=(1.0, 0.45)),),
    "ring": (_corners(48), _corners(48, radii=(0.5,))),
    "cross": (np.array(_CROSS + [(-x, -y) for x, y in _CROSS]),),
    "heart": (_heart(),),
}


def _draw_shape(rng: np.random.Generator, name: str, diameter: float) -> tuple[Array, Array]:
    """The coverage of a shape, `diameter` pixels across, and that of its contour, each (h, w) float32 in 0..1."""
    outline = SHAPES[name][0]
    low, high = outline.min(axis=0), outline.max(axis=0)
    angle = math.radians(rng.uniform(-25, 25))
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    scale = diameter / (high - low).max()
    polygons = [(polygon - (low + high) / 2) @ rotation * scale for polygon in SHAPES[name]]
    shift = 1 + rng.random(2) - polygons[0].min(axis=0)
    width, height = np.ceil(polygons[0].max(axis=0) + shift + 1).astype(int).tolist()

    area = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    edge = area.copy()
    line_width = round(SUPERSAMPLING * max(1.6, diameter / 10))  # half of it falls outside the shape
    for polygon, fill in zip(polygons, (255, 0), strict=False):
        points = [tuple(point) for point in ((polygon + shift) * SUPERSAMPLING - 0.5).tolist()]
        ImageDraw.Draw(area).polygon(points, fill=fill)
        ImageDraw.Draw(edge).line([*points, *points[:2]], fill=255, width=line_width, joint="curve")
    coverage, contour = (np.asarray(image.reduce(SUPERSAMPLING), np.float32) / 255 for image in (area, edge))
    return coverage, contour


def _find_place(
    rng: np.random.Generator, mask: Array, segments: Array, full_areas: Sequence[int]
) -> tuple[int, int] | None:
    """A place, (top, left), for a new object's mask (h, w) in the scene (H, W); None if that seems too full."""
    areas = np.bincount(segments.ravel(), minlength=len(full_areas))
    needed = MIN_VISIBLE * np.array(full_areas)
    full_area = mask.sum()
    low = [-side // 10 for side in mask.shape]  # an object may leave the image a little
    high = [outer - side - lowest for outer, side, lowest in zip(segments.shape, mask.shape, low, strict=True)]
    for _ in range(12):
        top, left = rng.integers(low, high, endpoint=True).tolist()
        here, there = _overlap((top, left), mask.shape, segments.shape)
        hidden = np.bincount(segments[there][mask[here]], minlength=len(full_areas))
        inside_enough = hidden.sum() >= MIN_VISIBLE * full_area
        on_few_objects = hidden[needed > 0].sum() <= (1 - MIN_VISIBLE) * full_area
        if inside_enough and on_few_objects and (areas - hidden >= needed).all():
            return top, left
    return None


def _overlap(corner: tuple[int, int], inner: tuple[int, ...], outer: tuple[int, ...]) -> tuple[Any, Any]:
    """Where a patch of shape `inner`, its top left at `corner`, meets an image of shape `outer`: slices of both."""
    starts = [max(0, -at) for at in corner]
    stops = [min(side, limit - at) for at, side, limit in zip(corner, inner, outer, strict=False)]
    here = tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))
    there = tuple(slice(start + at, stop + at) for start, stop, at in zip(starts, stops, corner, strict=True))
    return here, there


def _choose_colour(rng: np.random.Generator, nearby: Array) -> Array:
    """A vivid RGB colour (3,) in 0..255 that differs from nearly all of the pixels (N, 3) beneath and around it."""
    best, best_share = np.zeros(3, np.float32), -1.0
    for _ in range(12):
        colour = _hsv(rng.random(), rng.uniform(0.6, 1.0), rng.uniform(0.7, 1.0))
        share = float((((nearby - colour) ** 2).sum(axis=1) >= MIN_CONTRAST**2).mean())
        if share > best_share:
            best, best_share = colour, share
        if share >= 0.95:
            break
    return best


def _cast_shadow(canvas: Array, coverage: Array, corner: tuple[int, int], diameter: float) -> None:
    """Darken the canvas (H, W, 3), in place, to the lower right of an object; light comes from the upper left."""
    reach = max(1, round(diameter / 14))
    padded = Image.fromarray((np.pad(coverage, reach) * 255).astype(np.uint8))
    shadow = np.asarray(padded.filter(ImageFilter.BoxBlur(reach)), np.float32) / 255
    here, there = _overlap(corner, shadow.shape, canvas.shape)  # the padding moves it by `reach` down and right
    canvas[there] *= 1 - 0.4 * shadow[here][..., None]


def _texture_object(rng: np.random.Generator, colour: Array, shape: tuple[int, ...], diameter: float) -> Array:
    """An object's paint (h, w, 3): plain, shaded, or, where there is room for it, striped or dotted."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    style = rng.integers(4 if diameter >= 16 else 2)
    turn = rng.uniform(0, math.pi)
    along = x * math.cos(turn) + y * math.sin(turn)
    across = y * math.cos(turn) - x * math.sin(turn)
    pitch = 2 * math.pi / max(5.0, diameter / 4)
    if style == 0:
        gain = np.ones_like(x)
    elif style == 1:
        gain = 1.25 - 0.75 * np.hypot(x / width - 0.3, y / height - 0.3)
    elif style == 2:
        gain = 0.85 + np.clip(2 * np.sin(pitch * along), -1, 1) * 0.2
    else:
        gain = 0.8 + np.clip(3 * (np.sin(pitch * along) * np.sin(pitch * across) - 0.3), 0, 1) * 0.5
    return np.minimum(gain[..., None] * colour, 255)


def _hsv(hue: float, saturation: float, value: float) -> Array:
    """RGB (3,) float32 in 0..255 of hue, saturation and value in 0..1."""
    distance = np.abs((hue * 6 + np.array([0, 4, 2], np.float32)) % 6 - 3) - 1
    return (255 * value * (1 - saturation * (1 - np.clip(distance, 0, 1)))).astype(np.float32)


# Backgrounds. Textures are muted, so that objects stand out, and scale with the image.


def _draw_background(rng: np.random.Generator, height: int, width: int) -> tuple[Array, Array, list[str]]:
    """Bands of stuff: canvas (H, W, 3) float32, the band of each pixel (H, W) int64, and the bands' names downwards."""
    count = int(rng.integers(1, 4))
    names = [list(STUFF)[kind] for kind in sorted(rng.permutation(len(STUFF))[:count])]
    canvas = STUFF[names[0]](rng, height, width)
    segments = np.zeros((height, width), np.int64)
    bottoms = np.arange(1, height + 1, dtype=np.float32)[:, None]  # the lower edge of each row of pixels
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)
    for band, name in enumerate(names[1:], start=1):
        horizon = (band + rng.uniform(-0.2, 0.2)) / count + rng.uniform(-0.08, 0.08) * x
        if rng.random() < 0.6:
            turns = rng.uniform(0.5, 2.5) * x + rng.random()
            horizon = horizon + rng.uniform(0.01, 0.045) * np.sin(2 * np.pi * turns)
        below = np.clip(bottoms - height * horizon, 0, 1)  # (H, W), the share of the pixel below the horizon
        canvas += below[..., None] * (STUFF[name](rng, height, width) - canvas)
        segments[below >= 0.5] = band
    return canvas, segments, names


def _noise(rng: np.random.Generator, height: int, width: int, rows: int, columns: int) -> Array:
    """Smooth noise (H, W) float32 within about -1..1, of `rows` by `columns` independent values."""
    grid = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _sky(rng: np.random.Generator, height: int, width: int) -> Array:
    zenith = _hsv(rng.uniform(0.53, 0.62), rng.uniform(0.35, 0.6), rng.uniform(0.75, 0.95))
    haze = _hsv(rng.choice([0.08, 0.55]), 0.15, 0.97)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    clouds = 1.2 * _noise(rng, height, width, 7, 4) + 0.5 * _noise(rng, height, width, 18, 12)
    cover = np.clip(clouds - 0.1, 0, 1)[..., None] * rng.uniform(0.3, 0.9)
    sky = zenith + down * (haze - zenith)
    return sky + cover * (np.float32(248) - sky)


def _brick(rng: np.random.Generator, height: int, width: int) -> Array:
    brick_height = max(5.0, height / rng.uniform(9, 14))
    brick_width = brick_height * rng.uniform(1.9, 2.4)
    row, y = np.divmod(np.arange(height)[:, None] / brick_height + rng.random(), 1.0)  # (H, 1)
    column, x = np.divmod(np.arange(width) / brick_width + 0.5 * (row % 2), 1.0)  # (H, W)
    joint = max(1.0, brick_height / 9)
    in_brick = (y * brick_height >= joint) & (x * brick_width >= joint)
    tones = rng.uniform(0.86, 1.08, (int(row.max()) + 1, int(column.max()) + 1))
    clay = _hsv(rng.uniform(0.01, 0.07), rng.uniform(0.25, 0.5), rng.uniform(0.5, 0.7))
    bricks = tones[row.astype(int), column.astype(int)][..., None] * clay
    wall = np.where(in_brick[..., None], bricks, np.array([190, 184, 176]))
    return (wall * (1 + 0.04 * _noise(rng, height, width, 40, 40))[..., None]).astype(np.float32)


def _water(rng: np.random.Generator, height: int, width: int) -> Array:
    colour = _hsv(rng.uniform(0.48, 0.58), rng.uniform(0.35, 0.6), rng.uniform(0.45, 0.7))
    waves = _noise(rng, height, width, 30, 7) + 0.5 * _noise(rng, height, width, 48, 16)
    glints = np.clip(waves - 0.8, 0, 1)
    return colour * (1 + 0.13 * waves)[..., None] + 90 * glints[..., None]


def _sand(rng: np.random.Generator, height: int, width: int) -> Array:
    colour = _hsv(rng.uniform(0.09, 0.13), rng.uniform(0.2, 0.38), rng.uniform(0.8, 0.93))
    y = np.arange(height, dtype=np.float32)[:, None] / height
    ripples = np.sin(2 * np.pi * (rng.uniform(8, 13) * y + 0.9 * _noise(rng, height, width, 5, 5)))
    return colour * (1 + 0.05 * ripples + 0.05 * _noise(rng, height, width, 60, 60))[..., None]


def _grass(rng: np.random.Generator, height: int, width: int) -> Array:
    colour = _hsv(rng.uniform(0.22, 0.32), rng.uniform(0.35, 0.6), rng.uniform(0.45, 0.65))
    blades = _noise(rng, height, width, 20, 64)
    patches = _noise(rng, height, width, 5, 5)
    return colour * (1 + 0.2 * blades + 0.1 * patches)[..., None]


# From far to near, which is the order of a scene's bands from the top down.
STUFF: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "sky": _sky,
    "brick": _brick,
    "water": _water,
    "sand": _sand,
    "grass": _grass,
}
