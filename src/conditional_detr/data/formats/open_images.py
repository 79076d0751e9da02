"""Open Images: a CSV file of boxes in fractions of the sides, read by hotcoco's `from_oid`, which is right and fast and tells
the line of a fault; the pictures' names and sizes are found here."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config import Task
from ..dataset import DetectionDataset
from .collect import Collected, Place
from .format import ALIASES, Format, Found, first_folder, said
from .image_files import SUFFIXES, by_stem, files_with

NAME = "Open Images"
COLUMNS = {"ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"}


def find(place: Path) -> Found | None:
    """CSV files with Open Images' columns in a folder or its annotations/, called train-annotations-bbox.csv or like it;
    one called after no split is of all images. Or such a file itself."""
    if place.is_file():
        files = [place] if place.suffix.lower() == ".csv" and _is_boxes(place) else []
    else:
        folders = [place, place / "annotations", *(place / name for name in ("labels", "csv_folder"))]
        files = [folder / name for folder in folders for name in files_with(folder, (".csv",), below=False)]
        files = [file for file in files if _is_boxes(file)]
    if not files:
        return None
    root = place.parent if place.is_file() else place
    parts: dict[str, Path] = {}
    for file in files:
        parts.setdefault(_split_of(file), file)
    splits = {name: file for name, file in parts.items() if name} or {"": files[0]}
    if "" in splits and len(files) > 1:
        raise ValueError(
            f"{root} holds several Open Images files, {files[0].name} and {files[1].name}, called like no split"
        )

    def images(split: str) -> Path:
        names = [name for alias in ALIASES.get(split, ()) for name in (f"images/{alias}", alias)]
        return first_folder(root / name for name in (*names, "images", ".")) or root

    def read(split: str, task: Task, skip_bad: bool) -> DetectionDataset:
        return read_csv(splits[split], images(split), skip_bad, every=list(splits.values()))

    def both(split: str) -> tuple[Path, Path] | None:
        return (splits[split], images(split)) if split in splits else None

    return Found(files[0] if place.is_file() else place, tuple(name for name in splits if name), read, both)


def _is_boxes(file: Path) -> bool:
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            return set(next(csv.reader(text), ())) >= COLUMNS
    except (OSError, ValueError, csv.Error):
        return False


def _split_of(file: Path) -> str:
    words = re.split(r"[-_.]", file.stem.lower())
    return next((said(word) for word in words if said(word) in ALIASES), "")


def _descriptions(file: Path) -> Path | None:
    """The file that says which class /m/0cmf2 is."""
    for folder in (file.parent, file.parent.parent):
        if found := sorted(folder.glob("*class-descriptions*.csv")) or sorted(folder.glob("class*.csv")):
            return found[0]
    return None


def read_csv(file: str | Path, images: str | Path, skip_bad: bool, every: Sequence[Path] = ()) -> DetectionDataset:
    """Read the boxes of a file, and of the pictures those that it names; a box with IsGroupOf is a crowd.

    Args:
        every: files of all splits, since the classes are all that are named in any of them.

    Raises:
        OSError: a picture is missing or damaged.
        ValueError: the file is wrong; the line is said.
    """
    file, images = Path(file), Path(images)
    if not images.is_dir():
        raise FileNotFoundError(f"image folder {images} does not exist")
    content = _content(file)
    name_of = {category["id"]: category["name"] for category in content["categories"]}
    names = set(name_of.values())
    for other in every:
        if other != file:
            names |= {category["name"] for category in _content(other)["categories"]}
    if not names:
        raise ValueError(f"{file} ({NAME}): has no boxes; there is nothing to learn")
    classes = sorted(names)
    found = Collected(file, images, NAME, classes, range(1, len(classes) + 1), masks=False, skip_bad=skip_bad)
    class_of = {name: i for i, name in enumerate(classes)}
    rows: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        rows[annotation["image_id"]].append(annotation)
    pictures = by_stem(files_with(images, SUFFIXES, below=False))
    for image in sorted(content["images"], key=lambda image: image["file_name"]):
        picture = pictures.get(image["file_name"], f"{image['file_name']}.jpg")
        if (sizes := found.picture_size(picture, Place(file))) is None:
            continue
        height, width = sizes[0]
        found.add_image(picture, height, width)
        place = Place(f"{file}: {image['file_name']}")
        for annotation in rows[image["id"]]:
            x, y, w, h = annotation["bbox"]
            if max(abs(x), abs(y), abs(x + w), abs(y + h)) > 2:
                place.fault(
                    f"has the box {x:g}, {y:g}, {x + w:g}, {y + h:g}; expected fractions of the image's sides, 0…1"
                )
            box = (x * width, y * height, (x + w) * width, (y + h) * height)
            crowd = bool(annotation.get("is_group_of"))
            found.add_object(place, class_of[name_of[annotation["category_id"]]], box, crowd=crowd)
    return found.dataset()


def _content(file: Path) -> dict[str, Any]:
    from hotcoco import COCO

    descriptions = _descriptions(file)
    try:
        return COCO.from_oid(str(file), None if descriptions is None else str(descriptions)).dataset
    except (OSError, ValueError) as error:
        raise ValueError(str(error).removeprefix("parse error: ").replace(": line ", ":")) from None


def _read(annotations: str | Path, images: str | Path, task: Task, skip_bad: bool) -> DetectionDataset:
    return read_csv(annotations, images, skip_bad)


OPEN_IMAGES = Format(
    name=NAME,
    tasks=("detection",),
    layouts=("{split}-annotations-bbox.csv (Open Images)",),
    find=find,
    is_of=lambda annotations, task: annotations.is_file() and annotations.suffix.lower() == ".csv",
    read=_read,
)
