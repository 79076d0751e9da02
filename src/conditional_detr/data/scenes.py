"""A data set of drawn scenes: detection, instance and panoptic annotations for a machine that has no data.

Each scene is a textured background of one to three bands of stuff with a few coloured shapes on it. Image `k` of a
split is a function of the seed, the split's name, `k` and the settings alone, so a data set can be drawn anew instead
of being stored or downloaded. Files are equal byte for byte under the same versions of numpy and Pillow.
"""

import json
import math
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ..files import write_atomically

VERSION = 1  # raised when the same settings come to draw other pixels

SMALLEST, LARGEST = 0.14, 0.55  # an object's diameter over the image's shorter side
MIN_DIAMETER = 8  # pixels
MIN_VISIBLE = 0.7  # the share of an object's pixels that neither another object nor the image's edge hides
MIN_CONTRAST = 120.0  # Euclidean RGB distance, of at most 441, between an object and what it is seen against
SUPERSAMPLING = 4

Array = NDArray[Any]


def generate_scenes(
    folder: str | Path,
    images: dict[str, int],
    *,
    size: int | tuple[int, int] = 96,
    max_objects: int = 5,
    shapes: Sequence[str] = ("circle", "square", "triangle"),
    seed: int = 0,
) -> Path:
    """Draw scenes into `folder` in COCO's layout and return its path.

    Written are `images/{split}/{id:06d}.png`, `panoptic/{split}/{id:06d}.png`, `annotations/{split}.json` (boxes and
    masks) and `annotations/panoptic_{split}.json`, with image ids from 1. Boxes are tight around what can be seen, in
    pixels, as [x, y, width, height]. Masks are run-length encodings, since a ring has no single outline. Category ids
    have gaps, as COCO's have. A scene's panoptic segments are its stuff, then its objects in the order of their
    annotations.

    A complete folder of the same settings (kept in `scenes.json`) is left alone; an interrupted one is completed.

    Args:
        folder: a new or an empty folder, or one that this function made.
        images: the number of images of each split, e.g. `{"train": 2000, "val": 200}`.
        size: side of the square images in pixels, or (height, width); at least 32.
        max_objects: most objects in a scene; each holds at least one.
        shapes: the categories, names among `SHAPES`.
        seed: any integer; another seed gives other scenes.

    Raises:
        ValueError: an argument is out of its range.
        FileExistsError: `folder` holds something else, or scenes of other settings.
    """
    folder = Path(folder)
    height, width = (size, size) if isinstance(size, int) else size
    settings = {
        "version": VERSION,
        "images": dict(images),
        "size": [height, width],
        "max_objects": max_objects,
        "shapes": list(shapes),
        "seed": seed,
    }
    _check_settings(settings)
    _claim_folder(folder, settings)
    for split, count in images.items():
        if not (folder / "annotations" / f"{split}.json").exists():
            _write_split(folder, split, count, settings)
    return folder


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


# Annotations and files.

CATEGORY_IDS = {name: 2 * i + 1 for i, name in enumerate(SHAPES)} | {name: 2 * i + 101 for i, name in enumerate(STUFF)}


def _check_settings(settings: dict[str, Any]) -> None:
    if not settings["images"]:
        raise ValueError('images: no split is named; expected for example {"train": 2000, "val": 200}')
    for split, count in settings["images"].items():
        if not re.fullmatch(r"\w[\w.-]*", split) or split.startswith("panoptic_"):
            raise ValueError(f"images: {split!r} cannot name a split; expected a plain word such as 'train'")
        if count < 1:
            raise ValueError(f"images: {count} images of {split!r}; expected at least 1")
    if min(settings["size"]) < 32:
        raise ValueError(f"size: {settings['size']} (height, width) in pixels; expected at least 32")
    if settings["max_objects"] < 1:
        raise ValueError(f"max_objects: {settings['max_objects']}; expected at least 1")
    unknown = [name for name in settings["shapes"] if name not in SHAPES]
    if unknown or not settings["shapes"]:
        raise ValueError(f"shapes: {', '.join(unknown) or 'none'}; expected some of {', '.join(SHAPES)}")
    if len(set(settings["shapes"])) < len(settings["shapes"]):
        raise ValueError(f"shapes: {', '.join(settings['shapes'])}; expected each name once")


