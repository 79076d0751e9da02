"""Data sets in COCO's JSON of boxes and instances: found in a folder, read, and given to the evaluator."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...config import Task
from ...files import read_json
from ...messages import shown
from ..check import MOST_OUTSIDE, box_form
from ..dataset import DetectionDataset, Id
from ..object_masks import InstanceMasks, as_json
from .coco_rows import Columns, Masks, rows_of
from .coco_stream import read_stream
from .entries import BOX, Entries, is_box
from .format import ALIASES, Format, Found, images_beside, said, split_folders
from .image_files import exist
from .index import indexed
from .json_kinds import COCO_JSON, MOST_FILES, json_kind
from .polygons import crossing_remark


def read_coco(
    annotation_file: str | Path, image_folder: str | Path, skip_missing_images: bool = False, masks: bool = False
) -> DetectionDataset:
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
    check_place(path, folder)
    if (stream := read_stream(path, masks)) is not None:
        images, missing = present_images(path, folder, stream.image_entries(), skip_missing_images)
        categories = read_categories(path, stream.categories, stream.category_numbers)
        index_of = {image["id"]: i for i, image in enumerate(images)}
        class_of: dict[Id, int] = {number: i for i, number in enumerate(categories.ids)}
        if (columns := stream.columns(index_of, class_of)) is not None:
            del stream
            return dataset_of(path, folder, categories, images, missing, columns, ground_truth)
        del stream
    content = read_content(path, folder)
    images, missing = present_images(path, folder, content["images"], skip_missing_images)
    return index_annotations(path, folder, content, images, missing, masks, ground_truth)


def check_place(path: Path, folder: Path) -> None:
    """Raises FileNotFoundError where the file or the folder of its images does not exist."""
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} does not exist")
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {folder} does not exist")


def read_content(path: Path, folder: Path) -> dict[str, Any]:
    """What a COCO file holds, with its three lists, of whose entries nothing is known yet.

    Raises:
        FileNotFoundError: the file or the folder of its images does not exist.
        ValueError: not JSON, not COCO, or without images.
    """
    check_place(path, folder)
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
    path: Path,
    folder: Path,
    content: dict[str, Any],
    images: list[dict[str, Any]],
    missing: list[str],
    masks: bool,
    ground_truth: Callable[[DetectionDataset], dict[str, Any]],
) -> DetectionDataset:
    """The data set of a detection file's annotations, checked one by one; `images` are those of `present_images`."""
    annotations = content["annotations"]
    used = (a.get("category_id") for a in annotations if type(a) is dict)
    categories = read_categories(path, content["categories"], used)
    all_ids = {image["id"] for image in content["images"]} if missing else None
    columns = _read_columns(path, annotations, images, all_ids, categories.ids, masks)
    return dataset_of(path, folder, categories, images, missing, columns, ground_truth)


def dataset_of(
    path: Path,
    folder: Path,
    categories: Categories,
    images: list[dict[str, Any]],
    missing: list[str],
    columns: Columns,
    ground_truth: Callable[[DetectionDataset], dict[str, Any]],
) -> DetectionDataset:
    """The flat arrays of annotations.

    Raises:
        ValueError: there are annotations, and not one is usable.
    """
    sizes = np.array([(image["height"], image["width"]) for image in images], dtype=np.int64).reshape(-1, 2)
    rows = rows_of(columns, sizes)
    count, masks = len(columns.boxes), columns.masks
    if rows.maskless and not len(rows.boxes):
        raise ValueError(
            f"{path}: not one of {count} annotations has a mask: segmentation needs polygons or run "
            "lengths in their 'segmentation'. Give data with masks, or train a detector on this"
        )
    if count and not len(rows.boxes) and not missing:
        raise ValueError(
            f"{path}: not one of {count} boxes has an area inside its image (x, y, width, height in pixels?)"
        )
    form = None
    if rows.boxes[:, 2:].max(initial=0) <= 2 or rows.clipped + len(rows.dropped) > MOST_OUTSIDE * count:
        form = box_form(columns.boxes, sizes[columns.images])
    return DetectionDataset(
        annotation_file=path,
        image_folder=folder,
        category_ids=categories.ids,
        category_names=categories.names,
        image_ids=[image["id"] for image in images],
        file_names=[image["file_name"] for image in images],
        sizes=sizes,
        first=rows.first,
        boxes=rows.boxes,
        classes=rows.classes,
        areas=rows.areas,
        crowds=rows.crowds,
        positions=rows.positions,
        ground_truth=ground_truth,
        masks=None if masks is None else masks.of(rows.kept, sizes),
        clipped=rows.clipped,
        dropped=rows.dropped,
        maskless=rows.maskless,
        short_polygons=[] if masks is None else masks.short_polygons,
        missing=missing,
        parent_category=categories.parent,
        box_form=form,
        warnings=[crossing_remark(masks.crossing)] if masks is not None and masks.crossing else [],
    )


