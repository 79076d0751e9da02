"""A data set of drawn scenes: detection, instance and panoptic annotations for a machine that has no data.

Each scene is a textured background of one to three bands of stuff with a few coloured shapes on it. Image `k` of a
split is a function of the seed, the split's name, `k` and the settings alone, so a data set can be drawn anew instead
of being stored or downloaded. Files are equal byte for byte under the same versions of numpy and Pillow.
"""

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import write_atomically
from .scene_drawing import SHAPES, STUFF, Array, draw_scene

VERSION = 1  # raised when the same settings come to draw other pixels


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