def _claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Mark `folder` as ours before anything else is written, so that an interrupted drawing can tell its own files."""
    mark = folder / "scenes.json"
    if mark.is_file():
        if mark.read_text(encoding="utf-8") != json.dumps(settings, sort_keys=True):
            raise FileExistsError(f"{folder}: holds scenes of other settings (see {mark.name}); name another folder")
    elif folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: is a file; name a folder")
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder}: holds files that are not generated scenes; name a new or an empty folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(mark, settings)


def _write_split(folder: Path, split: str, count: int, settings: dict[str, Any]) -> None:
    """Draw the images of a split, then write its annotations: a split that has them is complete."""
    height, width = settings["size"]
    image_folder, panoptic_folder = folder / "images" / split, folder / "panoptic" / split
    for needed in (image_folder, panoptic_folder, folder / "annotations"):
        needed.mkdir(parents=True, exist_ok=True)
    drawing = [VERSION, settings["seed"], split, settings["size"], settings["max_objects"], settings["shapes"]]
    key = zlib.crc32(json.dumps(drawing).encode())  # Python's hash() differs from process to process
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    for image_id in range(1, count + 1):
        rng = np.random.Generator(np.random.PCG64([key, image_id]))
        pixels, segments, names = draw_scene(rng, height, width, settings["max_objects"], settings["shapes"])
        file_name = f"{image_id:06d}.png"
        segments_info, objects, segment_ids = _annotate(segments, names)
        _write_png(image_folder / file_name, pixels)
        _write_png(panoptic_folder / file_name, segment_ids)
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        panoptic.append({"image_id": image_id, "file_name": file_name, "segments_info": segments_info})
        for annotation in objects:
            instances.append({"id": len(instances) + 1, "image_id": image_id, **annotation})

    things = [{"id": CATEGORY_IDS[name], "name": name, "supercategory": "shape"} for name in settings["shapes"]]
    stuff = [{"id": CATEGORY_IDS[name], "name": name, "supercategory": "background"} for name in STUFF]
    both = [{**category, "isthing": 1} for category in things] + [{**category, "isthing": 0} for category in stuff]
    info = {"description": f"Drawn scenes, {split}", "version": str(VERSION), "settings": settings}
    head = {"info": info, "licenses": [], "images": images}
    annotations = folder / "annotations"
    _write_json(annotations / f"panoptic_{split}.json", {**head, "annotations": panoptic, "categories": both})
    _write_json(annotations / f"{split}.json", {**head, "annotations": instances, "categories": things})


def _annotate(segments: Array, names: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Array]:
    """A scene's panoptic segments, its objects' annotations, and its panoptic PNG's pixels (H, W, 3) uint8."""
    # The factor is odd, so the ids differ and none is 0, COCO's "no segment"; it is large, so colours look unlike.
    ids = np.arange(1, len(names) + 1, dtype=np.int64) * 0x9E3779 % 2**24
    segments_info, objects = [], []
    for index, name in enumerate(names):
        mask = segments == index
        area = int(mask.sum())
        if area == 0:
            continue
        shared = {"category_id": CATEGORY_IDS[name], "bbox": _tight_box(mask), "area": area, "iscrowd": 0}
        segments_info.append({"id": int(ids[index]), **shared})
        if name in SHAPES:
            objects.append({**shared, "segmentation": _run_lengths(mask)})
    segment_ids = ids[segments]
    channels = np.stack([segment_ids % 256, segment_ids // 256 % 256, segment_ids // 65536], axis=-1)
    return segments_info, objects, channels.astype(np.uint8)


def _tight_box(mask: Array) -> list[float]:
    """[x, y, width, height] in pixels of a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = float(columns[0]), float(rows[0])
    return [x, y, float(columns[-1]) + 1 - x, float(rows[-1]) + 1 - y]


def _run_lengths(mask: Array) -> dict[str, list[int]]:
    """COCO's run-length encoding of a mask (H, W): runs of 0 and 1 in turn, down the columns, the first of 0.

    As a list rather than as a string: pycocotools' `frPyObjects`, by which DETR's loader reads masks, takes lists only.
    """
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(changes, prepend=0, append=pixels.size).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if pixels[0] else counts}


def _write_png(path: Path, pixels: Array) -> None:
    """Write an image (H, W, 3) uint8."""
    image = Image.fromarray(pixels)
    # Half the time of the default compression, 3 % more bytes.
    write_atomically(path, lambda beside: image.save(beside, format="PNG", compress_level=3), outlast_power_cuts=False)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, sort_keys=True)  # json.dump, which streams, takes ten times as long
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))
