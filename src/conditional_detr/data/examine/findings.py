"""What can be wrong with a data set: each kind has a name that stays, how bad it is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

STOPS, HARMS, KNOW = "stops", "harms", "know"
SEVERITIES = {
    STOPS: "stops training, or makes it meaningless",
    HARMS: "harms what is learned or measured",
    KNOW: "good to know",
}
MOST_EXAMPLES = 6  # of a finding


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Args:
        severity: a key of `SEVERITIES`; a finding may say another one.
        what: is counted, in the plural.
        cure: what to do.
    """

    severity: str
    what: str
    cure: str


KINDS = {
    # the file
    "unreadable_annotations": Kind(
        STOPS, "annotations cannot be read", "correct what stands there; what comes behind is not known yet"
    ),
    "broken_entries": Kind(
        STOPS, "entries of the JSON lack a field, or have a wrong one", "correct them, or export the data anew"
    ),
    "strings_for_numbers": Kind(
        STOPS, "entries have text where numbers belong", 'write 3, not "3"; tables and CSV exports do this'
    ),
    "missing_ids": Kind(STOPS, "entries without an id, or that name none", "number images and categories, and name them"),
    "unknown_ids": Kind(
        STOPS,
        "annotations name an image or a category that is not listed",
        "add it to 'images' or 'categories', or remove these annotations",
    ),
    "repeated_image_ids": Kind(
        STOPS, "images have an id that another has", "number them anew; merged files often repeat ids"
    ),
    "repeated_category_ids": Kind(STOPS, "categories have an id that another has", "number them anew"),
    "repeated_category_names": Kind(STOPS, "categories are called like another", "make one of them, or name them apart"),
    "repeated_annotation_ids": Kind(
        KNOW,
        "annotations have an id that another has",
        "not used here; other tools lose annotations by it (pycocotools): number them anew",
    ),
    "different_categories": Kind(
        STOPS, "categories differ between the splits, in id or name", "give all splits the same list of categories"
    ),
    "no_objects": Kind(STOPS, "splits have no object to train on", "annotate them, or look where the annotations are"),
    "reader_remarks": Kind(KNOW, "remarks of the reader", "read them"),
    # boxes as a whole
    "normalised_boxes": Kind(
        STOPS, "boxes are fractions of the image's sides, 0…1, not pixels", "multiply x and width by the image's width, y and height by its height"
    ),
    "corner_boxes": Kind(
        STOPS, "boxes seem to be corners x0, y0, x1, y1", "write [x0, y0, x1 - x0, y1 - y0]"
    ),
    "centre_boxes": Kind(
        STOPS,
        "boxes seem to be centre, width and height",
        "write [cx - width / 2, cy - height / 2, width, height]",
    ),
    "exchanged_boxes": Kind(STOPS, "boxes seem to be y, x, height, width", "write [x, y, width, height]"),
    "exchanged_sizes": Kind(
        STOPS,
        "images have width and height the other way round than their picture",
        "correct width and height in the annotations, or give the right pictures; boxes cannot be right",
    ),
    "other_sizes": Kind(
        HARMS,
        "images have another size than their picture",
        "boxes are scaled to the picture; if they were drawn on it, correct width and height",
    ),
    # boxes one by one
    "broken_boxes": Kind(STOPS, "boxes are not four finite numbers", "write [x, y, width, height] in pixels"),
    "empty_boxes": Kind(HARMS, "boxes have no area inside their image, and are left out", "remove them, or draw them anew"),
    "boxes_outside": Kind(
        HARMS, "boxes reach outside their image, and are cut at its edge", "cut them there; if there are many, size or form is wrong"
    ),
    "repeated_boxes": Kind(
        HARMS, "boxes are there twice: same class, same place", "remove one: the model learns to find objects twice"
    ),
    "contradicting_boxes": Kind(
        HARMS, "boxes are at the same place as one of another class", "decide for one class"
    ),
    "small_objects": Kind(
        HARMS,
        "objects are smaller than one cell of the feature map",
        "raise --image_size, take model.output_stride 16, or cut the pictures into tiles",
    ),
    "extreme_boxes": Kind(
        KNOW, "boxes are more than 20 times as long as wide", "look whether they are lines, or slips of the mouse"
    ),
    "whole_image_boxes": Kind(
        KNOW, "boxes cover their whole image", "fine for close-ups; if there are many, this is classification"
    ),
    "maskless_objects": Kind(HARMS, "objects have no mask, and are left out", "draw it, or train boxes alone"),
    "short_polygons": Kind(HARMS, "polygons have fewer than 3 points, and are left out", "draw them anew"),
    # images
    "missing_pictures": Kind(
        STOPS, "pictures are missing or unreadable", "put them there, or leave them out with --skip_bad_images true"
    ),
    "damaged_pictures": Kind(
        STOPS, "pictures cannot be decoded", "repair or remove them, or leave them out with --skip_bad_images true"
    ),
    "crowded_images": Kind(
        HARMS, "images have more objects than the model has queries", "raise model.num_queries; the rest can never be found"
    ),
    "overfull_images": Kind(
        STOPS, "images have more than 100,000 objects", "are they of many images? Correct image_id, or take the image away"
    ),
    "images_without_objects": Kind(
        KNOW, "images have no object", "they teach what is background; if objects were forgotten there, they harm"
    ),
    "crowd_regions": Kind(KNOW, "regions are crowds (or difficult)", "left out of training, kept in evaluation"),
    "extreme_pictures": Kind(
        KNOW, "pictures are more than 4 times as long as wide", "they become small, or padding; cut them into pieces"
    ),
    "turned_pictures": Kind(
        KNOW,
        "pictures are turned by their EXIF tag",
        "boxes count here in the size that the annotations say; other tools may see them turned: turn the pixels",
    ),
    "repeated_file_names": Kind(
        HARMS, "entries of 'images' name a picture that another names", "make one entry of them, with the annotations of both"
    ),
    "same_pictures": Kind(
        HARMS, "pictures are there twice in a split, byte for byte", "remove one; if boxes differ, decide"
    ),
    "similar_pictures": Kind(
        KNOW, "pictures look like another of their split", "look at them: frames of a film, or copies saved anew?"
    ),
    "same_pictures_across": Kind(
        HARMS, "pictures are in two splits, byte for byte", "remove them from one: figures are too good otherwise"
    ),
    "similar_pictures_across": Kind(
        HARMS, "pictures look like one of another split", "split by film, patient or place: figures are too good otherwise"
    ),
    # classes
    "unlearned_classes": Kind(
        HARMS, "classes have no object in train, and some elsewhere", "they can never be found: annotate some, or split anew"
    ),
    "empty_classes": Kind(KNOW, "classes have no object in this split", "without objects there is no AP, and nothing to learn"),
    "rare_classes": Kind(
        KNOW, "classes have fewer than 10 objects in this split", "figures of them are chance: annotate more, or merge classes"
    ),
}  # fmt: skip


