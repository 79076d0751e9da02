"""A data set written in another format: `cdetr data convert`.

Pictures are copied, byte for byte. What the other format cannot say is counted.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import yaml

from ..config import Task
from ..files import write_json
from ..outlines import outline
from .check import header_sizes
from .dataset import DetectionDataset, check_same_categories
from .object_masks import InstanceMasks
from .splits import find_data, read_split


@dataclass
class Converted:
    """What was written, and how often something could not be said."""

    folder: Path
    images: dict[str, int]  # by split
    lost: Counter[str] = field(default_factory=Counter)


def convert(
    source: str | Path,
    folder: str | Path,
    to: str,
    task: Task | None = None,
    skip_bad: bool = False,
    shares: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Converted:
    """Write a data set in another format. The folder is there whole, or not at all.

    Args:
        folder: a new or an empty one, outside the source.
        to: "coco", "yolo" or "voc".
        task: "detection" writes boxes, "instance" masks too; None: masks where every object has one.
        shares: of train, val and test where the source has no splits, as "0.8,0.1,0.1"; "" writes it all as "train".
        say: called with a line of what is read.

    Raises:
        FileExistsError: the folder holds something.
        OSError, ValueError: the source cannot be read, see `read_split`; or the folder cannot be written.
    """
    source, folder = Path(source), Path(folder)
    _check_folder(source, folder)
    splits = _read(source, to, task, skip_bad, shares)
    for data in splits.values():
        for line in data.summary():
            say(line)
    first = next(iter(splits.values()))
    for data in splits.values():
        check_same_categories(first, data)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    converted = Converted(folder, {split: len(data) for split, data in splits.items()})
    try:
        WRITERS[to](splits, beside, converted.lost)
        if folder.is_dir():
            folder.rmdir()
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return converted


def _check_folder(source: Path, folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and not empty; name a new folder")
    own = (source if source.is_dir() else source.parent).resolve()
    if folder.resolve() == own or own in folder.resolve().parents:
        raise ValueError(f"{folder} is inside the data set {own}, where nothing is written; name a folder outside")
    folder.parent.mkdir(parents=True, exist_ok=True)


def _read(source: Path, to: str, task: Task | None, skip_bad: bool, shares: str) -> dict[str, DetectionDataset]:
    """Every split of a data set."""
    known = find_data(source, task or "detection")
    names = list(known[1].splits) if known is not None else []
    if shares:
        made = ["train", "val", "test"][: 2 if "test" in names else shares.count(",") + 1]
        names = [*made, *names] if "val" not in names else names
    names = list(dict.fromkeys(names)) or ["train"]

    def read(task: Task) -> dict[str, DetectionDataset]:
        alone = "" if shares else "1,0"
        return {
            name: read_split(source, name, task, skip_bad, shares or ("" if known and known[1].splits else alone))
            for name in names
        }

    # COCO's own files are written as they are, with their polygons.
    boxes_do = known is None or "instance" not in known[0].tasks or (to == "coco" and known[0].name == "COCO")
    if task is not None or boxes_do:
        return read(task or "detection")
    try:
        with_masks = read("instance")
    except ValueError:
        return read("detection")
    return read("detection") if any(data.maskless for data in with_masks.values()) else with_masks


# --- names


class _Names:
    """File names in a folder without folders: each picture's own, and where another has it, or its stem, one with its
    folder's or its split's in front, or a number behind."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def of(self, file_name: str, split: str) -> str:
        path = PurePosixPath(file_name.replace("\\", "/"))
        whole = "_".join(part for part in path.parts if part not in ("/", "..", "."))
        numbered = (f"{path.stem}_{number}{path.suffix}" for number in itertools.count(2))
        name = next(
            name
            for name in itertools.chain((path.name, whole, f"{split}_{path.name}"), numbered)
            if self._is_free(name)
        )
        self.taken.add(PurePosixPath(name).stem.lower())
        return name

    def _is_free(self, name: str) -> bool:
        return PurePosixPath(name).stem.lower() not in self.taken


# --- what formats share


def _boxes(data: DetectionDataset, image: int) -> list[tuple[int, int, tuple[float, float, float, float], bool]]:
    """The rows of an image: row, class, corners in pixels, crowd."""
    rows = range(data.first[image], data.first[image + 1])
    return [(a, int(data.classes[a]), tuple(data.boxes[a].tolist()), bool(data.crowds[a])) for a in rows]


def _count_ids(data: DetectionDataset, lost: Counter[str], own: list[int]) -> None:
    if data.category_ids != own:
        lost[f"ids of categories (they are {own[0]}…{own[-1]} now)"] = len(own)
    if data.image_ids != list(range(1, len(data) + 1)):
        lost["ids of images"] += len(data)


def _copy(data: DetectionDataset, image: int, target: Path) -> None:
    shutil.copyfile(data.image_path(image), target)


# --- the formats


def write_coco(splits: Mapping[str, DetectionDataset], folder: Path, lost: Counter[str]) -> None:
    """annotations/SPLIT.json and images/SPLIT/. From COCO everything in the files is kept."""
    for split, data in splits.items():
        images = folder / "images" / split
        images.mkdir(parents=True)
        names = _Names()
        new = {}
        for i, image_id in enumerate(data.image_ids):
            new[image_id] = names.of(data.file_names[i], split)
            _copy(data, i, images / new[image_id])
        content = data.to_coco()
        for image in content["images"]:
            image["file_name"] = new[image["id"]]
        for number, annotation in enumerate(content["annotations"], start=1):
            annotation.setdefault("id", number)
        write_json(folder / "annotations" / f"{split}.json", content, indent=None)


