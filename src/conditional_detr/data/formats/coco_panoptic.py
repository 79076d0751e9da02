"""Panoptic data sets in COCO's form: a JSON file of segments, and a PNG file an image that colours them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...config import Task
from ...files import read_json
from ...messages import listed_briefly, shown
from ..check import header_sizes
from ..dataset import DetectionDataset, Id
from ..object_masks import PanopticMasks, read_segment_map, segment_boxes
from .coco import content_of, index_annotations, of_present_images, present_images, read_content
from .entries import BOX, Entries, is_box
from .format import ALIASES, Format, Found, images_beside, said
from .image_files import exist
from .index import indexed


def read_panoptic(
    annotation_file: str | Path,
    image_folder: str | Path,
    png_folder: str | Path | None = None,
    skip_missing_images: bool = False,
    masks: bool = True,
) -> DetectionDataset:
    """Read and check a COCO panoptic file. PNG files are opened later, when a sample is loaded.

    Only where a segment of the JSON has no `bbox` are its image's PNG file opened here and the boxes measured, in a few
    milliseconds an image; COCO's files have them.

    Args:
        png_folder: of the PNG files; None: `find_png_folder`.
        masks: False reads the boxes of things and stuff alone, to train a detector on, as the papers do before masks.

    Raises:
        FileNotFoundError: files or folders or (unless they are skipped) images or PNG files are missing.
        ValueError: as `read_coco`; a segment id twice in one image.
    """
    path, folder = Path(annotation_file), Path(image_folder)
    content = read_content(path, folder)
    pngs = Path(png_folder) if png_folder else find_png_folder(path)
    if not pngs.is_dir():
        raise FileNotFoundError(f"folder of panoptic PNG files {pngs} does not exist")
    images, missing = present_images(path, folder, content["images"], skip_missing_images)
    all_ids = {image["id"]: image for image in content["images"]}
    thing = _things(path, content["categories"])
    entries = _entries(path, content["annotations"], all_ids)
    images, without_png = _with_png(path, pngs, images, entries, skip_missing_images)
    segments = _segments(path, pngs, images, entries, thing)
    dataset = index_annotations(
        path,
        folder,
        {**content, "annotations": segments},
        images,
        missing + without_png,
        masks=False,
        ground_truth=ground_truth,
    )
    dataset.panoptic_truth = panoptic_truth
    if not masks:
        return dataset
    dataset.is_thing = [thing[number] for number in dataset.category_ids]
    dataset.masks = PanopticMasks(
        sizes=dataset.sizes,
        folder=pngs,
        file_names=[entries[number]["file_name"] for number in dataset.image_ids],
        first=dataset.first,
        segment_ids=np.array([segment["segment_id"] for segment in segments], dtype=np.int64)[dataset.positions],
    )
    return dataset


def find_png_folder(annotation_file: str | Path) -> Path:
    """The folder of a panoptic JSON file's PNG files, for `annotations/panoptic_val2017.json`: `panoptic_val2017/` beside
    it (COCO's) or one level up, or `panoptic/val2017/` one level up (the generated scenes').

    Raises:
        FileNotFoundError: none of them exists.
    """
    file = Path(annotation_file)
    root = file.parent.parent
    places = (file.with_suffix(""), root / file.stem, root / "panoptic" / file.stem.removeprefix("panoptic_"))
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"{file} is there, its PNG files are not: none of {', '.join(map(str, places))} exists")


def _things(path: Path, categories: Sequence[Any]) -> dict[Id, bool]:
    """Which categories are things, not stuff."""
    entries = Entries(path, "categories")
    thing = {}
    for position, category in enumerate(categories):
        entries.check(position, category)
        thing[entries.id(position, category, "id")] = entries.flag(position, category, "isthing")
    return thing


def _entries(path: Path, rows: Sequence[Any], image_ids: dict[Id, Any]) -> dict[Id, dict[str, Any]]:
    """The entries of 'annotations' by their image, each with its position."""
    entries = Entries(path, "annotations")
    found: dict[Id, dict[str, Any]] = {}
    for position, row in enumerate(rows):
        entries.check(position, row)
        image = entries.id(position, row, "image_id")
        if image not in image_ids:
            entries.unknown(position, row, "image_id", image_ids, "images")
        if image in found:
            entries.fault(position, row, f"image_id: two entries are of the same image {shown(image)}")
        name = entries.text(position, row, "file_name")
        if type(row.get("segments_info")) is not list:
            entries.wrong(position, row, "segments_info", "a list of segments")
        found[image] = {"file_name": name, "segments_info": row["segments_info"], "position": position}
    return found


def _segments(
    path: Path,
    pngs: Path,
    images: Sequence[dict[str, Any]],
    rows: dict[Id, dict[str, Any]],
    thing: dict[Id, bool],
) -> list[dict[str, Any]]:
    """All segments in one list, as annotations of a detection file; missing boxes measured."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    segments = []
    for image, row in rows.items():
        entries = Entries(path, f"annotations[{row['position']}].segments_info")
        own, ids, boxes, more = row["segments_info"], [], [], []
        for position, segment in enumerate(own):
            entries.check(position, segment)
            number, box = segment.get("id"), segment.get("bbox")
            if type(number) is not int or not 0 < number < 2**24:
                entries.wrong(position, segment, "id", f"a whole number, 1…{2**24 - 1}")
            category = entries.id(position, segment, "category_id")
            if category not in thing:
                entries.unknown(position, segment, "category_id", thing, "categories")
            if box and not is_box(box):
                entries.wrong(position, segment, "bbox", BOX)
            area, crowd = entries.area_and_crowd(position, segment, 0)
            ids.append(number)
            boxes.append(box)
            more.append({"category_id": category, "iscrowd": crowd} | ({"area": area} if "area" in segment else {}))
        if len(set(ids)) < len(ids):
            raise ValueError(
                f"{path}: the segments of image {shown(image)} (annotations[{row['position']}]) have the ids "
                f"{listed_briefly(ids)}; they must be different numbers"
            )
        if image in sizes and not all(box and box[2] > 0 and box[3] > 0 for box in boxes):
            boxes = segment_boxes(read_segment_map(pngs / row["file_name"], ids, *sizes[image]), len(ids))
        name = shown(image)
        segments += [
            {**rest, "id": f"{number} of image {name}", "segment_id": number, "image_id": image, "bbox": box}
            for rest, number, box in zip(more, ids, boxes, strict=True)
        ]
    return segments


