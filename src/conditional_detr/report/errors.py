"""What is wrong in each image, detection by detection and object by object: the kinds of TIDE (Bolya et al. 2020, section
2.2), for boxes of at least some score; and which labels are suspect themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluate.coco_metrics import CocoEvaluation, coco_evaluation

# TIDE's thresholds: what overlaps an object so much is on it; what overlaps none so much is background.
ON_OBJECT, NEAR_OBJECT = 0.5, 0.1
KINDS = {
    "missed": "objects that no detection is near",
    "confused": "on an object of another class",
    "duplicated": "a second detection of an object",
    "misplaced": "of the right class and near the object, but not on it",
    "both": "near an object of another class",
    "background": "where there is no object",
}
TIDE_NAMES = {
    "Miss": "missed", "Cls": "confused", "Dupe": "duplicated", "Loc": "misplaced", "Both": "both", "Bkg": "background",
}  # fmt: skip
SUSPECTS = {
    "unlabelled": "confident detections where nothing is labelled",
    "other class": "confident detections on an object that is labelled as something else",
    "unsupported": "labels that no prediction supports, however unsure",
}
UNSUPPORTED = 0.1  # of the threshold: a label without a detection of so much score on it, of any class, is suspect


@dataclass
class Marked:
    """A box that something is the matter with: a detection, or where `score` is None a labelled object.

    Attributes:
        image: its place in the data set.
        box: x0, y0, x1, y1 in pixels.
        other: the class of the object that it is on or near, where that says something.
    """

    kind: str
    image: int
    label: str
    box: tuple[float, float, float, float]
    score: float | None = None
    other: str | None = None

    def to_dict(self, file_name: str) -> dict[str, Any]:
        return {
            "kind": self.kind, "file_name": file_name, "label": self.label, "box": [round(x, 2) for x in self.box],
            "score": self.score, "other": self.other,
        }  # fmt: skip


@dataclass
class ImageErrors:
    """All mistakes of detections of at least `threshold`, and each object's fate."""

    threshold: float
    mistakes: list[Marked]
    found: np.ndarray  # (A,) bool: of the objects that are no crowds, in the order of the annotations
    right: list[float]  # scores of right detections

    def counts(self) -> dict[str, int]:
        counted = Counter(mistake.kind for mistake in self.mistakes)
        return {kind: counted[kind] for kind in KINDS}

    def worst_images(self, kind: str, most: int) -> list[list[Marked]]:
        """The images with most mistakes of a kind, each by its mistakes; of as many, those with the surest detections."""
        images: dict[int, list[Marked]] = {}
        for mistake in self.mistakes:
            if mistake.kind == kind:
                images.setdefault(mistake.image, []).append(mistake)
        worst = sorted(images.values(), key=lambda own: (-len(own), -sum(m.score or 0.0 for m in own)))[:most]
        return [sorted(own, key=lambda mistake: -(mistake.score or 0.0)) for own in worst]


class Boxes:
    """Results and annotations of a data set by image, as arrays. Ids become places in the lists."""

    def __init__(
        self, truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], image_ids: Sequence[Any]
    ) -> None:
        self.places = {image_id: i for i, image_id in enumerate(image_ids)}
        self.names = {category["id"]: category["name"] for category in truth["categories"]}
        self.results, self.annotations = results, truth["annotations"]
        self.results_of = _by_image(results, self.places)
        self.annotations_of = _by_image(self.annotations, self.places)

    def corners(self, row: Mapping[str, Any]) -> tuple[float, float, float, float]:
        x, y, width, height = row["bbox"]
        return x, y, x + width, y + height

    def marked(self, kind: str, row: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> Marked:
        return Marked(
            kind,
            self.places[row["image_id"]],
            self.names[row["category_id"]],
            self.corners(row),
            row.get("score"),
            None if other is None else self.names[other["category_id"]],
        )


def _by_image(rows: Sequence[Mapping[str, Any]], places: Mapping[Any, int]) -> list[list[int]]:
    own: list[list[int]] = [[] for _ in places]
    for n, row in enumerate(rows):
        own[places[row["image_id"]]].append(n)
    return own


def image_errors(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], image_ids: Sequence[Any], threshold: float
) -> ImageErrors:
    """Args: as of `coco_metrics`, and the ids of the images in the data set's order; boxes are compared, whatever else there
    is."""
    kept = [row for row in results if row["score"] >= threshold]
    status = coco_evaluation(dict(truth), kept).evaluation.image_diagnostics(iou_thr=ON_OBJECT, score_thr=0.0)
    data = Boxes(truth, kept, image_ids)
    errors = ImageErrors(threshold, [], np.zeros(0, bool), [])
    found: dict[int, bool] = {}
    for image in range(len(data.places)):
        objects = [n for n in data.annotations_of[image] if not data.annotations[n].get("iscrowd")]
        detections = data.results_of[image]
        found |= {n: status["gt_status"].get(n + 1) == "matched" for n in objects}
        overlap = _iou([kept[n]["bbox"] for n in detections], [data.annotations[n]["bbox"] for n in objects])
        explained = set()
        for row, n in enumerate(detections):
            match status["dt_status"].get(n + 1):
                case "tp":
                    errors.right.append(kept[n]["score"])
                case "fp":
                    kind, at = _kind(kept[n], [data.annotations[m] for m in objects], overlap[row])
                    other = data.annotations[objects[at]] if kind in ("confused", "both") else None
                    errors.mistakes.append(data.marked(kind, kept[n], other))
                    if kind in ("confused", "misplaced"):
                        explained.add(objects[at])
        errors.mistakes += [
            data.marked("missed", data.annotations[n]) for n in objects if not found[n] and n not in explained
        ]
    errors.found = np.array([found[n] for n in sorted(found)], bool)
    return errors