def write_yolo(splits: Mapping[str, DetectionDataset], folder: Path, lost: Counter[str]) -> None:
    """data.yaml, images/SPLIT/ and labels/SPLIT/; polygons where the data was read with masks."""
    names: list[str] = []
    for split, data in splits.items():
        names = data.category_names
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        taken = _Names()
        _count_ids(data, lost, list(range(len(names))))
        for i in range(len(data)):
            size = tuple(data.sizes[i].tolist())
            found = header_sizes(data.image_path(i))
            if found is not None and size != found[0] and size == found[1]:
                lost[
                    "images annotated as their file has them, which readers of YOLO turn by their EXIF tag: left out"
                ] += 1
                continue
            name = taken.of(data.file_names[i], split)
            _copy(data, i, images / name)
            lines = [line for row in _boxes(data, i) if (line := _yolo_line(data, i, row, lost))]
            (labels / f"{PurePosixPath(name).stem}.txt").write_text("".join(lines), encoding="utf-8")
    paths = {split: f"images/{split}" for split in splits}
    # No `path`: Ultralytics takes the file's folder then, and the working directory for ".".
    content = {**paths, "nc": len(names), "names": dict(enumerate(names))}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _yolo_line(data: DetectionDataset, image: int, row: Any, lost: Counter[str]) -> str:
    """`class cx cy w h`, or `class x1 y1 …`: with all digits, so that reading gives the same float32 numbers."""
    annotation, number, (x0, y0, x1, y1), crowd = row
    if crowd:
        lost["crowd regions: left out"] += 1
        return ""
    height, width = data.sizes[image].tolist()
    if isinstance(data.masks, InstanceMasks):
        points = outline(data.masks.decode(image, [annotation])[0].numpy())
        values = [value / side for value, side in zip(points, [width, height] * (len(points) // 2), strict=True)]
    else:
        values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
    return " ".join([str(number), *map(repr, values)]) + "\n"


def write_voc(splits: Mapping[str, DetectionDataset], folder: Path, lost: Counter[str]) -> None:
    """Annotations/, JPEGImages/ and ImageSets/Main/SPLIT.txt; a crowd is a difficult object."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    taken = _Names()
    used = {number for data in splits.values() for number in np.unique(data.classes).tolist()}
    if unused := len(next(iter(splits.values())).category_ids) - len(used):
        lost["classes without an object"] += unused
    for split, data in splits.items():
        _count_ids(data, lost, list(range(1, len(data.category_ids) + 1)))
        if data.category_names != sorted(data.category_names):
            lost["the order of the classes (they are sorted by name)"] = len(data.category_names)
        if isinstance(data.masks, InstanceMasks):
            lost["masks"] += len(data.boxes)
        stems = []
        for i in range(len(data)):
            name = taken.of(data.file_names[i], split)
            stems.append(PurePosixPath(name).stem)
            _copy(data, i, folder / "JPEGImages" / name)
            text = _voc_text(data, i, name)
            (folder / "Annotations" / f"{stems[-1]}.xml").write_text(text, encoding="utf-8")
        text = "".join(f"{stem}\n" for stem in stems)
        (folder / "ImageSets/Main" / f"{split}.txt").write_text(text, encoding="utf-8")


def _voc_text(data: DetectionDataset, image: int, name: str) -> str:
    """An XML file. Where the annotations count in another size than the picture has, boxes are scaled to the picture."""
    height, width = data.sizes[image].tolist()
    found = header_sizes(data.image_path(image)) or ((height, width), (height, width))
    size = (height, width) if (height, width) in found else found[0]
    scale_y, scale_x = size[0] / height, size[1] / width
    objects = "".join(
        f"\t<object>\n\t\t<name>{escape(data.category_names[number])}</name>\n\t\t<pose>Unspecified</pose>\n"
        f"\t\t<truncated>0</truncated>\n\t\t<difficult>{int(crowd)}</difficult>\n\t\t<bndbox>\n"
        f"\t\t\t<xmin>{_number(x0 * scale_x + 1)}</xmin>\n\t\t\t<ymin>{_number(y0 * scale_y + 1)}</ymin>\n"
        f"\t\t\t<xmax>{_number(x1 * scale_x)}</xmax>\n\t\t\t<ymax>{_number(y1 * scale_y)}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for _, number, (x0, y0, x1, y1), crowd in _boxes(data, image)
    )
    return (
        f"<annotation>\n\t<folder>JPEGImages</folder>\n\t<filename>{escape(name)}</filename>\n\t<size>\n\t\t<width>{size[1]}</width>\n"
        f"\t\t<height>{size[0]}</height>\n\t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n{objects}</annotation>\n"
    )


def _number(value: float) -> str:
    """Whole numbers without a point, as VOC has them; others with all digits."""
    return str(int(value)) if value == int(value) else repr(float(np.float64(value)))


WRITERS: dict[str, Callable[[Mapping[str, DetectionDataset], Path, Counter[str]], None]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
}
