"""A COCO file entry by entry: every fault is counted, where the reader stops at the first, and what is right, or can be
put right, is read all the same, so that the rest can be looked at, too.

hotcoco's `healthcheck` (1.3) finds repeated and unknown ids; it reads nothing where a number is text, says no entries'
places, and opens no pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...messages import is_text, shown
from ..check import header_sizes
from ..dataset import DetectionDataset
from ..formats.coco import ground_truth, index_annotations, read_content
from ..formats.entries import LARGEST_PICTURE, LARGEST_SIDE, NUMBERS, is_box
from ..formats.image_files import exist
from .findings import Example, Findings

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


def read_coco_leniently(path: Path, folder: Path, masks: bool, found: Findings) -> DetectionDataset:
    """What can be read of a COCO file, with its faults added to `found`.

    Raises:
        OSError, ValueError: nothing can be read.
    """
    content = read_content(path, folder)
    faults = _Faults(found)
    images = _images(content["images"], folder, faults)
    categories, category_of = _categories(content["categories"], faults)
    annotations = _annotations(content["annotations"], images, category_of, faults)
    there = exist(folder, [image["file_name"] for image in images])
    absent = [image["file_name"] for image, is_there in zip(images, there, strict=True) if not is_there]
    found.add_all("missing_pictures", (Example("", name) for name in absent), len(absent), len(images))
    present = [image for image, is_there in zip(images, there, strict=True) if is_there]
    if not present:
        raise FileNotFoundError(f"{path}: none of its {len(images)} images is in {folder}")
    content = {"images": images, "annotations": annotations, "categories": categories}
    return index_annotations(path, folder, content, present, absent, masks, ground_truth)


class _Faults:
    """Findings about entries: `annotations[3] (id 4): bbox is …`."""

    def __init__(self, found: Findings) -> None:
        self.found = found

    def add(self, name: str, place: tuple[str, int], entry: Any, what: str, file_name: str = "") -> None:
        if not self.found.wants_example(name):
            self.found.add(name)
            return
        number = f" (id {shown(entry['id'])})" if isinstance(entry, dict) and "id" in entry else ""
        self.found.add(name, Example(f"{place[0]}[{place[1]}]{number}: {what}", file_name))

    def objects(self, kind: str, entries: Iterable[Any]) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
        """The entries that are objects with fields, each with its place; others are counted."""
        for position, entry in enumerate(entries):
            if type(entry) is dict:
                yield (kind, position), entry
            else:
                self.add(
                    "broken_entries", (kind, position), entry, f"is {shown(entry)}; expected an object with fields"
                )

    def field(self, name: str, place: tuple[str, int], entry: dict[str, Any], field: str, file_name: str = "") -> None:
        """Count a fault of one field."""
        what = f"{field} is {shown(entry[field])}" if field in entry else f"{field} is missing"
        self.add(name, place, entry, what, file_name)


def _as_number(value: Any) -> int | float | None:
    """The number that a text is, a whole one where it can; None where it is none."""
    if type(value) is not str or not _NUMBER.fullmatch(value) or len(value) > 40:
        return None
    number = float(value)
    return int(number) if number.is_integer() else number


def _id(value: Any) -> Any:
    """An id as the reader has it: 1.0 is 1; None where it is none."""
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) in (int, str) else None


def _known(value: Any, known: Any) -> tuple[Any, bool]:
    """The id of `known` that a value means, or None; and whether one is a number and the other text."""
    number = _id(value)
    if number is None or number in known:
        return number, False
    other = _as_number(number) if type(number) is str else str(number)
    return (other, True) if other in known else (None, False)


def _images(entries: Iterable[Any], folder: Path, faults: _Faults) -> list[dict[str, Any]]:
    """id, file_name, height and width of the images that have them."""
    read: dict[Any, dict[str, Any]] = {}
    names: set[str] = set()
    for place, entry in faults.objects("images", entries):
        name, number = entry.get("file_name"), _id(entry.get("id"))
        if type(name) is not str or not name or "\0" in name or not is_text(name):
            faults.field("broken_entries", place, entry, "file_name")
            continue
        if number is None:
            faults.field("missing_ids", place, entry, "id", name)
            continue
        if number in read:
            what = f"{read[number]['file_name']} has the id {shown(number)}, too"
            faults.add("repeated_image_ids", place, entry, what, name)
            continue
        size = _size(place, entry, folder / name, faults)
        if size is None:
            continue
        if name in names:
            faults.add("repeated_file_names", place, entry, "is listed before", name)
        names.add(name)
        read[number] = {"id": number, "file_name": name, "height": size[0], "width": size[1]}
    return list(read.values())


def _size(place: tuple[str, int], entry: dict[str, Any], picture: Path, faults: _Faults) -> tuple[int, int] | None:
    """Height and width, those of the picture where the entry has none that can be."""
    sides: list[int] = []
    for field in ("height", "width"):
        value: Any = entry.get(field)
        if (number := _as_number(value)) is not None:
            faults.field("strings_for_numbers", place, entry, field, entry["file_name"])
            value = number
        if type(value) not in NUMBERS or not 1 <= value <= LARGEST_SIDE or value != int(value):
            faults.field("broken_entries", place, entry, field, entry["file_name"])
            found = header_sizes(picture)
            return None if found is None else found[0]
        sides.append(int(value))
    if sides[0] * sides[1] >= LARGEST_PICTURE:
        faults.add("broken_entries", place, entry, f"width × height is {sides[1]} × {sides[0]}", entry["file_name"])
        return None
    return sides[0], sides[1]


def _categories(entries: Iterable[Any], faults: _Faults) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The categories, and for each id the one that its annotations get: of two called alike the first."""
    read: dict[int, dict[str, Any]] = {}
    category_of: dict[int, int] = {}
    by_name: dict[str, int] = {}
    for place, entry in faults.objects("categories", entries):
        number = _id(entry.get("id"))
        if (meant := _as_number(number)) is not None:
            faults.field("strings_for_numbers", place, entry, "id")
            number = meant
        if type(number) is not int:
            faults.field("missing_ids", place, entry, "id")
            continue
        name = entry.get("name")
        if type(name) not in (str, int):
            faults.field("broken_entries", place, entry, "name")
            name = f"category {number}"
        name = str(name)
        if number in category_of:
            faults.add("repeated_category_ids", place, entry, f"{name!r} has the id of another category")
            continue
        if name in by_name:
            faults.add("repeated_category_names", place, entry, f"{name!r} is the name of another category")
            category_of[number] = by_name[name]
            continue
        by_name[name] = category_of[number] = number
        read[number] = {**entry, "id": number, "name": name}
    return list(read.values()), category_of