def _with_png(
    path: Path, pngs: Path, images: list[dict[str, Any]], entries: dict[Id, dict[str, Any]], skip_missing: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """The images whose PNG file exists and has their size, and the names of those without."""
    listed = [image for image in images if image["id"] in entries]
    there = exist(pngs, [entries[image["id"]]["file_name"] for image in listed])
    present = [image for image, found in zip(listed, there, strict=True) if found]
    found_ids = {image["id"] for image in present}
    absent = [image["id"] for image in images if image["id"] not in found_ids]
    if absent and not (skip_missing and present):
        name = entries[absent[0]]["file_name"] if absent[0] in entries else "not even named in 'annotations'"
        raise FileNotFoundError(
            f"{path}: {len(absent)} of {len(images)} images have no PNG file in {pngs} (first: image {absent[0]}, {name}). "
            "Check the folder, or leave them out with --skip_bad_images true"
        )
    fitting = []
    for image in present:
        file, size = pngs / entries[image["id"]]["file_name"], (image["height"], image["width"])
        if (found := (header_sizes(file) or (None, None))[1]) == size:
            fitting.append(image)
        elif not skip_missing:
            what = "is not a readable image" if found is None else f"has {found[0]}×{found[1]} pixels"
            raise ValueError(
                f"{file} {what}; image {image['id']} has {size[0]}×{size[1]} in {path}. "
                "Repair it, or leave such images out with --skip_bad_images true"
            )
    ids = {image["id"] for image in fitting}
    return fitting, [image["file_name"] for image in images if image["id"] not in ids]


def ground_truth(dataset: DetectionDataset) -> dict[str, Any]:
    """The things alone, numbered anew, with masks from the PNG files; read without masks, the boxes of things and stuff."""
    content = content_of(dataset)
    if dataset.is_thing is None:
        content["annotations"] = dataset.annotations()
        return of_present_images(dataset, content)
    things = {number for number, thing in zip(dataset.category_ids, dataset.is_thing, strict=True) if thing}
    content["categories"] = [category for category in content["categories"] if category["id"] in things]
    content["annotations"] = dataset.thing_annotations
    return of_present_images(dataset, content)


def panoptic_truth(dataset: DetectionDataset) -> dict[str, Any]:
    """The file's contents."""
    return of_present_images(dataset, read_json(dataset.annotation_file))


def find_split(root: Path, name: str) -> tuple[Path, Path] | None:
    """Annotation file and image folder of a split of this name; `find_png_folder` finds the PNG files."""
    files = sorted(root.glob(f"annotations/panoptic_{name}[0-9][0-9][0-9][0-9].json"))
    for file in (*files, root / f"annotations/panoptic_{name}.json"):
        if file.is_file():
            return file, images_beside(root, file, file.stem.removeprefix("panoptic_"))
    return None


def find(place: Path) -> Found | None:
    """A folder in one of the layouts."""

    def files(split: str) -> tuple[Path, Path] | None:
        found = (find_split(place, name) for name in ALIASES.get(split, (split,)))
        return next((both for both in found if both is not None), None)

    def read(split: str, task: Task, skip_bad: bool) -> DetectionDataset:
        both = files(split)
        assert both is not None, "asked for a split that was not found"
        return _read(*both, task, skip_bad)

    stems = [file.stem.removeprefix("panoptic_") for file in sorted(place.glob("annotations/panoptic_*.json"))]
    splits = dict.fromkeys(said(re.sub(r"\d{4}$", "", stem)) for stem in stems)
    return Found(place, tuple(splits), read, files) if splits else None


def _read(annotations: str | Path, images: str | Path, task: Task, skip_missing_images: bool) -> DetectionDataset:
    path, folder, masks = Path(annotations), Path(images), task == "panoptic"
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} does not exist")
    pngs = find_png_folder(path)
    return indexed(
        path, folder, pngs, masks, skip_missing_images,
        lambda: read_panoptic(path, folder, pngs, skip_missing_images, masks),
        ground_truth=ground_truth, panoptic_truth=panoptic_truth,
    )  # fmt: skip


COCO_PANOPTIC = Format(
    name="COCO panoptic",
    tasks=("panoptic",),
    layouts=(
        "annotations/panoptic_{split}2017.json (with images/{split}2017/)",
        "annotations/panoptic_{split}.json (with images/{split}/)",
    ),
    find=find,
    is_of=lambda annotations, task: (
        task == "panoptic" or (task == "detection" and annotations.name.startswith("panoptic_"))
    ),
    read=_read,
)
