"""Data sets in COCO's JSON, of boxes, instances or panoptic segments: found, read, checked, counted."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...coco_masks import encode_segmentation
from ...files import read_json
from ...messages import listed_briefly, shown
from ..check import MOST_OUTSIDE, box_form
from ..object_masks import InstanceMasks, PanopticMasks
from ..sharing import Shared
from .entries import BOX, Entries, Id, is_box

# Names a split goes by in the layouts that people have.
ALIASES = {"val": ("val", "valid", "validation"), "train": ("train",), "test": ("test",)}


@dataclass
class CocoDataset(Shared):
    """The images, boxes and masks of one annotation file, in flat arrays that worker processes share.

    N images, A usable annotations ordered by image. Classes are 0…C-1 in the order of the category ids.
    """

    annotation_file: Path
    image_folder: Path
    category_ids: list[int]
    category_names: list[str]
    image_ids: list[Id]  # whole numbers of any size, or strings
    file_names: list[str]
    sizes: np.ndarray  # (N, 2) int64, height and width as the JSON gives them
    first: np.ndarray  # (N + 1,) int64: annotations of image i are first[i]:first[i + 1]
    boxes: np.ndarray  # (A, 4) float32, xyxy in pixels, inside the image
    classes: np.ndarray  # (A,) int64
    areas: np.ndarray  # (A,) float32, as the JSON gives them
    crowds: np.ndarray  # (A,) bool
    positions: np.ndarray  # (A,) int64: where the annotation stands in the file's list; panoptic: in all images' lists
    masks: InstanceMasks | PanopticMasks | None = None  # None: read for detection
    is_thing: list[bool] | None = None  # (C,), of panoptic data
    clipped: int = 0  # boxes that reached outside their image and were cut
    dropped: list[Any] = field(default_factory=list)  # ids of annotations whose box has no area inside the image
    maskless: list[Any] = field(default_factory=list)  # ids of annotations left out because they have no mask
    short_polygons: list[Any] = field(default_factory=list)  # ids of annotations with polygons of less than 3 points
    missing_images: int = 0  # left out because their file, or their panoptic PNG, is not there
    parent_category: str | None = None  # Roboflow's, left out
    box_form: str | None = None  # what boxes seem to be that are not x, y, width, height in pixels
    warnings: list[str] = field(default_factory=list)  # of `check.check_dataset`

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
        masks = b"" if self.masks is None else self.masks.tobytes()
        return zlib.crc32(names + self.boxes.tobytes() + self.classes.tobytes() + self.crowds.tobytes() + masks)

    def summary(self, num_queries: int | None = None) -> list[str]:
        """What a user should know before training on this: one line each."""
        objects = self.objects_per_image()
        total, most = int(objects.sum()), int(objects.max(initial=0))
        lines = [
            f"{self.annotation_file}: {len(self)} images, {total} objects of {len(self.category_ids)} classes",
            f"objects per image: {total / max(len(self), 1):.1f} on average, {most} at most",
        ]
        if self.is_thing is not None:
            things = sum(self.is_thing)
            lines.insert(1, f"panoptic: {things} classes are things, {len(self.is_thing) - things} are stuff")
        counts = [
            (int((objects == 0).sum()), "images without objects (kept: they teach what is background)"),
            (int(self.crowds.sum()), "crowd regions (left out of training, kept in evaluation)"),
            (self.clipped, "boxes reached outside their image and were cut"),
            (len(self.dropped), f"boxes without area were left out (annotations {listed_briefly(self.dropped)})"),
            (len(self.maskless), f"objects without a mask were left out (annotations {listed_briefly(self.maskless)})"),
            (
                len(self.short_polygons),
                f"objects lost polygons of fewer than 3 points (annotations {listed_briefly(self.short_polygons)})",
            ),
            (self.missing_images, "images left out because their file is missing"),
        ]
        lines += [f"{count} {what}" for count, what in counts if count]
        if self.parent_category is not None:
            lines.append(
                f"category 0 {self.parent_category!r} is Roboflow's name for all classes together and was left out"
            )
        if not len(self.boxes):
            lines.append("warning: no annotations, so nothing can be scored: there will be no AP")
        lines += [f"warning: {warning}" for warning in self.warnings]
        if num_queries is not None and (over := int((objects > num_queries).sum())):
            lines.append(
                f"warning: {over} images have more objects than the model has queries ({num_queries}); the rest can "
                "never be found. Raise model.num_queries"
            )
        return lines

    def to_coco(self) -> dict[str, Any]:
        """What the evaluator compares with: the annotations as the file has them, for the images of this set.

        With masks, only the usable annotations, each `segmentation` as compressed run lengths. Of panoptic data the
        things alone, numbered anew, with masks from the PNG files, which are read once; read without masks, the boxes of
        things and stuff.

        Raises:
            OSError, ValueError: a panoptic PNG file cannot be read or contradicts the JSON.
        """
        content = read_json(self.annotation_file)
        content.setdefault("annotations", [])
        known = set(self.category_ids)
        content["categories"] = [category for category in content["categories"] if category["id"] in known]
        if isinstance(self.masks, InstanceMasks):
            content["annotations"] = [
                {
                    **content["annotations"][self.positions[a]],
                    "segmentation": _as_json(self.masks.run_lengths(i, [a])[0]),
                }
                for i in range(len(self))
                for a in range(self.first[i], self.first[i + 1])
            ]
        elif self.is_thing is not None:
            things = {number for number, thing in zip(self.category_ids, self.is_thing, strict=True) if thing}
            content["categories"] = [category for category in content["categories"] if category["id"] in things]
            content["annotations"] = self._thing_annotations
        elif content.get("annotations") and "segments_info" in content["annotations"][0]:
            content["annotations"] = [
                self._annotation(image, row, number=row + 1)
                for image in range(len(self))
                for row in range(self.first[image], self.first[image + 1])
            ]
        return self._of_present_images(content)

    def to_panoptic(self) -> dict[str, Any]:
        """The contents of the panoptic JSON for the images of this set; the PNG files are in `masks.folder`."""
        return self._of_present_images(read_json(self.annotation_file))

    def _of_present_images(self, content: dict[str, Any]) -> dict[str, Any]:
        if self.missing_images:
            kept = set(self.image_ids)
            content["images"] = [image for image in content["images"] if image["id"] in kept]
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        return content

    @cached_property
    def _thing_annotations(self) -> list[dict[str, Any]]:
        assert self.masks is not None and self.is_thing is not None
        annotations: list[dict[str, Any]] = []
        for image in range(len(self)):
            own = np.arange(self.first[image], self.first[image + 1])
            things = own[np.array(self.is_thing)[self.classes[own]]]
            for a, mask in zip(things.tolist(), self.masks.run_lengths(image, things), strict=True):
                annotation = self._annotation(image, a, number=len(annotations) + 1)
                annotations.append({**annotation, "segmentation": _as_json(mask)})
        return annotations

    def _annotation(self, image: int, row: int, number: int) -> dict[str, Any]:
        """A row of the arrays as COCO has it."""
        x0, y0, x1, y1 = self.boxes[row].tolist()
        return {
            "id": number,
            "image_id": self.image_ids[image],
            "category_id": self.category_ids[self.classes[row]],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": float(self.areas[row]),
            "iscrowd": int(self.crowds[row]),
        }


def find_split(
    folder: str | Path, split: str, task: Literal["detection", "instance", "panoptic"] = "detection"
) -> tuple[Path, Path]:
    """Find the annotation file and the image folder of a split.

    Layouts, in this order: `annotations/instances_train2017.json` (any year, or none) with `images/train2017/` or
    `train2017/`; `annotations/train.json` with `images/train/` or `train/`; Roboflow's `train/_annotations.coco.json`
    with the images beside it (there `val` is called `valid`). For the task "panoptic" only
    `annotations/panoptic_train2017.json` (any year, or none); `panoptic.read_panoptic` finds its PNG files.

    Raises:
        FileNotFoundError: the folder is missing, empty, or has none of these; what was looked for is named.
        NotADirectoryError: it is a file.
    """
    root = Path(folder)
    if root.is_file():
        raise NotADirectoryError(f"{root} is a file: data is a folder that holds annotations and images")
    if not root.is_dir():
        raise FileNotFoundError(f"data folder {root} does not exist")
    if not any(root.iterdir()):
        raise FileNotFoundError(f"data folder {root} is empty")
    prefix = "panoptic_" if task == "panoptic" else "instances_"
    for name in ALIASES.get(split, (split,)):
        files = sorted(root.glob(f"annotations/{prefix}{name}[0-9][0-9][0-9][0-9].json"))
        files.append(root / f"annotations/{prefix}{name}.json")
        if task != "panoptic":
            files.append(root / f"annotations/{name}.json")
        for file in files:
            if file.is_file():
                stem = file.stem.removeprefix(prefix)
                for images in (root / "images" / stem, root / stem):
                    if images.is_dir():
                        return file, images
                raise FileNotFoundError(
                    f"{file} is there, its images are not: neither {root / 'images' / stem} nor {root / stem} exists"
                )
        if task != "panoptic" and (root / name / "_annotations.coco.json").is_file():
            return root / name / "_annotations.coco.json", root / name
    if task == "panoptic":
        raise FileNotFoundError(
            f"{root} has no panoptic '{split}' split: neither annotations/panoptic_{split}2017.json (with "
            f"images/{split}2017/) nor annotations/panoptic_{split}.json (with images/{split}/); "
            "or name annotation file and image folder themselves (see --help)"
        )
    raise FileNotFoundError(
        f"{root} has no '{split}' split: neither annotations/instances_{split}2017.json (with images/{split}2017/), "
        f"annotations/{split}.json (with images/{split}/) nor {split}/_annotations.coco.json; "
        "or name annotation file and image folder themselves (see --help)"
    )


def read_coco(
    annotation_file: str | Path, image_folder: str | Path, skip_missing_images: bool = False, masks: bool = False
) -> CocoDataset:
    """Read and check a COCO detection file. Only what every use needs is checked here; images are opened later.

    Args:
        masks: keep every annotation's segmentation too, as compressed run lengths (some hundred bytes an object).
            An annotation without a segmentation, or with one without a pixel, is left out and counted, and so are
            polygons of fewer than three points.

    Raises:
        FileNotFoundError: the file, the folder or (unless they are skipped) images are missing.
        ValueError: not JSON, not COCO, contradictory ids, coordinates that are no numbers, or no usable box at all;
            with masks also run lengths of another size or that cannot be read, and no segmentation at all.
    """
    path, folder = Path(annotation_file), Path(image_folder)
    content = read_content(path, folder)
    images, missing = present_images(path, folder, content["images"], skip_missing_images)
    return index_annotations(path, folder, content, images, missing, masks)


def read_content(path: Path, folder: Path) -> dict[str, Any]:
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
    return content


def index_annotations(
    path: Path, folder: Path, content: dict[str, Any], images: list[dict[str, Any]], missing: int, masks: bool
) -> CocoDataset:
    """The flat arrays of a detection file's annotations; `images` are those of `present_images`."""
    category_ids, category_names, parent = _categories(path, content["categories"], content["annotations"])
    class_of = {category: i for i, category in enumerate(category_ids)}
    index_of = {image["id"]: i for i, image in enumerate(images)}
    all_ids = {image["id"]: i for i, image in enumerate(content["images"])} if missing else index_of

    entries = Entries(path, "annotations")
    rows: list[list[tuple[Any, ...]]] = [[] for _ in images]
    clipped = 0
    dropped: list[Any] = []
    maskless: list[Any] = []
    short_polygons: list[Any] = []
    sizes = [(image["height"], image["width"]) for image in images]
    for position, annotation in enumerate(content["annotations"]):
        if type(annotation) is not dict:
            entries.check(position, annotation)
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if type(image_id) is not int:
            image_id = entries.id(position, annotation, "image_id")
        if type(category_id) is not int:
            category_id = entries.id(position, annotation, "category_id")
        if image_id not in all_ids:
            entries.unknown(position, annotation, "image_id", all_ids, "images")
        if category_id not in class_of:
            entries.unknown(position, annotation, "category_id", class_of, "categories")
        if image_id not in index_of:
            continue
        box = annotation.get("bbox")
        if not is_box(box):
            entries.wrong(position, annotation, "bbox", BOX)
        area, crowd = entries.area_and_crowd(position, annotation, box[2] * box[3])
        index = index_of[image_id]
        height, width = sizes[index]
        x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
        inside = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            dropped.append(annotation.get("id", "?"))
            continue
        mask = b""
        if masks:
            segmentation = annotation.get("segmentation")
            if isinstance(segmentation, list):
                long = [polygon for polygon in segmentation if not isinstance(polygon, list) or len(polygon) >= 6]
                if len(long) < len(segmentation):
                    short_polygons.append(annotation.get("id", "?"))
                    segmentation = long
            if segmentation:
                try:
                    mask = _run_length_bytes(segmentation, height, width)
                except ValueError as error:
                    entries.fault(position, annotation, f"segmentation: {error}")
            if not mask:
                maskless.append(annotation.get("id", "?"))
                continue
        # Half a pixel outside is rounding, not a fault worth reporting.
        clipped += x0 < -0.5 or y0 < -0.5 or x1 > width + 0.5 or y1 > height + 0.5
        rows[index].append((inside, class_of[category_id], area, crowd, position, mask))

    flat = [row for own in rows for row in own]
    if maskless and not flat:
        raise ValueError(
            f"{path}: not one of {len(content['annotations'])} annotations has a mask: segmentation needs polygons or run "
            "lengths in their 'segmentation'. Give data with masks, or train a detector on this"
        )
    if content["annotations"] and not flat and not missing:
        raise ValueError(
            f"{path}: not one of {len(content['annotations'])} boxes has an area inside its image (x, y, width, height in pixels?)"
        )
    form = None
    largest = max((max(inside[2:]) for inside, *_ in flat), default=0)
    if largest <= 2 or clipped + len(dropped) > MOST_OUTSIDE * len(content["annotations"]):
        form = box_form(content["annotations"], {image["id"]: size for image, size in zip(images, sizes, strict=True)})
    columns = list(zip(*flat, strict=True)) if flat else [()] * 6
    image_sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    return CocoDataset(
        annotation_file=path,
        image_folder=folder,
        category_ids=category_ids,
        category_names=category_names,
        image_ids=[image["id"] for image in images],
        file_names=[image["file_name"] for image in images],
        sizes=image_sizes,
        first=np.concatenate(([0], np.cumsum([len(own) for own in rows], dtype=np.int64))),
        boxes=np.array(columns[0], dtype=np.float32).reshape(-1, 4),
        classes=np.array(columns[1], dtype=np.int64),
        areas=np.array(columns[2], dtype=np.float32),
        crowds=np.array(columns[3], dtype=bool),
        positions=np.array(columns[4], dtype=np.int64),
        masks=InstanceMasks(
            sizes=image_sizes,
            run_length_bytes=np.frombuffer(b"".join(columns[5]), dtype=np.uint8),
            first=np.concatenate(([0], np.cumsum([len(mask) for mask in columns[5]], dtype=np.int64))),
        )
        if masks
        else None,
        clipped=clipped,
        dropped=dropped,
        maskless=maskless,
        short_polygons=short_polygons,
        missing_images=missing,
        parent_category=parent,
        box_form=form,
    )


