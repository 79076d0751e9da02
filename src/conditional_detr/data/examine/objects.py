"""Boxes, classes and numbers of objects of a split that has been read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...images.sizes import output_size
from ..check import MOST_OBJECTS
from ..dataset import DetectionDataset
from .findings import HARMS, KNOW, Example, Findings

SAME_PLACE = 0.95  # IoU from which two boxes are at the same place; hotcoco's `healthcheck` has it, too
MOST_COMPARED = 3000  # boxes of one image that are compared with each other; of more, only equal ones are found
LONGEST_BOX, LONGEST_PICTURE = 20.0, 4.0  # of ratios of sides
WHOLE = 0.99  # share of its image that a box covers
RARE = 10  # objects
MUCH = 0.05  # share of boxes from which on a fault is the data's form, not a slip


@dataclass(frozen=True)
class Seen:
    """How a model sees pictures: short and longest side in pixels, pixels of a cell, and how many objects it can find."""

    image_size: int = 800
    max_size: int = 1333
    stride: int = 32
    num_queries: int = 300

    def scale(self, height: int, width: int) -> float:
        """By which a picture of this size is made larger."""
        return output_size(height, width, self.image_size, self.max_size)[0] / height


def image_of_rows(data: DetectionDataset) -> np.ndarray:
    """The image that each box is of. (A,)"""
    return np.repeat(np.arange(len(data)), np.diff(data.first))


def check_objects(data: DetectionDataset, split: str, seen: Seen, found: Findings) -> None:
    """Everything about boxes, classes and numbers of objects that needs no picture."""
    if not len(data.boxes):
        if split in ("", "train"):
            found.add("no_objects", Example(str(data.annotation_file)))
        return
    _check_form(data, split, found)
    _check_left_out(data, split, found)
    _check_places(data, split, found)
    _check_shapes(data, split, found)
    _check_sizes(data, split, seen, found)
    _check_numbers(data, split, seen, found)
    _check_classes(data, found)


def _examples(data: DetectionDataset, split: str, rows: np.ndarray) -> Iterator[Example]:
    """One of each of these boxes: of different images first, since they tell more."""
    image = image_of_rows(data)
    _, firsts = np.unique(image[rows], return_index=True)
    others = np.setdiff1d(np.arange(len(rows)), firsts)
    for row in rows[np.concatenate([firsts, others])].tolist():
        yield _example(data, split, int(image[row]), [row], _words(data, row))


def _example(data: DetectionDataset, split: str, image: int, rows: Sequence[int], words: str) -> Example:
    return Example(words, data.file_names[image], split, image, tuple(rows))


def _words(data: DetectionDataset, row: int) -> str:
    x0, y0, x1, y1 = data.boxes[row].tolist()
    return f"{data.category_names[data.classes[row]]} at {x0:.5g}, {y0:.5g}, {x1 - x0:.4g} × {y1 - y0:.4g} pixels"


def _check_form(data: DetectionDataset, split: str, found: Findings) -> None:
    """Boxes of another form than x, y, width, height in pixels."""
    whole = len(data.boxes) + len(data.dropped)
    names = {"xyxy": "corner_boxes", "centre": "centre_boxes", "exchanged": "exchanged_boxes"}
    if data.box_form in names:
        rows = np.arange(len(data.boxes))
        found.add_all(names[data.box_form], _examples(data, split, rows), whole, whole)
        return
    size = data.sizes[image_of_rows(data)]
    within_one = (data.boxes[:, 2:] <= 1).all(1) & (size.min(1) > 2) & (data.boxes != np.round(data.boxes)).any(1)
    if data.box_form == "normalised":  # those of which x + width is above 1 as well
        within_one |= (data.boxes[:, 2:] <= 2).all(1) & (size.min(1) > 2)
    rows = np.flatnonzero(within_one)
    found.add_all("normalised_boxes", _examples(data, split, rows), len(rows), whole)
    if (finding := found.get("normalised_boxes")) and len(rows) < MUCH * whole:
        finding.severity = HARMS


def _check_left_out(data: DetectionDataset, split: str, found: Findings) -> None:
    """What the reader counted. Faults of a COCO file's entries have been found with it."""
    whole = len(data.boxes) + len(data.dropped)
    for name, count, places in (("empty_boxes", len(data.dropped), data.dropped), ("boxes_outside", data.clipped, ())):
        if (finding := found.get(name)) is not None:
            finding.of = whole
        else:
            found.add_all(name, (Example(str(place)) for place in places), count, whole)
    finding = found.get("boxes_outside")
    if finding is not None and not finding.examples:
        found.get("boxes_outside").examples.extend(_at_edges(data, split))  # type: ignore[union-attr]
    for name, left_out in (("maskless_objects", data.maskless), ("short_polygons", data.short_polygons)):
        found.add_all(name, (Example(f"annotation {place}") for place in left_out), len(left_out), whole)
    crowds = np.flatnonzero(data.crowds)
    found.add_all("crowd_regions", _examples(data, split, crowds), len(crowds), len(data.boxes))