def _kind(row: Mapping[str, Any], objects: Sequence[Mapping[str, Any]], overlap: np.ndarray) -> tuple[str, int]:
    """What is wrong with a detection that matches no object of its class, and which object that hangs on (or -1)."""
    same = np.array([own["category_id"] == row["category_id"] for own in objects], bool)
    own, other = (np.where(mask, overlap, 0.0) for mask in (same, ~same))
    if not len(objects) or max(own.max(), other.max()) < NEAR_OBJECT:
        return "background", -1
    if NEAR_OBJECT <= own.max() < ON_OBJECT:
        return "misplaced", int(own.argmax())
    if other.max() >= ON_OBJECT:
        return "confused", int(other.argmax())
    if own.max() >= ON_OBJECT:
        return "duplicated", int(own.argmax())
    return "both", int(other.argmax())


def suspected_labels(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    image_ids: Sequence[Any],
    errors: ImageErrors,
    most: int,
) -> dict[str, list[Marked]]:
    """Kind (`SUSPECTS`) -> the labels that look wrong, most suspect first.

    A detection is confident that is surer than half of those that are right.
    """
    confident = float(np.median(errors.right)) if errors.right else 1.0
    sure = sorted(
        (m for m in errors.mistakes if (m.score or 0.0) >= confident), key=lambda mistake: -(mistake.score or 0.0)
    )
    data = Boxes(truth, results, image_ids)
    unsupported = []
    for image in range(len(data.places)):
        objects = [n for n in data.annotations_of[image] if not data.annotations[n].get("iscrowd")]
        detections = data.results_of[image]
        if not objects:
            continue
        overlap = _iou([results[n]["bbox"] for n in detections], [data.annotations[n]["bbox"] for n in objects])
        scores = np.array([results[n]["score"] for n in detections])
        support = np.where(overlap >= ON_OBJECT, scores[:, None], 0.0).max(axis=0, initial=0.0)
        unsupported += [
            (float(support[i]), data.marked("unsupported", data.annotations[n])) for i, n in enumerate(objects)
        ]
    weak = [pair for pair in unsupported if pair[0] < UNSUPPORTED * max(errors.threshold, 0.0)]
    weak.sort(key=lambda pair: pair[0])
    return {
        "unlabelled": [m for m in sure if m.kind == "background"][:most],
        "other class": [m for m in sure if m.kind == "confused"][:most],
        "unsupported": [m for _, m in weak][:most],
    }


def _iou(detections: Sequence[Sequence[float]], objects: Sequence[Sequence[float]]) -> np.ndarray:
    """IoU of boxes x, y, width, height. (D, G)"""
    from hotcoco import mask as coco_mask

    if not len(detections) or not len(objects):
        return np.zeros((len(detections), len(objects)))
    return np.asarray(coco_mask.iou(np.array(detections, float), np.array(objects, float), [0] * len(objects)))


def confusion(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], threshold: float) -> list[list[int]]:
    """Objects by their class (rows) and that of the detection on them (columns); the last row and column is background:
    detections on no object, objects without detection. Boxes of at least `threshold`, IoU at least 0.5."""
    done: CocoEvaluation = coco_evaluation(dict(truth), results)
    found = done.evaluation.confusion_matrix(iou_thr=ON_OBJECT, min_score=max(threshold, 0.0))
    return [[int(cell) for cell in row] for row in found["matrix"]]
