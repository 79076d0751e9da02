"""What a run shows of itself: its curves, and a batch as training sees it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..boxes import cxcywh_to_xyxy
from ..data.samples import Batch
from ..files import write_atomically
from ..predict.draw import contact_sheet, draw_detections
from ..results.named import Detection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SHOWN = 16  # images of a training batch
SMOOTHED = 40  # parts of a curve: each point is the mean over one of them
COLOURS = {"PQ": "#5a7d3a", "mask_AP": "#7b4f9d", "AP": "#b5482a", "AP50": "#d9a441"}


def draw_curves(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the curves of a run as a picture; nothing where it has not trained yet. rows: of `log.jsonl`."""
    if (figure := curves(rows)) is not None:
        from matplotlib import pyplot as plt

        write_atomically(path, lambda beside: figure.savefig(beside, dpi=110, format="png"))
        plt.close(figure)


def curves(rows: Sequence[dict[str, Any]]) -> Figure | None:
    """The losses of classes and boxes by epoch, in training and on the validation set, and the figures there; None without
    training. The caller closes the figure.

    Args:
        rows: of `log.jsonl`.
    """
    train = [row for row in rows if row["kind"] == "train"]
    evaluated = [row for row in rows if row["kind"] == "eval"]
    if not train:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    scored = [row for row in evaluated if "AP" in row]
    parts = 3 if scored else 2
    figure, axes = plt.subplots(1, parts, figsize=(4.6 * parts, 3.6), constrained_layout=True)
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
    if scored:
        for name in [name for name in COLOURS if name in scored[-1]]:
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
    return figure


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
            pixel_mask = batch.pixel_mask[i].bool()
            image = image[:, : int(pixel_mask.any(1).sum()), : int(pixel_mask.any(0).sum())]
        height, width = image.shape[-2:]
        boxes = cxcywh_to_xyxy(label["boxes"]) * label["boxes"].new_tensor([width, height] * 2)
        truth = [
            Detection(names[c], 1.0, (box[0], box[1], box[2], box[3]), c)
            for c, box in zip(label["class_labels"].tolist(), boxes.tolist(), strict=True)
        ]
        tiles.append(draw_detections(image, truth, scores=False))
    sheet = contact_sheet(tiles)
    write_atomically(path, lambda beside: sheet.save(beside, format="JPEG", quality=90))
