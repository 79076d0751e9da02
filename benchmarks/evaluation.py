"""COCO AP over many images, beside pycocotools; and the command line's start: `python -m benchmarks.evaluation`."""

from __future__ import annotations

import contextlib
import copy
import io
import subprocess
import sys

import numpy as np

from conditional_detr.evaluate.coco_metrics import coco_metrics

from .measure import Contender, arguments, compare


def data_set(images: int, boxes: int, classes: int = 80) -> tuple[dict, list[dict]]:
    """Annotations with seven objects an image, and so many predictions an image, some of them right."""
    rng = np.random.default_rng(0)
    annotations, results = [], []
    for image in range(1, images + 1):
        truth = np.concatenate((rng.uniform(0, 400, (7, 2)), rng.uniform(5, 200, (7, 2))), axis=1)
        kinds = rng.integers(1, classes + 1, 7)
        for box, kind in zip(truth, kinds, strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(kind), "bbox": box.tolist(),
                 "area": float(box[2] * box[3]), "iscrowd": 0}
            )  # fmt: skip
        chosen = rng.integers(0, 7, boxes)
        guesses = truth[chosen] + rng.normal(0, 8, (boxes, 4))
        guesses[:, 2:] = np.abs(guesses[:, 2:]) + 1
        for guess, kind, score in zip(guesses, kinds[chosen], rng.random(boxes), strict=True):
            results.append({"image_id": image, "category_id": int(kind), "bbox": guess.tolist(), "score": float(score)})
    content = {
        "images": [{"id": i, "width": 640, "height": 640, "file_name": f"{i}.jpg"} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in range(1, classes + 1)],
    }
    return content, results


def with_pycocotools(content: dict, results: list[dict]) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def main(argv: list[str] | None = None) -> None:
    options = arguments(__doc__, argv, quick={"images": 20, "boxes": 10}, images=2000, boxes=100, repeats=3)
    content, results = data_set(options.images, options.boxes)
    facts = {}
    if not options.peak_of:
        facts["ap_ours"] = round(coco_metrics(content, results).summary["AP"], 6)
        facts["ap_pycocotools"] = round(with_pycocotools(content, results), 6)
    contenders = [
        Contender("ours, with a table of classes", lambda: lambda: coco_metrics(content, results)),
        Contender("pycocotools", lambda: lambda: with_pycocotools(content, results)),
    ]
    title = f"COCO AP: {options.images} images, {options.boxes} boxes each"
    compare(title, contenders, options, peer="pycocotools", facts=facts)
    command = [sys.executable, "-m", "conditional_detr.cli", "--help"]
    start = Contender(
        "cdetr --help", lambda: lambda: subprocess.run(command, capture_output=True, check=True), peak=False
    )
    compare("Start: of the command line", [start], options, repeats=9)


if __name__ == "__main__":
    main()