@dataclass
class Example:
    """One case of a finding.

    Args:
        words: what is wrong there, or where.
        file_name: of the picture, as the annotations call it; "" where there is none.
        split, image: which image of which split; -1 where it is not in the data set that could be read.
        rows: of the data set's boxes: those that are meant.
        like: split and image of the picture that it is like.
    """

    words: str = ""
    file_name: str = ""
    split: str = ""
    image: int = -1
    rows: tuple[int, ...] = ()
    like: tuple[str, int] | None = None

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file_name, self.words) if part)


@dataclass
class Finding:
    """How often something is wrong in a split, with some examples."""

    name: str
    split: str
    severity: str
    count: int = 0
    of: int | None = None  # as many there are in all, of what is counted
    detail: str = ""  # the rule by which it was counted
    examples: list[Example] = field(default_factory=list)

    @property
    def what(self) -> str:
        return KINDS[self.name].what

    @property
    def cure(self) -> str:
        return KINDS[self.name].cure

    def to_dict(self) -> dict[str, Any]:
        """Plain values, such as JSON has; the keys stay."""
        return {
            "name": self.name,
            "severity": self.severity,
            "split": self.split,
            "count": self.count,
            "of": self.of,
            "what": self.what,
            "detail": self.detail,
            "cure": self.cure,
            "examples": [{"file_name": e.file_name, "words": e.words} for e in self.examples],
        }


class Findings:
    """Findings as they are made, of one split or between splits; each kind is counted, and of each the first examples
    are kept."""

    def __init__(self, split: str) -> None:
        self.split = split
        self._found: dict[str, Finding] = {}

    def add(self, name: str, example: Example | None = None, count: int = 1) -> Finding:
        """Count a case."""
        if name not in self._found:
            self._found[name] = Finding(name, self.split, KINDS[name].severity)
        finding = self._found[name]
        finding.count += count
        if example is not None and len(finding.examples) < MOST_EXAMPLES:
            finding.examples.append(example)
        return finding

    def add_all(
        self, name: str, examples: Iterable[Example], count: int, of: int | None = None, detail: str = ""
    ) -> None:
        """Count cases at once; nothing where there is none. Of the examples only the first are asked for."""
        if not count:
            return
        finding = self.add(name, count=count)
        finding.of, finding.detail = of, detail
        for example, _ in zip(examples, range(MOST_EXAMPLES), strict=False):
            finding.examples.append(example)

    def wants_example(self, name: str) -> bool:
        """Whether another example of this kind would be kept: making one may cost time."""
        return name not in self._found or len(self._found[name].examples) < MOST_EXAMPLES

    def get(self, name: str) -> Finding | None:
        return self._found.get(name)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found.values())
