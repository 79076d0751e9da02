"""Data sets in COCO's JSON: found, read, checked, counted."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.files import read_json

# Names a split goes by in the layouts that people have.
ALIASES = {"val": ("val", "valid", "validation"), "train": ("train",), "test": ("test",)}


@dataclass
class CocoDataset:
    """The images and boxes of one annotation file, in flat arrays that worker processes share.

    N images, A usable annotations ordered by image. Classes are 0…C-1 in the order of the category ids.
    """

    annotation_file: Path
    image_folder: Path
    category_ids: list[int]
    category_names: list[str]
    image_ids: list[int]
    file_names: list[str]
    sizes: np.ndarray  # (N, 2) int64, height and width as the JSON gives them
    first: np.ndarray  # (N + 1,) int64: annotations of image i are first[i]:first[i + 1]
    boxes: np.ndarray  # (A, 4) float32, xyxy in pixels, inside the image
    classes: np.ndarray  # (A,) int64
    areas: np.ndarray  # (A,) float32, as the JSON gives them
    crowds: np.ndarray  # (A,) bool
    clipped: int = 0  # boxes that reached outside their image and were cut
    dropped: list[int] = field(default_factory=list)  # ids of annotations whose box has no area inside the image
    missing_images: int = 0  # left out because their file is not there

    def __len__(self) -> int:
        return len(self.image_ids)

    def image_path(self, index: int) -> Path:
        return self.image_folder / self.file_names[index]

    def objects_per_image(self) -> np.ndarray:
        """Boxes of each image that are trained on: crowds are not. (N,)"""
        image = np.repeat(np.arange(len(self)), np.diff(self.first))
        return np.bincount(image[~self.crowds], minlength=len(self))

    def fingerprint(self) -> int:
        """A number that changes when images, boxes or classes do, but not when the folder moves."""
        names = repr((self.image_ids, self.file_names, self.category_ids, self.category_names)).encode()
        return zlib.crc32(names + self.boxes.tobytes() + self.classes.tobytes() + self.crowds.tobytes())

    def summary(self, num_queries: int | None = None) -> list[str]:
        """What a user should know before training on this: one line each."""
        objects = self.objects_per_image()
        total, most = int(objects.sum()), int(objects.max(initial=0))
        lines = [
            f"{self.annotation_file}: {len(self)} images, {total} objects of {len(self.category_ids)} classes",
            f"objects per image: {total / max(len(self), 1):.1f} on average, {most} at most",
        ]
        counts = [
            (int((objects == 0).sum()), "images without objects (kept: they teach what is background)"),
            (int(self.crowds.sum()), "crowd regions (left out of training, kept in evaluation)"),
            (self.clipped, "boxes reached outside their image and were cut"),
            (len(self.dropped), f"boxes without area were left out (annotations {_listed(self.dropped)})"),
            (self.missing_images, "images left out because their file is missing"),
        ]
        lines += [f"{count} {what}" for count, what in counts if count]
        if num_queries is not None and (over := int((objects > num_queries).sum())):
            lines.append(
                f"warning: {over} images have more objects than the model has queries ({num_queries}); the rest can "
                "never be found. Raise model.num_queries"
            )
        return lines

    def to_coco(self) -> dict[str, Any]:
        """What the evaluator compares with: the annotations as the file has them, for the images of this set."""
        content = read_json(self.annotation_file)
        if self.missing_images:
            kept = set(self.image_ids)
            content["images"] = [image for image in content["images"] if image["id"] in kept]
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        return content


def find_split(folder: str | Path, split: str) -> tuple[Path, Path]:
    """Find the annotation file and the image folder of a split.

    Layouts, in this order: `annotations/instances_train2017.json` (any year, or none) with `images/train2017/` or
    `train2017/`; `annotations/train.json` with `images/train/` or `train/`; Roboflow's `train/_annotations.coco.json`
    with the images beside it (there `val` is called `valid`).

    Raises:
        FileNotFoundError: the folder is missing, empty, or has none of these; what was looked for is named.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"data folder {root} does not exist")
    if not any(root.iterdir()):
        raise FileNotFoundError(f"data folder {root} is empty")
    for name in ALIASES.get(split, (split,)):
        files = sorted(root.glob(f"annotations/instances_{name}[0-9][0-9][0-9][0-9].json"))
        files += [root / f"annotations/instances_{name}.json", root / f"annotations/{name}.json"]
        for file in files:
            if file.is_file():
                stem = file.stem.removeprefix("instances_")
                for images in (root / "images" / stem, root / stem):
                    if images.is_dir():
                        return file, images
                raise FileNotFoundError(
                    f"{file} is there, its images are not: neither {root / 'images' / stem} nor {root / stem} exists"
                )
        if (root / name / "_annotations.coco.json").is_file():
            return root / name / "_annotations.coco.json", root / name
    raise FileNotFoundError(
        f"{root} has no '{split}' split: neither annotations/instances_{split}2017.json (with images/{split}2017/), "
        f"annotations/{split}.json (with images/{split}/) nor {split}/_annotations.coco.json; "
        "or name annotation file and image folder themselves (see --help)"
    )


