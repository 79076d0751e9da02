"""COCO's figures from predictions: the one file that calls hotcoco for them."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval
from hotcoco.metrics import panoptic_quality
from hotcoco.panoptic import PanopticEval

from ..data.dataset import id_order

# hotcoco's names -> COCO's own.
NAMES = {
    "AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP_small", "APm": "AP_medium", "APl": "AP_large",
    "AR1": "AR_1", "AR10": "AR_10", "AR100": "AR_100", "ARs": "AR_small", "ARm": "AR_medium", "ARl": "AR_large",
}  # fmt: skip


@dataclass
class CocoMetrics:
    """The twelve figures of COCO's detection task, for boxes or masks, in 0…1; -1 where there is nothing to measure (no large objects, say)."""

    summary: dict[str, float]
    per_class: dict[str, dict[str, float]]  # name -> AP, AP50, objects

    def to_dict(self) -> dict[str, Any]:
        return {**self.summary, "per_class": self.per_class}


@dataclass
class CocoEvaluation:
    """hotcoco's evaluation of results, done and accumulated. It has numbers of its own for what the annotations name: images
    and categories 1…n in the order of their ids, annotations and results in the order of their lists."""

    evaluation: COCOeval
    images: dict[Any, int]  # id -> number
    categories: dict[Any, int]  # id -> number, which is also the name that hotcoco knows
    objects: dict[Any, int]  # category id -> objects, without crowds