def _read_columns(
    path: Path,
    annotations: Sequence[Any],
    images: list[dict[str, Any]],
    all_ids: set[Id] | None,
    category_ids: list[int],
    masks: bool,
) -> Columns:
    """Check every annotation; those of the images are in the columns.

    Args:
        all_ids: of the file's images, where `images` are not all of them; annotations of the others are passed over.
    """
    class_of = {category: i for i, category in enumerate(category_ids)}
    index_of = {image["id"]: i for i, image in enumerate(images)}
    known: Collection[Id] = index_of if all_ids is None else all_ids
    sizes = [(image["height"], image["width"]) for image in images]
    entries = Entries(path, "annotations")
    found = Masks() if masks else None
    rows: list[tuple[int, int, float, bool, int]] = []
    boxes: list[list[float]] = []
    ids: list[Any] = []
    for position, annotation in enumerate(annotations):
        if type(annotation) is not dict:
            entries.check(position, annotation)
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if type(image_id) is not int:
            image_id = entries.id(position, annotation, "image_id")
        if type(category_id) is not int:
            category_id = entries.id(position, annotation, "category_id")
        if image_id not in known:
            entries.unknown(position, annotation, "image_id", known, "images")
        if category_id not in class_of:
            entries.unknown(position, annotation, "category_id", class_of, "categories")
        ids.append(annotation.get("id", "?"))
        if image_id not in index_of:
            continue
        box = annotation.get("bbox")
        if not is_box(box):
            entries.wrong(position, annotation, "bbox", BOX)
        area, crowd = entries.area_and_crowd(position, annotation, box[2] * box[3])
        index = index_of[image_id]
        if found is not None:
            try:
                found.add(annotation.get("segmentation"), ids[-1], box, sizes[index])
            except ValueError as error:
                entries.fault(position, annotation, f"segmentation: {error}")
        rows.append((index, class_of[category_id], area, crowd, position))
        boxes.append(box)
    image, number, areas, crowds, positions = zip(*rows, strict=True) if rows else [()] * 5
    return Columns(
        images=np.array(image, dtype=np.int64),
        classes=np.array(number, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        areas=np.array(areas, dtype=np.float64),
        crowds=np.array(crowds, dtype=np.uint8),
        positions=np.array(positions, dtype=np.int64),
        ids=ids,
        masks=found,
    )


@dataclass(frozen=True)
class Categories:
    """Ids in ascending order, their names, and the name of Roboflow's parent category where one was left out."""

    ids: list[int]
    names: list[str]
    parent: str | None


def read_categories(path: Path, categories: Sequence[Any], used: Iterable[Any]) -> Categories:
    """Check and read the categories.

    Args:
        used: those that annotations have.

    Raises:
        ValueError: an entry is wrong, or two are of one id or name.
    """
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
    parent = _roboflow_parent(categories, used)
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
    above = None if parent is None else str(categories[parent]["name"])
    return Categories(ids, [names[i] for i in ids], above)


def _roboflow_parent(categories: Sequence[Any], used: Iterable[Any]) -> int | None:
    """Where the category stands that Roboflow puts above a project's classes: id 0, no `supercategory` of its own,
    named as the others' `supercategory` (the project) or like one of them, and nothing is annotated with it."""
    for position, category in enumerate(categories):
        if category["id"] == 0 and category.get("supercategory") == "none":
            others = [other for i, other in enumerate(categories) if i != position]
            above = any(category["name"] in (other.get("supercategory"), other["name"]) for other in others)
            return position if above and 0 not in used else None
    return None


def present_images(
    path: Path, folder: Path, images: Iterable[Any], skip_missing: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """The images whose file exists, as id, file_name, height and width, and the names of those that are missing.

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
    there = exist(folder, [image["file_name"] for image in read.values()])
    present = [image for image, found in zip(read.values(), there, strict=True) if found]
    absent = [image["file_name"] for image, found in zip(read.values(), there, strict=True) if not found]
    if absent and not skip_missing:
        raise FileNotFoundError(
            f"{path}: {len(absent)} of {len(read)} images are not in {folder} "
            f"(first: {absent[0]}). Check the folder, or leave them out with --skip_bad_images true"
        )
    if not present:
        raise FileNotFoundError(f"{path}: none of its {len(read)} images is in {folder}")
    return present, absent


def ground_truth(dataset: DetectionDataset) -> dict[str, Any]:
    """The annotations as the file has them, for the images of this set; with masks, only the usable ones, each
    `segmentation` as compressed run lengths."""
    content = content_of(dataset)
    if isinstance(dataset.masks, InstanceMasks):
        content["annotations"] = [
            {
                **content["annotations"][dataset.positions[a]],
                "segmentation": as_json(dataset.masks.run_lengths(i, [a])[0]),
            }
            for i in range(len(dataset))
            for a in range(dataset.first[i], dataset.first[i + 1])
        ]
    return of_present_images(dataset, content)


def content_of(dataset: DetectionDataset) -> dict[str, Any]:
    """What a data set's file holds, without Roboflow's parent category."""
    content = read_json(dataset.annotation_file)
    content.setdefault("annotations", [])
    known = set(dataset.category_ids)
    content["categories"] = [category for category in content["categories"] if category["id"] in known]
    return content


def of_present_images(dataset: DetectionDataset, content: dict[str, Any]) -> dict[str, Any]:
    """Of a file's contents, the images of this set (others are missing, or of another split) and what is annotated in them."""
    if len(dataset) < len(content["images"]):
        kept = set(dataset.image_ids)
        content["images"] = [image for image in content["images"] if image["id"] in kept]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    return content


def find_split(root: Path, name: str) -> tuple[Path, Path] | None:
    """Annotation file and image folder of a split of this name: `COCO.layouts`, in their order, with any year, or none."""
    files = sorted(root.glob(f"annotations/instances_{name}[0-9][0-9][0-9][0-9].json"))
    for file in (*files, root / f"annotations/instances_{name}.json", root / f"annotations/{name}.json"):
        if file.is_file():
            return file, images_beside(root, file, file.stem.removeprefix("instances_"))
    roboflow = root / name / "_annotations.coco.json"
    return (roboflow, roboflow.parent) if roboflow.is_file() else None


def find(place: Path) -> Found | None:
    """A folder in one of the layouts, or with one file of all its images; or that file itself."""

    def files(split: str) -> tuple[Path, Path] | None:
        found = (find_split(place, name) for name in ALIASES.get(split, (split,)))
        return next((both for both in found if both is not None), None)

    splits = list(dict.fromkeys(map(said, _split_names(place)))) if place.is_dir() else []
    if splits:
        return Found(
            place, tuple(splits), lambda split, *rest: _read(*_there(place, split, files(split)), *rest), files
        )
    if (single := _single_file(place)) is None:
        return None
    return Found(
        single,
        (),
        lambda split, *rest: _read(single, _images_of(single), *rest),
        lambda split: None if split else (single, _images_of(single)),
    )


def _there(place: Path, split: str, files: tuple[Path, Path] | None) -> tuple[Path, Path]:
    if files is None:
        raise FileNotFoundError(f"{place} has no split {split!r}")
    return files


def _split_names(root: Path) -> Iterator[str]:
    for file in sorted(root.glob("annotations/*.json")):
        if json_kind(file) not in (COCO_JSON, ""):
            continue
        name = re.fullmatch(r"(instances_)?(.+?)(\d{4})?", file.stem)
        if (
            name
            and (name[1] or any(file.stem in names for names in ALIASES.values()))
            and file.stem != "instances_default"
        ):
            yield name[2]
    for folder in split_folders(root).values():
        if (folder / "_annotations.coco.json").is_file():
            yield folder.name


def _single_file(place: Path) -> Path | None:
    """The one COCO file of a folder, or of its annotations/: its only JSON file, or the only that begins like one."""
    if place.is_file():
        return place if place.suffix == ".json" and json_kind(place) == COCO_JSON else None
    for folder in (place, place / "annotations"):
        found = [file for file in sorted(folder.glob("*.json"))[:MOST_FILES] if json_kind(file) == COCO_JSON]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:4])
            raise ValueError(
                f"{folder} holds {len(found)} COCO files, {names}, and none is called like a split: name the one of each "
                "split train.json and val.json, or give --train_annotations, --train_images, --val_annotations and --val_images"
            )
    return None