def read_coco(annotation_file: str | Path, image_folder: str | Path, skip_missing_images: bool = False) -> CocoDataset:
    """Read and check a COCO detection file. Only what every use needs is checked here; images are opened later.

    Raises:
        FileNotFoundError: the file, the folder or (unless they are skipped) images are missing.
        ValueError: not JSON, not COCO, contradictory ids, coordinates that are no numbers, or no usable box at all.
    """
    path, folder = Path(annotation_file), Path(image_folder)
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} does not exist")
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {folder} does not exist")
    content = read_json(path)
    if isinstance(content, dict):
        content.setdefault("annotations", [])  # test sets have none
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise ValueError(f"{path} is not COCO JSON: it needs the lists 'images', 'annotations' and 'categories'")
    if not content["images"]:
        raise ValueError(f"{path} lists no images")
    try:
        return _index(path, folder, content, skip_missing_images)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not COCO JSON: an entry lacks or misuses the field {error}") from None


def _index(path: Path, folder: Path, content: dict[str, Any], skip_missing: bool) -> CocoDataset:
    category_ids, category_names = _categories(path, content["categories"])
    class_of = {category: i for i, category in enumerate(category_ids)}
    images, missing = _present_images(path, folder, content["images"], skip_missing)
    index_of = {image["id"]: i for i, image in enumerate(images)}
    all_ids = {image["id"] for image in content["images"]}

    rows: list[list[tuple[Any, ...]]] = [[] for _ in images]
    clipped, dropped = 0, []
    for annotation in content["annotations"]:
        name = annotation.get("id", "?")
        if annotation["image_id"] not in all_ids:
            raise ValueError(
                f"{path}: annotation {name} names image {annotation['image_id']}, which is not in 'images'"
            )
        if annotation["category_id"] not in class_of:
            raise ValueError(
                f"{path}: annotation {name} names category {annotation['category_id']}, which is not in 'categories'"
            )
        if annotation["image_id"] not in index_of:
            continue
        box = annotation["bbox"]
        if len(box) != 4 or not all(isinstance(v, int | float) and math.isfinite(v) for v in box):
            raise ValueError(
                f"{path}: annotation {name} has the box {box}; a box is four finite numbers x, y, width, height"
            )
        index = index_of[annotation["image_id"]]
        width, height = images[index]["width"], images[index]["height"]
        x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
        inside = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            dropped.append(name)
            continue
        # Half a pixel outside is rounding, not a fault worth reporting.
        clipped += x0 < -0.5 or y0 < -0.5 or x1 > width + 0.5 or y1 > height + 0.5
        area = annotation.get("area", box[2] * box[3])
        rows[index].append((inside, class_of[annotation["category_id"]], area, bool(annotation.get("iscrowd", 0))))

    flat = [row for own in rows for row in own]
    if content["annotations"] and not flat and not missing:
        raise ValueError(
            f"{path}: not one of {len(content['annotations'])} boxes has an area inside its image (x, y, width, height in pixels?)"
        )
    columns = list(zip(*flat, strict=True)) if flat else [(), (), (), ()]
    return CocoDataset(
        annotation_file=path,
        image_folder=folder,
        category_ids=category_ids,
        category_names=category_names,
        image_ids=[image["id"] for image in images],
        file_names=[image["file_name"] for image in images],
        sizes=np.array([(image["height"], image["width"]) for image in images], dtype=np.int64).reshape(-1, 2),
        first=np.concatenate(([0], np.cumsum([len(own) for own in rows], dtype=np.int64))),
        boxes=np.array(columns[0], dtype=np.float32).reshape(-1, 4),
        classes=np.array(columns[1], dtype=np.int64),
        areas=np.array(columns[2], dtype=np.float32),
        crowds=np.array(columns[3], dtype=bool),
        clipped=clipped,
        dropped=dropped,
        missing_images=missing,
    )


