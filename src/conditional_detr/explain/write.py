"""Explain files and folders of images, and write arrays and pictures: `cdetr explain`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import write_atomically
from ..images.read import read_resized
from ..predict.attention import PARTS, Explanation
from ..predict.detector import Detector
from ..predict.image_files import file_stems
from .figures import AttentionFigures
from .pictures import draw_explanation, tile_size


def explain_files(
    detector: Detector,
    images: Sequence[Path],
    output: Path,
    *,
    threshold: float = 0.5,
    most: int = 5,
    layer: int = -1,
    draw: bool = True,
    progress: Callable[[int], Any] | None = None,
) -> AttentionFigures:
    """Write for each image `NAME.npz`, see `arrays`, and a picture of each detection, `NAME-1.jpg`, `NAME-2.jpg`, …, best
    first; see `draw_explanation`.

    Args:
        threshold, most, layer: see `Detector.explain`.
        draw: write pictures too.

    Returns:
        Figures of all detections.

    Raises:
        OSError: an image cannot be read, or the output not be written.
        ValueError: there is no such layer, or a picture would overwrite an image.
    """
    figures = AttentionFigures()
    taken = {os.path.realpath(image) for image in images}
    output.mkdir(parents=True, exist_ok=True)
    for image, stem in zip(images, file_stems(images), strict=True):
        found = detector.explain(image, threshold, most, layer)
        figures.add(found)
        write_atomically(output / f"{stem}.npz", partial(_save_arrays, found))
        pixels = read_resized(image, tile_size) if draw and found else None
        for number, explanation in enumerate(found if pixels is not None else (), start=1):
            path = output / f"{stem}-{number}.jpg"
            if os.path.realpath(path) in taken:
                raise ValueError(f"--output {output}: this would overwrite the image {path}; choose another folder")
            assert pixels is not None
            write_atomically(path, partial(_save_picture, draw_explanation(pixels, explanation)))
        if progress is not None:
            progress(1)
    return figures


def arrays(explanations: Sequence[Explanation]) -> dict[str, np.ndarray]:
    """What is known of an image's n detections, as arrays: `boxes` (n, 4) xyxy in pixels, `scores`, `class_ids`, `labels`,
    `queries` (n,), `reference_points` (n, 2) in pixels (NaN in DETR); and for h heads and R x C cells `combined`, `spatial`
    and `content` (n, h, R, C), attentions, and `spatial_scores`, `content_scores`, what they are the softmax of."""
    none = (float("nan"), float("nan"))
    found = [explanation.detection for explanation in explanations]
    known: dict[str, np.ndarray] = {
        "boxes": np.array([d.box for d in found], np.float32).reshape(-1, 4),
        "scores": np.array([d.score for d in found], np.float32),
        "class_ids": np.array([d.class_id for d in found], np.int64),
        "labels": np.array([d.label for d in found], np.str_),
        "queries": np.array([e.query for e in explanations], np.int64),
        "reference_points": np.array([e.reference_point or none for e in explanations], np.float32).reshape(-1, 2),
    }
    if explanations:
        known |= {part: np.stack([e.attention(part) for e in explanations]) for part in PARTS}
        known["spatial_scores"] = np.stack([e.spatial_scores for e in explanations])
        known["content_scores"] = np.stack([e.content_scores for e in explanations])
    return known


def _save_arrays(explanations: Sequence[Explanation], path: Path) -> None:
    with open(path, "wb") as file:  # NumPy would put its own ending behind a name
        np.savez_compressed(file, allow_pickle=False, **arrays(explanations))


def _save_picture(picture: Image.Image, path: Path) -> None:
    picture.save(path, format="JPEG", quality=92)