def _images_of(file: Path) -> Path:
    """The folder of a single file's images: the first in which the first image is, else `images/` or its own folder."""
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    places = [root / "images", root / "images" / "default", root / file.stem, root, file.parent]
    with open(file, encoding="utf-8", errors="replace") as text:
        name = re.search(r'"file_name"\s*:\s*"([^"\\]+)"', text.read(2**20))
    there = [place for place in places if name is not None and (place / name[1]).is_file()]
    return (there or [place for place in places if place.is_dir()])[0]


def _read(annotations: str | Path, images: str | Path, task: Task, skip_missing_images: bool) -> DetectionDataset:
    path, folder, masks = Path(annotations), Path(images), task == "instance"
    return indexed(
        path,
        folder,
        None,
        masks,
        skip_missing_images,
        lambda: read_coco(path, folder, skip_missing_images, masks),
        ground_truth=ground_truth,
    )


COCO = Format(
    name="COCO",
    tasks=("detection", "instance"),
    layouts=(
        "annotations/instances_{split}2017.json (with images/{split}2017/)",
        "annotations/{split}.json (with images/{split}/)",
        "{split}/_annotations.coco.json",
    ),
    find=find,
    is_of=lambda annotations, task: True,  # what is no other's; it is said what is wrong with it
    read=_read,
)
