"""CVAT for images 1.1: one XML file that lists images with boxes, polygons and masks; splits are its subsets, or folders.

Written here, not read by hotcoco's `from_cvat`: its boxes and polygons are right, but it (1.3) passes over masks and subsets,
and tells bytes instead of lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...config import Task
from ...messages import shown
from ..dataset import DetectionDataset
from .collect import Collected, Place
from .format import Format, Found, first_folder, said, split_folders
from .image_files import SUFFIXES, files_with
from .polygons import polygon_box
from .xml_files import Element, number, outermost, read_xml

NAME = "CVAT"
SHAPES = ("box", "polygon", "mask")


def find(place: Path) -> Found | None:
    """annotations.xml, or the only XML file that begins with <annotations>, in a folder or in its annotations/; one such
    in each of train/ and val/; or that file itself."""
    if (single := _file_in(place)) is not None:
        subsets = {said(name): name for name in _subsets(single)}
        splits = subsets if len(subsets) > 1 or set(subsets) & {"train", "val", "test"} else {}

        def read(split: str, task: Task, skip_bad: bool) -> DetectionDataset:
            return read_cvat(single, _images_of(single), task, skip_bad, subset=splits.get(split))

        def files(split: str) -> tuple[Path, Path] | None:
            return (single, _images_of(single)) if split in splits else None

        return Found(single, tuple(splits), read, files)
    parts = {name: file for name, folder in split_folders(place).items() if (file := _file_in(folder)) is not None}
    if not parts:
        return None
    every = tuple(parts.values())

    def read_part(split: str, task: Task, skip_bad: bool) -> DetectionDataset:
        return read_cvat(parts[split], _images_of(parts[split]), task, skip_bad, every=every)

    def part_files(split: str) -> tuple[Path, Path] | None:
        return (parts[split], _images_of(parts[split])) if split in parts else None

    return Found(place, tuple(parts), read_part, part_files)


def _file_in(place: Path) -> Path | None:
    if place.is_file():
        return place if place.suffix.lower() == ".xml" and outermost(place) == "annotations" else None
    for folder in (place, place / "annotations"):
        files = [folder / name for name in files_with(folder, (".xml",), below=False)[:20]]
        found = [file for file in files if outermost(file) == "annotations"]
        if len(found) > 1:
            raise ValueError(
                f"{folder} holds several CVAT files, {found[0].name} and {found[1].name}: keep one, or a folder each"
            )
        if found:
            return found[0]
    return None


def _subsets(file: Path) -> list[str]:
    """Named by <image subset="…">."""
    tree = read_xml(file, "annotations")
    return sorted({image.attributes["subset"] for image in tree.all("image") if image.attributes.get("subset")})


def _images_of(file: Path) -> Path:
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    return first_folder((root / "images",)) or root


def read_cvat(
    file: str | Path,
    images: str | Path,
    task: Task,
    skip_bad: bool,
    subset: str | None = None,
    every: Sequence[Path] = (),
) -> DetectionDataset:
    """Read the images of a file, or of one subset of them. Classes are its labels, in its order, and where it lists none
    those that its shapes have; those of all files where there are several.

    Raises:
        OSError: a picture is missing or damaged.
        ValueError: the file is wrong; the line is said.
    """
    file, images = Path(file), Path(images)
    if not images.is_dir():
        raise FileNotFoundError(f"image folder {images} does not exist")
    tree = read_xml(file, "annotations")
    names = list(
        dict.fromkeys(
            name
            for one in (every or (file,))
            for name in _labels(tree if one == file else read_xml(one, "annotations"))
        )
    )
    if not names:
        raise ValueError(f"{file} ({NAME}): neither labels nor shapes; there is nothing to learn")
    found = Collected(file, images, NAME, names, range(1, len(names) + 1), task == "instance", skip_bad)
    class_of = {name: i for i, name in enumerate(names)}
    listed = files_with(images, SUFFIXES)
    there = set(listed)
    passed_over: dict[str, int] = {}
    for image in tree.all("image"):
        if subset is not None and image.attributes.get("subset") != subset:
            continue
        place = Place(file, image.line)
        name = image.attributes.get("name", "").replace("\\", "/")
        if not name:
            place.fault("<image> has no name; expected the name of its file")
        picture = _picture(name, image.attributes.get("subset", ""), there)
        height, width = (number(file, image, side, image.attributes.get(side)) for side in ("height", "width"))
        if (sizes := found.picture_size(picture, place)) is None:
            continue
        claimed = int(height), int(width)
        found.add_image(picture, *(claimed if claimed in sizes else sizes[0]), place)
        for shape in image.children:
            if shape.name in SHAPES:
                _add(found, file, shape, class_of)
            elif shape.name != "tag":
                passed_over[shape.name] = passed_over.get(shape.name, 0) + 1
    for kind, count in passed_over.items():
        found.warnings.append(f"{count} shapes <{kind}> are neither boxes nor outlines and are passed over")
    if any(True for _ in tree.all("track")):
        found.warnings.append("<track> is passed over: export the video as 'CVAT for images'")
    return found.dataset()


def _picture(name: str, subset: str, there: set[str]) -> str:
    """A picture's name below the folder of images, which may have a folder for each subset, or none of the folders that
    were on the server."""
    base = name.rsplit("/", 1)[-1]
    return next((one for one in (name, f"{subset}/{name}", f"default/{name}", base) if one in there), name)


def _labels(tree: Element) -> list[str]:
    """The labels that the file lists, and those that shapes have besides."""
    names: list[str] = []
    meta = tree.child("meta")
    for part in ("task", "project", "job"):
        owner = None if meta is None else meta.child(part)
        labels = None if owner is None else owner.child("labels")
        if labels is not None:
            names += [
                name
                for label in labels.all("label")
                if label.text_of("type") != "skeleton" and (name := label.text_of("name"))
            ]
    used = [
        shape.attributes.get("label", "")
        for image in tree.all("image")
        for shape in image.children
        if shape.name in SHAPES
    ]
    return list(dict.fromkeys([*names, *sorted(set(used) - {""})]))


def _add(found: Collected, file: Path, shape: Element, class_of: dict[str, int]) -> None:
    place, have = Place(file, shape.line), shape.attributes
    label = have.get("label", "")
    if label not in class_of:
        place.fault(f"<{shape.name}> has no label; expected its class")
    kind = class_of[label]
    if shape.name == "box":
        x0, y0, x1, y1 = (number(file, shape, side, have.get(side)) for side in ("xtl", "ytl", "xbr", "ybr"))
        if float(have.get("rotation") or 0):
            x0, y0, x1, y1 = _around_turned((x0, y0, x1, y1), float(have["rotation"]))
        found.add_object(place, kind, (x0, y0, x1, y1))
    elif shape.name == "polygon":
        try:
            polygon = [float(value) for point in have.get("points", "").split(";") for value in point.split(",")]
        except ValueError:
            polygon = []
        if len(polygon) < 6 or len(polygon) % 2:
            place.fault(
                f"points of <polygon> is {shown(have.get('points', ''))}; expected x,y;x,y;x,y of at least 3 points"
            )
        found.add_object(place, kind, polygon_box(polygon), polygons=[polygon])
    else:
        mask, box = _mask(place, shape, found.sizes[-1])
        found.add_object(place, kind, box, segmentation=mask)


def _around_turned(box: tuple[float, float, float, float], degrees: float) -> tuple[float, float, float, float]:
    """The box around a box that is turned about its centre."""
    x0, y0, x1, y1 = box
    turn = np.radians(degrees)
    half = np.array([x1 - x0, y1 - y0]) / 2
    reach = np.abs([[np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ half
    centre = np.array([x0 + x1, y0 + y1]) / 2
    (left, top), (right, bottom) = (centre - reach).tolist(), (centre + reach).tolist()
    return left, top, right, bottom


def _mask(
    place: Place, shape: Element, size: tuple[int, int]
) -> tuple[dict[str, Any], tuple[float, float, float, float]]:
    """A mask as COCO has it, and the box around its part of the image. CVAT's run lengths go along the rows of that part."""
    height, width = size
    try:
        left, top, w, h = (int(float(shape.attributes[side])) for side in ("left", "top", "width", "height"))
        runs = [int(run) for run in shape.attributes["rle"].split(",")]
    except (KeyError, ValueError):
        place.fault("<mask> needs whole numbers left, top, width, height, and the run lengths rle")
    if (
        sum(runs) != w * h
        or min(runs) < 0
        or w < 1
        or h < 1
        or left < 0
        or top < 0
        or left + w > width
        or top + h > height
    ):
        place.fault(
            f"<mask> of {w} × {h} at {left}, {top} has run lengths of {sum(runs)} pixels in an image of {width} × {height}; "
            "expected width × height pixels inside the image"
        )
    inside = np.repeat(np.arange(len(runs)) % 2, runs).reshape(h, w)
    whole = np.zeros((height, width), dtype=np.uint8)
    whole[top : top + h, left : left + w] = inside
    columns = whole.ravel(order="F")
    changes = np.flatnonzero(columns[1:] != columns[:-1]) + 1
    counts = np.diff(changes, prepend=0, append=columns.size).tolist()
    return {"size": [height, width], "counts": [0, *counts] if columns[0] else counts}, (left, top, left + w, top + h)


def _read(annotations: str | Path, images: str | Path, task: Task, skip_bad: bool) -> DetectionDataset:
    return read_cvat(annotations, images, task, skip_bad)


CVAT = Format(
    name=NAME,
    tasks=("detection", "instance"),
    layouts=("annotations.xml (CVAT for images)",),
    find=find,
    is_of=lambda annotations, task: annotations.is_file() and annotations.suffix.lower() == ".xml",
    read=_read,
)