def _at_edges(data: DetectionDataset, split: str) -> Iterator[Example]:
    """Boxes that end at an edge of their image: those that were cut are among them."""
    size = data.sizes[image_of_rows(data)]
    at_edge = (data.boxes[:, :2] == 0).any(1) | (data.boxes[:, 2:] == size[:, ::-1]).any(1)
    for example, _ in zip(_examples(data, split, np.flatnonzero(at_edge)), range(3), strict=False):
        example.words += " (cut, or drawn to the edge)"
        yield example


def _check_places(data: DetectionDataset, split: str, found: Findings) -> None:
    """Boxes at the same place, of one class or of two; stuff of panoptic data may well be."""
    same: list[tuple[int, int]] = []
    other: list[tuple[int, int]] = []
    thing = np.ones(len(data.category_ids), dtype=bool) if data.is_thing is None else np.array(data.is_thing)
    for image in np.flatnonzero(np.diff(data.first) > 1).tolist():
        low, high = int(data.first[image]), int(data.first[image + 1])
        boxes, classes = data.boxes[low:high].astype(np.float64), data.classes[low:high]
        if high - low > MOST_COMPARED:
            _, first, back = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
            earlier = first[back.reshape(-1)]
            later = np.flatnonzero(earlier != np.arange(high - low))
            pairs = np.stack([earlier[later], later], axis=1)
        else:
            pairs = _overlapping(boxes)
        for one, two in pairs[thing[classes[pairs]].all(1)].tolist():
            (same if classes[one] == classes[two] else other).append((low + one, low + two))
    image_of = image_of_rows(data) if same or other else None
    for name, pairs_of in (("repeated_boxes", same), ("contradicting_boxes", other)):
        later_rows = {two for _, two in pairs_of}

        def examples(pairs_of: list[tuple[int, int]] = pairs_of) -> Iterator[Example]:
            assert image_of is not None
            for one, two in pairs_of:
                words = f"{_words(data, one)}, and {_words(data, two)}"
                yield _example(data, split, int(image_of[one]), [one, two], words)

        found.add_all(name, examples(), len(later_rows), len(data.boxes), f"IoU above {SAME_PLACE}")


def _overlapping(boxes: np.ndarray) -> np.ndarray:
    """Pairs (i, j), i < j, of boxes whose IoU is above `SAME_PLACE`. (P, 2)"""
    # Sorted by their left edge, a box at the same place is near: its edge is at most 5 % of the width away.
    order = np.argsort(boxes[:, 0], kind="stable")
    ordered = boxes[order]
    ends = np.searchsorted(ordered[:, 0], ordered[:, 0] + (1 - SAME_PLACE) * (ordered[:, 2] - ordered[:, 0]), "right")
    counts = ends - np.arange(len(boxes)) - 1
    if not counts.any():
        return np.zeros((0, 2), dtype=np.int64)
    left = np.repeat(np.arange(len(boxes)), counts)
    right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
    a, b = ordered[left], ordered[right]
    inner = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    hits = inner > SAME_PLACE * union
    return np.sort(np.stack([order[left[hits]], order[right[hits]]], axis=1), axis=1)


def _check_shapes(data: DetectionDataset, split: str, found: Findings) -> None:
    sides = data.boxes[:, 2:] - data.boxes[:, :2]
    long = np.flatnonzero(sides.max(1) > LONGEST_BOX * np.maximum(sides.min(1), 1e-6))
    found.add_all("extreme_boxes", _examples(data, split, long), len(long), len(data.boxes))
    covered = sides.prod(1) / data.sizes[image_of_rows(data)].prod(1)
    thing = np.ones(len(data.boxes), dtype=bool) if data.is_thing is None else np.array(data.is_thing)[data.classes]
    whole = np.flatnonzero((covered >= WHOLE) & ~data.crowds & thing)
    found.add_all("whole_image_boxes", _examples(data, split, whole), len(whole), len(data.boxes))
    thin = np.flatnonzero(data.sizes.max(1) > LONGEST_PICTURE * data.sizes.min(1))
    examples = (_example(data, split, i, [], f"{data.sizes[i][1]} × {data.sizes[i][0]} pixels") for i in thin.tolist())
    found.add_all("extreme_pictures", examples, len(thin), len(data))


