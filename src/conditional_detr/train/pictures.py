"""What a run shows of itself: its curves, a batch as training sees it, and validation images with what was found."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..boxes import cxcywh_to_xyxy
from ..data.formats.coco import CocoDataset, read_coco
from ..data.samples import Batch
from ..files import write_atomically
from ..images.read import read_resized
from ..predict.detector import Detection
from ..predict.draw import draw_comparison, draw_detections

SHOWN = 6  # validation images
BATCH_SHOWN = 16  # images of a training batch
TILE = 400  # pixels of a tile's longest side
SMOOTHED = 40  # parts of a curve: each point is the mean over one of them
COLOURS = {"PQ": "#5a7d3a", "mask_AP": "#7b4f9d", "AP": "#b5482a", "AP50": "#d9a441"}


def draw_curves(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the losses of classes and boxes by epoch, in training and on the validation set, and the figures there.

    Args:
        rows: of `log.jsonl`.
    """
    train = [row for row in rows if row["kind"] == "train"]
    evaluated = [row for row in rows if row["kind"] == "eval"]
    if not train:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    losses = (
        (axes[0], "Class loss", {"loss_ce": ("", "#3b6ea5")}),
        (axes[1], "Box losses", {"loss_bbox": ("L1", "#3b6ea5"), "loss_giou": ("1 - GIoU", "#5a7d3a")}),
    )
    for axis, title, names in losses:
        tops = []
        for name, (label, colour) in names.items():
            epochs, values = _curve(train, name)
            if not len(values):
                continue
            axis.plot(epochs, values, color=colour, linewidth=0.8, alpha=0.25)
            smooth = min(SMOOTHED, len(values))
            means = [[part.mean() for part in np.array_split(x, smooth)] for x in (epochs, values)]
            axis.plot(*means, color=colour, label=f"{label} training".strip())
            epochs_seen, seen = _curve(evaluated, name)
            if len(seen):
                axis.plot(epochs_seen, seen, "o--", color=colour, markersize=3, label=f"{label} validation".strip())
            tops += [np.quantile(values, 0.98), max(means[1]), *seen]  # the first steps may be far above the rest
        axis.set(title=title, ylim=(0, 1.05 * max(tops, default=1.0) or 1.0))
    scored = [row for row in evaluated if "AP" in row]
    for name in [name for name in COLOURS if scored and name in scored[-1]]:
        axes[2].plot(*_curve(scored, name), "o-", color=COLOURS[name], label=name.replace("_", " "), markersize=3)
    best = max((value for name in COLOURS for value in _curve(scored, name)[1]), default=0.0)
    axes[2].set(title="Validation set", ylim=(0, min(1.0, 1.15 * best) or 1.0))
    last = max(row["epoch"] for row in rows)
    for axis in axes:
        axis.set(xlabel="epoch", xlim=(0, last * 1.02))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    write_atomically(path, lambda beside: figure.savefig(beside, dpi=110, format="png"))
    plt.close(figure)


def _curve(rows: Iterable[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and finite values of those rows that have them."""
    points = [(row["epoch"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    points = [point for point in points if np.isfinite(point).all()]
    return np.array([x for x, _ in points]), np.array([y for _, y in points])


def draw_batch(path: Path, batch: Batch, names: Sequence[str]) -> None:
    """Write a training batch as the model sees it: cut, turned, resized, with the boxes that are left.

    Args:
        names: of the classes.
    """
    tiles = []
    for i, label in enumerate(batch.labels[:BATCH_SHOWN]):
        image = batch.images[i]
        if batch.pixel_mask is not None:
            real = batch.pixel_mask[i].bool()
            image = image[:, : int(real.any(1).sum()), : int(real.any(0).sum())]
        height, width = image.shape[-2:]
        boxes = cxcywh_to_xyxy(label["boxes"]) * label["boxes"].new_tensor([width, height] * 2)
        truth = [
            Detection(names[c], 1.0, (box[0], box[1], box[2], box[3]), c)
            for c, box in zip(label["class_labels"].tolist(), boxes.tolist(), strict=True)
        ]
        tiles.append(draw_detections(image, truth, scores=False))
    sheet = contact_sheet(tiles)
    write_atomically(path, lambda beside: sheet.save(beside, format="JPEG", quality=90))


def draw_validation(path: Path, results: Sequence[dict[str, Any]], coco: CocoDataset) -> None:
    """Write validation images with their objects on the left, and on the right as many of the best detections.

    Args:
        results: COCO results of the data set, sorted by image and score, best first.
    """
    chosen = np.unique(np.linspace(0, len(coco) - 1, SHOWN).round().astype(int)).tolist()
    own: dict[Any, list[dict[str, Any]]] = {coco.image_ids[i]: [] for i in chosen}
    for row in results:
        if row["image_id"] in own:
            own[row["image_id"]].append(row)
    class_of = {number: i for i, number in enumerate(coco.category_ids)}
    tiles = []
    for i in chosen:
        size = (int(coco.sizes[i][0]), int(coco.sizes[i][1]))
        try:
            image = read_resized(coco.image_path(i), tile_size, expected=size)
        except (OSError, ValueError):
            continue  # it has been reported already
        truth = objects_of(coco, i)
        found = []
        for row in own[coco.image_ids[i]][: max(1, len(truth))]:
            x, y, width, height = row["bbox"]
            number = class_of[row["category_id"]]
            box = (x, y, x + width, y + height)
            found.append(Detection(coco.category_names[number], row["score"], box, number, row.get("segmentation")))
        tiles.append(draw_comparison(image, found, truth, size=size))
    if tiles:
        sheet = contact_sheet(tiles, columns=2, side=2 * TILE)
        write_atomically(path, lambda beside: sheet.save(beside, format="JPEG", quality=90))


def tile_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which an image is drawn: no side much longer than its place on the sheet."""
    factor = min(1.0, 2 * TILE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def objects_of(coco: CocoDataset, image: int) -> list[Detection]:
    """The annotated objects of an image of a data set, with score 1."""
    rows = slice(coco.first[image], coco.first[image + 1])
    return [
        Detection(coco.category_names[number], 1.0, (box[0], box[1], box[2], box[3]), number)
        for box, number in zip(coco.boxes[rows].tolist(), coco.classes[rows].tolist(), strict=True)
    ]


def truth_of(annotation_file: str | Path, images: Sequence[Path]) -> dict[str, list[Detection]]:
    """The annotated objects of pictures, by their real paths.

    Args:
        annotation_file: COCO JSON; its file names count from the folder that all the pictures are in.

    Raises:
        OSError, ValueError: it is not COCO JSON, or knows none of the pictures.
    """
    folder = os.path.commonpath([os.path.abspath(path.parent) for path in images])
    coco = read_coco(annotation_file, folder, skip_missing_images=True)
    return {os.path.realpath(coco.image_path(i)): objects_of(coco, i) for i in range(len(coco))}


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 4, side: int = TILE) -> Image.Image:
    """Pictures beside and below each other, each within `side` pixels; a row is as high as its highest."""
    small = []
    for picture in pictures:
        picture = picture.copy()
        picture.thumbnail((side, side))
        small.append(picture)
    rows = [small[i : i + columns] for i in range(0, len(small), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    widths = [max(row[i].width for row in rows if i < len(row)) for i in range(min(columns, len(small)))]
    gap = 4
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) - 1), sum(heights) + gap * (len(heights) - 1)), "white")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            sheet.paste(picture, (sum(widths[:c]) + gap * c, sum(heights[:r]) + gap * r))
    return sheet
