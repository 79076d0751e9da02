"""Panoptic data sets in COCO's form: a JSON file of segments, and a PNG file an image that colours them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .coco import CocoDataset, exist, index_annotations, listed_briefly, present_images, read_content
from .masks import PanopticMasks, read_segment_map, segment_boxes


def read_panoptic(
    annotation_file: str | Path,
    image_folder: str | Path,
    png_folder: str | Path | None = None,
    skip_missing_images: bool = False,
    masks: bool = True,
) -> CocoDataset:
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
    try:
        entries = {entry["image_id"]: entry for entry in content["annotations"]}
        if len(entries) < len(content["annotations"]):
            raise ValueError(f"{path}: two entries of 'annotations' are of the same image")
        images, missing = present_images(path, folder, content["images"], skip_missing_images)
        images, without_png = _with_png(path, pngs, images, entries, skip_missing_images)
        segments = _segments(path, pngs, images, entries.values())
        dataset = index_annotations(
            path, folder, {**content, "annotations": segments}, images, missing + without_png, masks=False
        )
        thing = {category["id"]: bool(category["isthing"]) for category in content["categories"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not COCO's panoptic JSON: an entry lacks or misuses the field {error}") from None
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


def _segments(
    path: Path, pngs: Path, images: Sequence[dict[str, Any]], entries: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """All segments in one list, as annotations of a detection file; missing boxes measured."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    segments = []
    for entry in entries:
        own, image = entry["segments_info"], entry["image_id"]
        ids = [segment["id"] for segment in own]
        if len(set(ids)) < len(ids) or not all(isinstance(i, int) and 0 < i < 2**24 for i in ids):
            raise ValueError(
                f"{path}: the segments of image {image} have the ids {listed_briefly(ids)}; "
                f"they must be different numbers in 1…{2**24 - 1}"
            )
        boxes = [segment.get("bbox") for segment in own]
        if image in sizes and not all(box and box[2] > 0 and box[3] > 0 for box in boxes):
            boxes = segment_boxes(read_segment_map(pngs / entry["file_name"], ids, *sizes[image]), len(ids))
        segments += [
            {**segment, "id": f"{number} of image {image}", "segment_id": number, "image_id": image, "bbox": box}
            for segment, number, box in zip(own, ids, boxes, strict=True)
        ]
    return segments


def _with_png(
    path: Path, pngs: Path, images: list[dict[str, Any]], entries: dict[int, dict[str, Any]], skip_missing: bool
) -> tuple[list[dict[str, Any]], int]:
    """The images whose PNG file exists and has their size, and how many are without."""
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
        if (found := _size(file)) == size:
            fitting.append(image)
        elif not skip_missing:
            what = "is not a readable image" if found is None else f"has {found[0]}×{found[1]} pixels"
            raise ValueError(
                f"{file} {what}; image {image['id']} has {size[0]}×{size[1]} in {path}. "
                "Repair it, or leave such images out with --skip_bad_images true"
            )
    return fitting, len(images) - len(fitting)


def _size(file: Path) -> tuple[int, int] | None:
    """Height and width by the file's header."""
    try:
        with Image.open(file) as picture:
            return picture.height, picture.width
    except (OSError, SyntaxError):
        return None