def _run_length_bytes(segmentation: Any, height: int, width: int) -> bytes:
    """A segmentation's compressed run lengths; none where it has no pixel."""
    from hotcoco import mask as coco_mask

    found = encode_segmentation(segmentation, height, width)
    return found["counts"] if coco_mask.area(found) else b""


def _as_json(mask: dict[str, Any]) -> dict[str, Any]:
    return {**mask, "counts": mask["counts"].decode()}


def _categories(
    path: Path, categories: Sequence[Any], annotations: Sequence[Any]
) -> tuple[list[int], list[str], str | None]:
    """Ids in ascending order, their names, and the name of Roboflow's parent category where one was left out."""
    entries = Entries(path, "categories")
    ids: list[int] = []
    for position, category in enumerate(categories):
        entries.check(position, category)
        number = entries.id(position, category, "id")
        if not isinstance(number, int):
            entries.wrong(position, category, "id", "a whole number (here and in the annotations' category_id)")
        if type(category.get("name")) not in (str, int):
            entries.wrong(position, category, "name", "a string")
        ids.append(number)
    parent = _roboflow_parent(categories, annotations)
    names: dict[int, str] = {}
    known: dict[str, int] = {}
    for position, (number, category) in enumerate(zip(ids, categories, strict=True)):
        name = str(category["name"])
        if position == parent:
            continue
        if number in names:
            entries.fault(
                position, category, f"two categories have the id {shown(number)}: {names[number]!r} and {name!r}"
            )
        if name in known:
            entries.fault(
                position, category, f"name: two categories are called {name!r}; classes are told apart by name"
            )
        names[number] = name
        known[name] = number
    if not names:
        raise ValueError(f"{path} lists no categories")
    ids = sorted(names)
    return ids, [names[i] for i in ids], None if parent is None else str(categories[parent]["name"])