def scales(data: DetectionDataset, seen: Seen) -> np.ndarray:
    """By which each image is made larger. (N,)"""
    sizes, back = np.unique(data.sizes, axis=0, return_inverse=True)
    factors = np.array([seen.scale(*size) for size in sizes.tolist()])
    return factors[back.reshape(-1)]


def longest_sides(data: DetectionDataset, seen: Seen) -> np.ndarray:
    """The longer side of each box in pixels of what the model sees. (A,)"""
    return (data.boxes[:, 2:] - data.boxes[:, :2]).max(1) * scales(data, seen)[image_of_rows(data)]


def _check_sizes(data: DetectionDataset, split: str, seen: Seen, found: Findings) -> None:
    if data.box_form is not None or found.get("normalised_boxes"):
        return  # they are of no size yet
    small = np.flatnonzero((longest_sides(data, seen) < seen.stride) & ~data.crowds)
    rule = f"both sides below {seen.stride} pixels once the short side of the picture is {seen.image_size}"
    found.add_all("small_objects", _examples(data, split, small), len(small), int((~data.crowds).sum()), rule)
    if (finding := found.get("small_objects")) and len(small) <= MUCH * (~data.crowds).sum():
        finding.severity = KNOW


def _check_numbers(data: DetectionDataset, split: str, seen: Seen, found: Findings) -> None:
    objects = data.objects_per_image()
    for i in np.flatnonzero(np.diff(data.first) > MOST_OBJECTS).tolist():
        found.add("overfull_images", Example(f"{data.first[i + 1] - data.first[i]:,} objects", data.file_names[i]))
    crowded = np.flatnonzero(objects > seen.num_queries)
    crowded = crowded[np.argsort(-objects[crowded], kind="stable")]
    examples = (_example(data, split, i, [], f"{objects[i]} objects") for i in crowded.tolist())
    found.add_all("crowded_images", examples, len(crowded), len(data), f"more than {seen.num_queries} queries")
    empty = np.flatnonzero(objects == 0)
    examples = (_example(data, split, i, [], "") for i in empty.tolist())
    found.add_all("images_without_objects", examples, len(empty), len(data))


def _check_classes(data: DetectionDataset, found: Findings) -> None:
    counts = class_counts(data)
    for name, few in (("empty_classes", counts == 0), ("rare_classes", (counts > 0) & (counts < RARE))):
        named = (Example(f"{data.category_names[c]} ({counts[c]})") for c in np.flatnonzero(few).tolist())
        found.add_all(name, named, int(few.sum()), len(counts))


def class_counts(data: DetectionDataset) -> np.ndarray:
    """Objects of each class, crowds left out. (C,)"""
    return np.bincount(data.classes[~data.crowds], minlength=len(data.category_ids))


def check_splits(sets: dict[str, DetectionDataset], found: Findings) -> None:
    """What splits must have in common: their categories, and something to learn them from."""
    names = list(sets)
    if len(names) < 2:
        return
    first = names[0]
    ours = dict(zip(sets[first].category_ids, sets[first].category_names, strict=True))
    for other in names[1:]:
        theirs = dict(zip(sets[other].category_ids, sets[other].category_names, strict=True))
        different = sorted(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[0])
        examples = (
            Example(f"{number} {name!r} is in {first if (number, name) in ours.items() else other} only")
            for number, name in different
        )
        found.add_all("different_categories", examples, len(different))
    if "train" not in sets or found.get("different_categories"):
        return
    learned, elsewhere = class_counts(sets["train"]), sum(class_counts(sets[n]) for n in names if n != "train")
    unlearned = np.flatnonzero((learned == 0) & (np.asarray(elsewhere) > 0)).tolist()
    named = (Example(sets["train"].category_names[c]) for c in unlearned)
    found.add_all("unlearned_classes", named, len(unlearned), len(learned))
