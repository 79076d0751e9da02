"""Pictures of a report: an image with its labels beside what was found in it, and what is meant marked on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from ..data.dataset import DetectionDataset, Id
from ..evaluate.html import picture, text
from ..evaluate.pictures import objects_of, tile_size
from ..images.read import read_resized
from ..predict.draw import draw_detections
from ..results.named import Detection
from .errors import Marked

SIDE = 520  # pixels
MOST_LABELLED = 25  # objects of an image whose names are written
MOST_FOUND, MOST_MARKED = 60, 20  # detections of an image that are drawn, and marked, the best


class Pictures:
    """The images of a data set as parts of a page."""

    def __init__(self, dataset: DetectionDataset, detections: Sequence[Mapping[str, Any]]) -> None:
        """Args: detections: COCO results that are to be shown."""
        self.dataset = dataset
        self.class_of = {number: i for i, number in enumerate(dataset.category_ids)}
        self.detections: dict[Id, list[Detection]] = {}
        for row in detections:
            self.detections.setdefault(row["image_id"], []).append(self._detection(row))

    def _detection(self, row: Mapping[str, Any]) -> Detection:
        x, y, width, height = row["bbox"]
        number = self.class_of[row["category_id"]]
        name = self.dataset.category_names[number]
        return Detection(name, row["score"], (x, y, x + width, y + height), number, row.get("segmentation"))

    def beside_truth(self, marks: Sequence[Marked], words: str) -> str:
        """An image twice: its labels on the left, what was found on the right; `marks`, all of this image, on the side that
        they belong to. Empty where the file cannot be read."""
        image = marks[0].image
        marks = sorted(marks, key=lambda mark: -(mark.score or 0.0))[:MOST_MARKED]
        truth = self._drawn(image, objects_of(self.dataset, image), scores=False)
        if truth is None:
            return ""
        own = sorted(self.detections.get(self.dataset.image_ids[image], []), key=lambda one: -one.score)
        found = self._drawn(image, own[:MOST_FOUND], scores=True)
        assert found is not None
        name = self.dataset.file_names[image]
        sides = [
            self._panel(drawn, image, [m for m in marks if (m.score is None) == labels], f"{side} of {name}", side)
            for drawn, side, labels in ((truth, "labels", True), (found, "found", False))
        ]
        caption = f"<figcaption><b>{text(words)}</b><br>{text(name)}</figcaption>"
        return f'<figure><div class="pair">{"".join(sides)}</div>{caption}</figure>'

    def labels(self, mark: Marked, words: str) -> str:
        """An image with its labels, and one box marked."""
        drawn = self._drawn(mark.image, objects_of(self.dataset, mark.image), scores=False)
        name = self.dataset.file_names[mark.image]
        if drawn is None:
            return ""
        panel = self._panel(drawn, mark.image, [mark], f"labels of {name}", "")
        return f"<figure>{panel}<figcaption><b>{text(words)}</b><br>{text(name)}</figcaption></figure>"

    def _drawn(self, image: int, objects: Sequence[Detection], scores: bool) -> Image.Image | None:
        size = (int(self.dataset.sizes[image][0]), int(self.dataset.sizes[image][1]))
        try:
            pixels = read_resized(self.dataset.image_path(image), tile_size, expected=size)
        except (OSError, ValueError):
            return None
        labelled = len(objects) <= MOST_LABELLED
        drawn = draw_detections(pixels, objects, size=size, scores=scores, labels=labelled)
        drawn.thumbnail((SIDE, SIDE))
        return drawn

    def _panel(self, drawn: Image.Image, image: int, marks: Sequence[Marked], words: str, side: str) -> str:
        height, width = self.dataset.sizes[image].tolist()
        rects = "".join(_rect(mark) for mark in marks)
        over = f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">{rects}</svg>'
        badge = f'<span class="side">{side}</span>' if side else ""
        return f'<div class="panel">{picture(drawn, words, over)}{badge}</div>'


def _rect(mark: Marked) -> str:
    x0, y0, x1, y1 = mark.box
    place = f'x="{x0:.1f}" y="{y0:.1f}" width="{max(0.0, x1 - x0):.1f}" height="{max(0.0, y1 - y0):.1f}"'
    title = f"<title>{text(said_of(mark))}</title>"
    return f'<rect class="under" {place}/><rect {place}>{title}</rect>'


def said_of(mark: Marked) -> str:
    """A marked box in a few words."""
    score = "" if mark.score is None else f" {mark.score:.2f}"
    other = "" if mark.other is None else f", labelled {mark.other}"
    return f"{mark.label}{score}{other}"