def coco_evaluation(
    annotations: dict[str, Any], results: Sequence[Mapping[str, Any]], iou_type: str = "bbox"
) -> CocoEvaluation:
    """Match results with annotations, and accumulate precision and recall. Arguments as of `coco_metrics`."""
    images = numbered(image["id"] for image in annotations["images"])
    categories = numbered(category["id"] for category in annotations["categories"])
    # The evaluator takes its own numbers for ids: it confuses annotations of one id, and knows whole numbers only.
    own = {
        "images": [{"id": images[i["id"]], "height": i["height"], "width": i["width"]} for i in annotations["images"]],
        "categories": [{"id": number, "name": str(number)} for number in categories.values()],
        "annotations": [
            {**_measured(a, iou_type), "id": n, "image_id": images[a["image_id"]], "category_id": categories[a["category_id"]]}
            for n, a in enumerate(annotations["annotations"], start=1)
        ],
    }  # fmt: skip
    found_there = [
        {**row, "image_id": images[row["image_id"]], "category_id": categories[row["category_id"]]} for row in results
    ]
    # The evaluator prints its own table; ours comes later, with the classes.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(own)
        evaluation = COCOeval(truth, truth.load_res(found_there), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    objects = dict.fromkeys(categories, 0)
    for annotation in annotations["annotations"]:
        if not annotation.get("iscrowd"):
            objects[annotation["category_id"]] += 1
    return CocoEvaluation(evaluation, images, categories, objects)


def coco_metrics(annotations: dict[str, Any], results: list[dict[str, Any]], iou_type: str = "bbox") -> CocoMetrics:
    """Score boxes or masks.

    Args:
        annotations: the contents of a COCO annotation file. Ids of images and categories may be anything that a key of a
            dict may be; those of annotations do not matter.
        results: COCO results: dicts with image_id, category_id, score, and bbox (x, y, width, height in pixels) or, for
            masks, segmentation (run lengths of the image's size: {"size": [height, width], "counts": str}).
        iou_type: "bbox" or "segm".
    """
    done = coco_evaluation(annotations, results, iou_type)
    found, curves = done.evaluation.get_results(), done.evaluation.eval
    assert curves is not None
    precision = curves["precision"][:, :, :, 0, -1]  # (T thresholds, R recalls, K classes), all areas, 100 boxes
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    per_class = {}
    for k, category in enumerate(done.categories):
        ours = precision[:, :, k]
        measured = bool((ours > -1).any())
        per_class[names[category]] = {
            "AP": float(ours.mean()) if measured else -1.0,
            "AP50": float(ours[0].mean()) if measured else -1.0,
            "objects": done.objects[category],
        }
    return CocoMetrics({ours: float(found[theirs]) for theirs, ours in NAMES.items()}, per_class)


def numbered(ids: Iterable[Any]) -> dict[Any, int]:
    """Ids -> 1…n, in their own order."""
    return {old: number for number, old in enumerate(sorted(set(ids), key=id_order), start=1)}


def _measured(annotation: Mapping[str, Any], iou_type: str) -> dict[str, Any]:
    """Of an annotation, what its figures depend on."""
    fields = ("bbox", "segmentation") if iou_type == "segm" else ("bbox",)
    measured = {name: annotation[name] for name in fields if name in annotation}
    area = annotation.get("area")
    if area is None and "bbox" in annotation:
        area = annotation["bbox"][2] * annotation["bbox"][3]
    return {**measured, "iscrowd": int(annotation.get("iscrowd") or 0)} | ({} if area is None else {"area": area})


@dataclass
class PanopticMetrics:
    """Panoptic, segmentation and recognition quality, in 0…1; -1 where there is nothing to measure (no stuff, say)."""

    summary: dict[str, float]  # PQ, SQ, RQ; the same _things and _stuff
    per_class: dict[str, dict[str, float]]  # name -> PQ, SQ, RQ, objects

    def to_dict(self) -> dict[str, Any]:
        return {**self.summary, "per_class": self.per_class}


def panoptic_metrics(
    truth: dict[str, Any], truth_folder: Path, predictions: Sequence[dict[str, Any]], predictions_folder: Path
) -> PanopticMetrics:
    """Score panoptic maps: PQ = SQ · RQ of each class (Kirillov et al. 2019, section 4), and their means over classes.

    COCO's rules, as its panopticapi has them: segments of one class match where their IoU is above 0.5; pixels that are
    void in the truth (id 0) count in no union; a predicted segment more than half of which is void or a crowd of its
    class is no false positive; a crowd matches nothing and is not missed. Where one image has several crowds of a class,
    only the last one excuses predictions. The area of a true segment is the one written in `truth`, its number of
    pixels where there is none. Classes without any segment, true or predicted, count in no mean.

    Unlike panopticapi, an image without a prediction counts as predicted void: all its segments are missed.

    Args:
        truth: the contents of a COCO panoptic annotation file. Categories without `isthing` are neither things nor stuff.
        truth_folder: the folder of its PNG files.
        predictions: one dict an image: image_id, file_name, segments_info (dicts with id and category_id).
        predictions_folder: the folder of their PNG files.

    Raises:
        FileNotFoundError: a PNG file is not there.
        ValueError: a PNG of another size than the true one, or that has not just the segments of its row; a category or
            an image that `truth` lacks; two predictions of one image. One line that names the file and the id.
    """
    categories = {category["id"]: category for category in truth["categories"]}
    files = {row["image_id"]: predictions_folder / row["file_name"] for row in predictions}
    _check_panoptic(truth, truth_folder, predictions, predictions_folder)
    counts: dict[Any, dict[str, Any]] = {category: {"iou": 0.0, "tp": 0, "fp": 0, "fn": 0} for category in categories}
    scored = [row for row in truth["annotations"] if row["image_id"] in files]
    if scored:
        images, numbers = numbered(files), numbered(categories)
        own_categories = [
            {"id": numbers[i], "name": str(category["name"]), "isthing": int(category.get("isthing") or 0)}
            for i, category in categories.items()
        ]
        try:
            evaluation = PanopticEval(
                {"annotations": _renumbered(scored, images, numbers), "categories": own_categories},
                {"annotations": _renumbered(predictions, images, numbers)},
                gt_folder=truth_folder, pred_folder=predictions_folder,
            )  # fmt: skip
            evaluation.evaluate()
        except ValueError as error:
            place = re.match(r"image (\d+): ", str(error))
            if place is None:
                raise
            image = list(images)[int(place[1]) - 1]
            raise ValueError(f"{files[image]}: image {image}: {str(error)[place.end() :]}") from None
        found = evaluation.results()["per_class"]
        counts = {category: found[number] for category, number in numbers.items()}
    for row in truth["annotations"]:
        for segment in row["segments_info"]:
            if row["image_id"] not in files and not segment.get("iscrowd", 0):
                counts[segment["category_id"]]["fn"] += 1

    names = ("PQ", "SQ", "RQ")
    qualities = {i: panoptic_quality(n["iou"], n["tp"], n["fp"], n["fn"]) for i, n in counts.items()}
    things, stuff = ([i for i, c in categories.items() if c.get("isthing") == kind] for kind in (1, 0))
    summary = {}
    for suffix, members in (("", list(categories)), ("_things", things), ("_stuff", stuff)):
        measured = [qualities[i] for i in members if qualities[i][0] >= 0]
        means = np.mean(measured, axis=0).tolist() if measured else [-1.0] * 3
        summary.update({name + suffix: mean for name, mean in zip(names, means, strict=True)})
    per_class = {
        category["name"]: {**dict(zip(names, qualities[i], strict=True)), "objects": counts[i]["tp"] + counts[i]["fn"]}
        for i, category in categories.items()
    }
    return PanopticMetrics(summary, per_class)


def _renumbered(
    rows: Iterable[dict[str, Any]], images: Mapping[Any, int], categories: Mapping[Any, int]
) -> list[dict[str, Any]]:
    """Panoptic rows with the evaluator's numbers, and what their figures depend on."""
    return [
        {
            "image_id": images[row["image_id"]],
            "file_name": row["file_name"],
            "segments_info": [
                {
                    **{name: segment[name] for name in ("id", "area") if segment.get(name) is not None},
                    "category_id": categories[segment["category_id"]],
                    "iscrowd": int(segment.get("iscrowd") or 0),
                }
                for segment in row["segments_info"]
            ],
        }
        for row in rows
    ]


def _check_panoptic(
    truth: dict[str, Any], truth_folder: Path, predictions: Sequence[dict[str, Any]], predictions_folder: Path
) -> None:
    """What the evaluator would pass over: of two rows the last would count, and unknown ids would match nothing."""
    awaited = {row["image_id"] for row in truth["annotations"]}
    for row in predictions:
        if row["image_id"] not in awaited:
            raise ValueError(
                f"{predictions_folder / row['file_name']}: image {row['image_id']} is not in the annotations, "
                "or is predicted twice"
            )
        awaited.remove(row["image_id"])
    categories = {category["id"] for category in truth["categories"]}
    for folder, kind, rows in (
        (truth_folder, "annotated", truth["annotations"]),
        (predictions_folder, "predicted", predictions),
    ):
        for row in rows:
            known: set[int] = set()
            for segment in row["segments_info"]:
                if segment["id"] in known:
                    wrong = "is listed twice; each segment of an image needs its own id"
                elif segment["category_id"] not in categories:
                    wrong = f"has unknown category_id {segment['category_id']}"
                else:
                    known.add(segment["id"])
                    continue
                raise ValueError(
                    f"{folder / row['file_name']}: image {row['image_id']}: {kind} segment {segment['id']} {wrong}"
                )
