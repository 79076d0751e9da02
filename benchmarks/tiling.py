"""Small objects in large pictures, whole and in tiles: `python -m benchmarks.tiling --model FOLDER --data FOLDER`.

Pictures of a data set are put together into large ones and scored as the model sees these whole, whole at a larger size, and
in tiles; beside merging as it is done here, what supervision's non-maximum suppression and merging make of the same tiles, and
the figure of the pictures alone, which is the most that can be hoped for.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from conditional_detr import Detector
from conditional_detr.data.dataset import DetectionDataset, classes_by_name
from conditional_detr.data.splits import read_split, read_split_files
from conditional_detr.evaluate.coco_metrics import coco_metrics
from conditional_detr.evaluate.predictions import coco_rows, predict_dataset
from conditional_detr.images.open_file import opened
from conditional_detr.images.read import LoadedPicture
from conditional_detr.predict.tiled import parts_in_tiles
from conditional_detr.predict.tiles import TileSide, tile_side
from conditional_detr.results.image_results import ImageResults
from conditional_detr.results.merged import Part, merge_parts

from .measure import machine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import supervision as sv

FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")


def montages(dataset: DetectionDataset, folder: Path, across: int) -> DetectionDataset:
    """`across` × `across` pictures in one, as many as fill, in cells of the first one's size; those of other sizes are left out."""
    truth = dataset.to_coco()
    size = dataset.sizes[0].tolist()
    rows = [i for i, other in enumerate(dataset.sizes.tolist()) if other == size]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for annotation in truth["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(rows) // across**2):
        sheet = Image.new("RGB", (size[1] * across, size[0] * across))
        for place, i in enumerate(rows[number * across**2 : (number + 1) * across**2]):
            x, y = place % across * size[1], place // across * size[0]
            with Image.open(dataset.image_folder / dataset.file_names[i]) as picture:
                sheet.paste(picture.convert("RGB"), (x, y))
            for annotation in by_image.get(dataset.image_ids[i], []):
                left, top, width, height = annotation["bbox"]
                box = [left + x, top + y, width, height]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number + 1, "category_id": annotation["category_id"], "bbox": box,
                     "area": annotation["area"], "iscrowd": annotation.get("iscrowd", 0)}
                )  # fmt: skip
        sheet.save(folder / f"{number + 1}.png")
        images.append(
            {"id": number + 1, "file_name": f"{number + 1}.png", "width": sheet.width, "height": sheet.height}
        )
    content = {"images": images, "annotations": annotations, "categories": truth["categories"]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return read_split_files(str(folder / "annotations.json"), str(folder), "detection", False)


def all_parts(parts: Sequence[Part]) -> sv.Detections:
    """What all parts say, in pixels of the picture."""
    found = []
    for part in parts:
        boxes = part.results.boxes.numpy()
        kept = (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) >= part.least_side
        scale = (part.place[2] - part.place[0]) / part.size[1]
        boxes = boxes[kept] * scale + np.array([*part.place[:2], *part.place[:2]])
        found.append(
            sv.Detections(
                xyxy=boxes,
                confidence=part.results.scores.numpy()[kept],
                class_id=part.results.labels.numpy().astype(int)[kept],
            )
        )
    return sv.Detections.merge(found)


def merged_by_supervision(how: str) -> Callable[[Sequence[Part], tuple[int, int]], ImageResults]:
    def merge(parts: Sequence[Part], size: tuple[int, int]) -> ImageResults:
        found = all_parts(parts)
        if how == "nms":
            found = found.with_nms(0.5)
        elif how == "nmm":
            found = found.with_nmm(0.5, overlap_metric=sv.OverlapMetric.IOS)
        results = merge_parts(parts[:1], size)
        results.scores = torch.from_numpy(np.asarray(found.confidence))
        results.labels = torch.from_numpy(np.asarray(found.class_id))
        results.boxes = torch.from_numpy(found.xyxy)
        return results

    return merge


MERGERS = {
    "merged here": merge_parts,
    "not merged": merged_by_supervision("none"),
    "supervision's NMS, IoU 0.5": merged_by_supervision("nms"),
    "supervision's NMM, IOS 0.5": merged_by_supervision("nmm"),
}


def in_tiles(detector: Detector, dataset: DetectionDataset, tile: TileSide, least: float) -> list[dict[str, Any]]:
    """Figures of each way of merging, and seconds a picture."""
    names = [detector.model.config.id2label[i] for i in range(detector.model.config.num_labels)]
    category_of = dict(zip(classes_by_name(dataset.category_names, names), dataset.category_ids, strict=True))
    preprocessing = detector.processor.preprocessing
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in MERGERS}
    seconds = dict.fromkeys(MERGERS, 0.0)
    predicting, side = 0.0, None
    for i, image_id in enumerate(dataset.image_ids):
        with opened(dataset.image_folder / dataset.file_names[i]) as image:
            picture = LoadedPicture(image)
        side = tile_side(tile, picture.size, preprocessing)
        if side is None:
            raise SystemExit(f"--tile {tile}: no tiles for a picture of {picture.size}")
        begun = time.perf_counter()
        parts = parts_in_tiles(
            detector.model, preprocessing, picture, side, threshold=least, task="detection", batch_size=8
        )
        predicting += time.perf_counter() - begun
        for name, merge in MERGERS.items():
            begun = time.perf_counter()
            rows[name] += coco_rows(merge(parts, picture.size), image_id, category_of)
            seconds[name] += time.perf_counter() - begun
    return [
        row(f"tiles of {side}, {name}", dataset, rows[name], (predicting + seconds[name]) / len(dataset))
        for name in MERGERS
    ]


def whole(name: str, detector: Detector, dataset: DetectionDataset) -> dict[str, Any]:
    begun = time.perf_counter()
    found = predict_dataset(detector.model, detector.processor, dataset, workers=0)
    return row(name, dataset, found.results, (time.perf_counter() - begun) / len(dataset))


def row(name: str, dataset: DetectionDataset, results: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    figures = coco_metrics(dataset.to_coco(), results).summary
    made = {"name": name, **{figure: round(figures[figure], 4) for figure in FIGURES}, "seconds": round(seconds, 3)}
    print(" | ".join(str(value) for value in made.values()), flush=True)
    return made


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--across", type=int, default=3, help="pictures beside each other in a large one")
    parser.add_argument("--tiles", nargs="+", default=["auto"], help="sides in pixels, or auto")
    parser.add_argument("--least", type=float, default=0.01, help="score below which nothing is merged")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="runs/benchmarks")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    output = Path(options.output)
    single = read_split(options.data, options.split, "detection")
    large = montages(single, output / "montages", options.across)
    print(f"{len(large)} pictures of {large.sizes[0].tolist()}, {len(large.boxes)} objects")
    detector = Detector.from_pretrained(options.model, device="cpu")
    rows = [
        whole("the pictures alone", detector, single),
        whole("put together, whole", detector, large),
    ]
    for tile in options.tiles:
        rows += in_tiles(detector, large, tile if tile == "auto" else int(tile), options.least)
    short = detector.processor.size["shortest_edge"] * options.across
    larger = Detector.from_pretrained(options.model, device="cpu", image_size=short)
    rows.append(whole(f"put together, whole at {short}", larger, large))
    header = list(rows[0])
    table = "\n".join(
        ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        + ["| " + " | ".join(str(value) for value in made.values()) + " |" for made in rows]
    )
    (output / "tiling.md").write_text(table + "\n")
    (output / "tiling.json").write_text(json.dumps({"facts": machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