def _roboflow_parent(categories: Sequence[Any], annotations: Sequence[Any]) -> int | None:
    """Where the category stands that Roboflow puts above a project's classes: id 0, no `supercategory` of its own,
    named as the others' `supercategory` (the project) or like one of them, and nothing is annotated with it."""
    for position, category in enumerate(categories):
        if category["id"] == 0 and category.get("supercategory") == "none":
            others = [other for i, other in enumerate(categories) if i != position]
            above = any(category["name"] in (other.get("supercategory"), other["name"]) for other in others)
            used = any(type(a) is dict and a.get("category_id") == 0 for a in annotations)
            return position if above and not used else None
    return None


def present_images(
    path: Path, folder: Path, images: Sequence[Any], skip_missing: bool
) -> tuple[list[dict[str, Any]], int]:
    """The images whose file exists, as id, file_name, height and width, and how many are missing.

    Raises:
        ValueError: an entry lacks one of these, or two have one id.
        FileNotFoundError: images are missing and not to be skipped, or all are.
    """
    entries = Entries(path, "images")
    read: dict[Id, dict[str, Any]] = {}
    for position, image in enumerate(images):
        entries.check(position, image)
        number = entries.id(position, image, "id")
        if number in read:
            entries.fault(position, image, f"two images have the id {shown(number)}")
        height, width = entries.size(position, image)
        name = entries.text(position, image, "file_name")
        read[number] = {"id": number, "file_name": name, "height": height, "width": width}
    images = list(read.values())
    there = exist(folder, [image["file_name"] for image in images])
    present = [image for image, found in zip(images, there, strict=True) if found]
    absent = [image for image, found in zip(images, there, strict=True) if not found]
    if absent and not skip_missing:
        raise FileNotFoundError(
            f"{path}: {len(absent)} of {len(images)} images are not in {folder} "
            f"(first: {absent[0]['file_name']}). Check the folder, or leave them out with --skip_bad_images true"
        )
    if not present:
        raise FileNotFoundError(f"{path}: none of its {len(images)} images is in {folder}")
    return present, len(absent)


def exist(folder: Path, names: Sequence[str]) -> list[bool]:
    """Which of these files a folder has. Folders are listed once: faster than a look per file. Only what is not listed
    is looked for by itself: file systems that ignore case or spell accents differently open it by this name, too."""
    listed: dict[Path, set[str]] = {}
    found = []
    for name in names:
        file = folder / name
        if file.parent not in listed:
            listed[file.parent] = _listed(file.parent)
        found.append(file.name in listed[file.parent] or _is_file(file))
    return found


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):  # a name that the file system cannot have
        return False


def check_same_categories(train: CocoDataset, val: CocoDataset) -> None:
    """Raises ValueError where the two sets' categories differ in id or name."""
    ours, theirs = (dict(zip(s.category_ids, s.category_names, strict=True)) for s in (train, val))
    if ours != theirs:
        different = sorted(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[0])
        raise ValueError(
            f"{val.annotation_file} and {train.annotation_file} have different categories: "
            + listed_briefly([f"{number} {name!r}" for number, name in different])
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
            f"the model has no class called {listed_briefly([repr(n) for n in absent])}; it knows {listed_briefly(list(labels))}. "
            "Evaluate with data of the model's classes, or train on this data first"
        )
    return [found[name] for name in names]
