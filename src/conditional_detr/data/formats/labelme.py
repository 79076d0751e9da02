"""LabelMe: a JSON file an image, beside it; splits are folders. hotcoco has no reader of it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config import Task
from ...files import read_json
from ...messages import is_text, shown
from ..dataset import DetectionDataset
from .collect import Collected, Place
from .entries import NUMBERS
from .format import Format, Found, first_folder, split_folders
from .image_files import SUFFIXES, by_stem, files_with
from .json_kinds import LABELME_JSON, MOST_FILES, json_kind
from .polygons import polygon_box

NAME = "LabelMe"
JSON_FOLDERS = (".", "annotations", "labels", "json", "jsons")
IMAGE_FOLDERS = ("images", "imgs", "JPEGImages")
Box = tuple[float, float, float, float]
Share = tuple[Path, Path]  # folder of JSON files, folder of their pictures


def find(place: Path) -> Found | None:
    """JSON files with `shapes` and `imagePath` in a folder or its annotations/, or in those of train/ and val/."""
    if not place.is_dir():
        return None
    shares = {name: share for name, folder in split_folders(place).items() if (share := _share(folder)) is not None}
    if not shares:
        if (whole := _share(place)) is None:
            return None
        shares = {"": whole}

    def read(split: str, task: Task, skip_bad: bool) -> DetectionDataset:
        return read_labelme(place, place, shares[split], tuple(shares.values()), task, skip_bad)

    return Found(place, tuple(name for name in shares if name), read, shares.get)


def _share(folder: Path) -> Share | None:
    for inner in JSON_FOLDERS:
        if _has_labelme(folder / inner):
            return folder / inner, first_folder(folder / images for images in IMAGE_FOLDERS) or folder
    return None


def _has_labelme(folder: Path) -> bool:
    names = files_with(folder, (".json",), below=False)
    return any(json_kind(folder / name) == LABELME_JSON for name in names[:MOST_FILES])


def read_labelme(
    place: Path, root: Path, share: Share, every: Sequence[Share], task: Task, skip_bad: bool
) -> DetectionDataset:
    """Read a folder of JSON files; those that are another tool's are passed over.

    Args:
        place: what the data set is called after.
        every: folders of all splits, since the classes are all that are named in any of them.

    Raises:
        OSError: a picture is missing or damaged.
        ValueError: a file is wrong; its name and the shape's number are said.
    """
    own = _shapes_in(share[0])
    names = {str(shape["label"]) for _, _, shapes in own for shape in shapes}
    for folder, _ in every:
        if folder != share[0]:
            names |= {str(shape["label"]) for _, _, shapes in _shapes_in(folder) for shape in shapes}
    if not names:
        raise ValueError(f"{place} ({NAME}): not one shape with a label in its JSON files; there is nothing to learn")
    classes = sorted(names)
    found = Collected(place, root, NAME, classes, range(1, len(classes) + 1), task == "instance", skip_bad)
    class_of = {name: i for i, name in enumerate(classes)}
    pictures = by_stem(files_with(share[1], SUFFIXES, below=False))
    beside = by_stem(files_with(share[0], SUFFIXES, below=False))
    passed_over: dict[str, int] = {}
    for path, claimed, shapes in own:
        basename = os.path.basename(claimed)
        stems = (path.stem, os.path.splitext(basename)[0])
        names_there = [(share[1], pictures.get(stem)) for stem in stems] + [
            (share[0], beside.get(stem)) for stem in stems
        ]
        folder, name = next(((f, n) for f, n in names_there if n), (share[1], basename or f"{path.stem}.jpg"))
        if claimed != basename and (path.parent / claimed).is_file():  # elsewhere, as imagePath says
            folder, name = path.parent, claimed
        picture = os.path.relpath(folder / name, root).replace(os.sep, "/")
        if (sizes := found.picture_size(picture, Place(path))) is None:
            continue
        found.add_image(picture, *sizes[0], Place(path))
        for i, label, outlines in _objects(path, shapes, passed_over):
            box = _around([polygon_box(outline) for outline in outlines])
            found.add_object(Place(f"{path}: shapes[{i}]"), class_of[label], box, polygons=outlines)
    for kind, count in passed_over.items():
        found.warnings.append(
            f"{count} shapes of the kind {shown(kind)} are neither boxes nor outlines and are passed over"
        )
    return found.dataset()


def _shapes_in(folder: Path) -> list[tuple[Path, str, list[dict[str, Any]]]]:
    """Each JSON file with its `imagePath` and its shapes."""
    found = []
    for name in files_with(folder, (".json",), below=False):
        path = folder / name
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            if json_kind(path) != LABELME_JSON:
                continue
            raise ValueError(f"{path}: 'shapes' is missing; a LabelMe file has a list of shapes there")
        for i, shape in enumerate(content["shapes"]):
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"]:
                raise ValueError(f"{path}: shapes[{i}]: has no label; expected its class")
        image = content.get("imagePath")
        claimed = image.replace("\\", "/") if isinstance(image, str) and is_text(image) and "\0" not in image else ""
        found.append((path, claimed, content["shapes"]))
    return found


def _around(boxes: Sequence[Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _objects(
    path: Path, shapes: list[dict[str, Any]], passed_over: dict[str, int]
) -> list[tuple[int, str, list[list[float]]]]:
    """Shapes of one `group_id` and label are parts of one object: number of its first shape, label and outlines."""
    objects: dict[Any, tuple[int, str, list[list[float]]]] = {}
    for i, shape in enumerate(shapes):
        outline = _outline(path, i, shape)
        if outline is None:
            kind = str(shape.get("shape_type"))
            passed_over[kind] = passed_over.get(kind, 0) + 1
            continue
        group = shape.get("group_id")
        key = ("alone", i) if group is None else (shape["label"], group)
        objects.setdefault(key, (i, shape["label"], []))[2].append(outline)
    return list(objects.values())


def _outline(path: Path, i: int, shape: dict[str, Any]) -> list[float] | None:
    """A shape's outline as [x0, y0, x1, y1, …]; None where it is none, such as a line."""
    points, kind = shape.get("points"), shape.get("shape_type") or "polygon"
    right = isinstance(points, list) and all(
        isinstance(p, list) and len(p) == 2 and type(p[0]) in NUMBERS and type(p[1]) in NUMBERS for p in points
    )
    if not right:
        raise ValueError(f"{path}: shapes[{i}]: points is {shown(points)}; expected pairs x, y in pixels")
    assert isinstance(points, list)
    if kind == "polygon" and len(points) >= 3:
        return [float(value) for point in points for value in point]
    if kind in ("rectangle", "polygon") and len(points) == 2:
        (x0, y0), (x1, y1) = points
        left, right_, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        return [float(v) for v in (left, top, right_, top, right_, bottom, left, bottom)]
    if kind == "rectangle" and len(points) == 4:
        return [float(value) for point in points for value in point]
    if kind == "circle" and len(points) == 2:  # its centre and a point on it
        (cx, cy), (px, py) = points
        radius = math.hypot(px - cx, py - cy)
        turns = [2 * math.pi * k / 64 for k in range(64)]
        return [value for turn in turns for value in (cx + radius * math.cos(turn), cy + radius * math.sin(turn))]
    if kind in ("polygon", "rectangle", "circle"):
        raise ValueError(f"{path}: shapes[{i}]: a {kind} of {len(points)} points")
    return None


def _read(annotations: str | Path, images: str | Path, task: Task, skip_bad: bool) -> DetectionDataset:
    folder, pictures = Path(annotations), Path(images)
    if not pictures.is_dir():
        raise FileNotFoundError(f"image folder {pictures} does not exist")
    return read_labelme(folder, pictures, (folder, pictures), ((folder, pictures),), task, skip_bad)


LABELME = Format(
    name=NAME,
    tasks=("detection", "instance"),
    layouts=("{split}/*.json (LabelMe)",),
    find=find,
    is_of=lambda annotations, task: annotations.is_dir() and _has_labelme(annotations),
    read=_read,
)