def _categories(path: Path, categories: Sequence[dict[str, Any]]) -> tuple[list[int], list[str]]:
    names: dict[int, str] = {}
    for category in categories:
        number, name = category["id"], str(category["name"])
        if number in names:
            raise ValueError(f"{path}: two categories have the id {number}: {names[number]!r} and {name!r}")
        if name in names.values():
            raise ValueError(f"{path}: two categories are called {name!r}; classes are told apart by name")
        names[number] = name
    if not names:
        raise ValueError(f"{path} lists no categories")
    ids = sorted(names)
    return ids, [names[i] for i in ids]


def _present_images(
    path: Path, folder: Path, images: Sequence[dict[str, Any]], skip_missing: bool
) -> tuple[list[dict[str, Any]], int]:
    """The images whose file exists, and how many are missing. Folders are listed once: faster than a look per file."""
    listed: dict[Path, set[str]] = {}
    present: list[dict[str, Any]] = []
    absent: list[dict[str, Any]] = []
    seen = set()
    for image in images:
        if image["id"] in seen:
            raise ValueError(f"{path}: two images have the id {image['id']}")
        seen.add(image["id"])
        if not (int(image["width"]) > 0 and int(image["height"]) > 0):
            raise ValueError(f"{path}: image {image['id']} has the size {image['width']}×{image['height']}")
        file = folder / image["file_name"]
        if file.parent not in listed:
            listed[file.parent] = set(os.listdir(file.parent)) if file.parent.is_dir() else set()
        (present if file.name in listed[file.parent] else absent).append(image)
    if absent and not skip_missing:
        raise FileNotFoundError(
            f"{path}: {len(absent)} of {len(images)} images are not in {folder} "
            f"(first: {absent[0]['file_name']}). Check the folder, or leave them out with --skip_bad_images true"
        )
    if not present:
        raise FileNotFoundError(f"{path}: none of its {len(images)} images is in {folder}")
    return present, len(absent)


def check_same_categories(train: CocoDataset, val: CocoDataset) -> None:
    """Raises ValueError where the two sets' categories differ in id or name."""
    ours, theirs = (dict(zip(s.category_ids, s.category_names, strict=True)) for s in (train, val))
    if ours != theirs:
        different = sorted(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[0])
        raise ValueError(
            f"{val.annotation_file} and {train.annotation_file} have different categories: "
            + _listed([f"{number} {name!r}" for number, name in different])
        )


def classes_by_name(names: Sequence[str], labels: Sequence[str]) -> list[int]:
    """For each of a data set's category names, the model's class with that name.

    Raises:
        ValueError: the model lacks some of the names.
    """
    found = {label: i for i, label in enumerate(labels)}
    absent = [name for name in names if name not in found]
    if absent:
        raise ValueError(
            f"the model has no class called {_listed([repr(n) for n in absent])}; it knows {_listed(list(labels))}. "
            "Evaluate with data of the model's classes, or train on this data first"
        )
    return [found[name] for name in names]


def _listed(items: Sequence[Any], most: int = 8) -> str:
    return ", ".join(str(item) for item in items[:most]) + (f", … ({len(items)} in all)" if len(items) > most else "")