def _annotations(
    entries: Iterable[Any], images: list[dict[str, Any]], category_of: dict[int, int], faults: _Faults
) -> list[dict[str, Any]]:
    """The annotations that have an image, a category and a box."""
    name_of = {image["id"]: image["file_name"] for image in images}
    size_of = {image["id"]: (image["width"], image["height"]) for image in images}
    seen: set[Any] = set()
    read: list[dict[str, Any]] = []
    for place, entry in faults.objects("annotations", entries):
        number = _id(entry.get("id"))
        if number is not None:
            if number in seen:
                faults.field("repeated_annotation_ids", place, entry, "id", name_of.get(_id(entry.get("image_id")), ""))
            seen.add(number)
        if (changed := _meant(place, entry, name_of, category_of, faults)) is not None:
            read.append({**entry, **changed} if changed else entry)
            image = read[-1]["image_id"]
            if kind := _edge_fault(read[-1]["bbox"], *size_of[image]):
                what = (
                    f"bbox is {shown(read[-1]['bbox'])} in an image of {size_of[image][0]} × {size_of[image][1]} pixels"
                )
                faults.add(kind, place, entry, what, name_of[image])
    return read


def _edge_fault(box: list[float], width: int, height: int) -> str:
    """What `index_annotations` leaves out, or cuts."""
    x, y, w, h = box
    if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        return "empty_boxes"
    return "boxes_outside" if x < -0.5 or y < -0.5 or x + w > width + 0.5 or y + h > height + 0.5 else ""


def _meant(
    place: tuple[str, int], entry: dict[str, Any], name_of: dict[Any, str], category_of: dict[int, int], faults: _Faults
) -> dict[str, Any] | None:
    """The fields of an annotation that are not what they should be, as they are meant; None where that is not known."""
    changed: dict[str, Any] = {}
    for field, known in (("image_id", name_of), ("category_id", category_of)):
        number, as_other_kind = _known(entry.get(field), known)
        if number is None:
            missing = _id(entry.get(field)) is None
            file_name = "" if field == "image_id" else name_of.get(changed.get("image_id", entry.get("image_id")), "")
            faults.field("missing_ids" if missing else "unknown_ids", place, entry, field, file_name)
            return None
        if as_other_kind:
            faults.field("strings_for_numbers", place, entry, field, name_of[number] if field == "image_id" else "")
        if number != entry[field] or as_other_kind:
            changed[field] = number
    category = changed.get("category_id", entry["category_id"])
    if category_of[category] != category:
        changed["category_id"] = category_of[category]
    file_name = name_of[changed.get("image_id", entry["image_id"])]
    box = entry.get("bbox")
    if not is_box(box):
        numbers = [_as_number(side) if type(side) is str else side for side in box] if type(box) is list else box
        if not is_box(numbers):
            faults.field("broken_boxes", place, entry, "bbox", file_name)
            return None
        faults.field("strings_for_numbers", place, entry, "bbox", file_name)
        changed["bbox"] = numbers
    area, crowd = entry.get("area"), entry.get("iscrowd")
    if area is not None and type(area) not in NUMBERS:
        meant = _as_number(area)
        faults.field("broken_entries" if meant is None else "strings_for_numbers", place, entry, "area", file_name)
        changed["area"] = meant
    elif area is not None and not abs(area) <= 1e18:
        faults.field("broken_entries", place, entry, "area", file_name)
        changed["area"] = None
    if crowd is not None and crowd != 0 and crowd != 1:
        meant = _as_number(crowd)
        kind = "strings_for_numbers" if meant in (0, 1) else "broken_entries"
        faults.field(kind, place, entry, "iscrowd", file_name)
        changed["iscrowd"] = meant if meant in (0, 1) else 0
    return changed
