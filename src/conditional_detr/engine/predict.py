"""Detect in files and folders, and write what was found: `cdetr predict`."""

from __future__ import annotations

import glob
import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..checkpoints.files import write_atomically, write_json
from ..data.loading import image_size, read_sized_image
from .detector import Detection, Detector
from .inference import Source, detect
from .panoptic_files import draw_panoptic, panoptic_row, write_panoptic_png

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="OpenCV")  # supervision draws well without it
    import supervision as sv

SUFFIXES = frozenset(Image.registered_extensions())
LONGEST_ENLARGED = 4096  # pixels
READABLE_SIDE = 256  # pixels: pictures whose short side is less are enlarged, or labels would hide what they name
PLAIN_TEXT_SIDE = 640  # pixels of short side at which labels have their plain size


def find_images(patterns: Sequence[str]) -> list[Path]:
    """The image files that paths, folders (searched through) and glob patterns name; sorted, each once.

    Raises:
        FileNotFoundError: one of them names nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        elif path.is_file():
            files = [path]
        else:
            files = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
        if not files:
            what = "holds no images" if path.is_dir() else "is neither a file, a folder nor a pattern that matches any"
            raise FileNotFoundError(f"{pattern} {what}")
        found.update(dict.fromkeys(files))
    return list(found)


def predict(
    detector: Detector,
    images: Sequence[Path],
    output: Path,
    *,
    threshold: float = 0.5,
    batch_size: int = 8,
    workers: int = 2,
    draw: bool = True,
    skip_bad_images: bool = False,
    panoptic_threshold: float | None = None,
    progress: Callable[[int], Any] | None = None,
) -> list[dict[str, Any]]:
    """Detect in files; write `predictions.jsonl` and, beside it, pictures with boxes and masks drawn.

    A panoptic model's maps go into `panoptic/`, as PNG files in COCO's format with `panoptic.json` beside the folder, and
    are drawn as `NAME-panoptic.jpg`.

    Args:
        threshold: least score of a detection.
        panoptic_threshold: least score of a segment; None is the family's, see `Detector.panoptic`.

    Returns:
        One dict an image, in the order of `images`: `file`, `width`, `height`, `detections` (label, score, box as
        x0, y0, x1, y1 in pixels, and, of a segmentation model, mask as COCO run lengths), and `picture` where one was
        drawn; of a panoptic model `panoptic` (the map's file), `segments` and `panoptic_picture`; `error` in place of
        these for a skipped image.

    Raises:
        OSError: an image cannot be read (and bad images are not skipped), or the output not be written.
    """
    sources: list[Source] = []
    rows: dict[int, dict[str, Any]] = {}
    order: list[int] = []
    for position, path in enumerate(images):
        try:
            sources.append(Source(path, image_size(path)))
            order.append(position)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            message = f"{path}: not a readable image ({error})"
            if not skip_bad_images:
                raise OSError(f"{message}. Remove it, or leave such images out with --skip_bad_images true") from None
            rows[position] = {"file": str(path), "error": message}
    stems = _stems([source.path for source in sources])
    inputs = {source.path.resolve() for source in sources}
    written = [output / f"{stem}{end}" for stem in stems for end in (".jpg", "-panoptic.jpg")] if draw else []
    written += [output / "panoptic" / f"{stem}.png" for stem in stems] if detector.model.task == "panoptic" else []
    if taken := next((path for path in written if path.resolve() in inputs), None):
        raise ValueError(f"--output {output}: this would overwrite the image {taken}; choose another folder")
    found = detect(
        detector.model, detector.processor, sources, threshold=threshold, batch_size=batch_size, workers=workers,
        skip_bad=skip_bad_images, task=detector.model.task, panoptic_threshold=panoptic_threshold, progress=progress,
    )  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    config = detector.model.config
    category_ids = config.category_ids or range(config.num_labels)
    maps: dict[int, dict[str, Any]] = {}
    for index, result in found:
        source = sources[index]
        if isinstance(result, str):
            rows[order[index]] = {"file": str(source.path), "error": result}
            continue
        detections = list(detector.named(result))
        row: dict[str, Any] = {
            "file": str(source.path),
            "width": source.size[1],
            "height": source.size[0],
            "detections": [
                {"label": d.label, "score": round(d.score, 4), "box": [round(v, 2) for v in d.box]}
                | ({"mask": d.run_lengths} if d.run_lengths else {})
                for d in detections
            ],
        }
        if draw:
            picture = output / f"{stems[index]}.jpg"
            row["picture"] = str(picture)
            shown = [
                d for d in detections if config.is_thing is None or config.is_thing[d.class_id]
            ]  # a map shows stuff
            _save(draw_detections(read_sized_image(source.path, *source.size), shown), picture)
        if "segmentation" in result:
            found_map, stem = detector.named_map(result), stems[index]
            file = output / "panoptic" / f"{stem}.png"
            file.parent.mkdir(exist_ok=True)
            write_panoptic_png(file, found_map.ids)
            maps[index] = panoptic_row(index, file.name, found_map.ids, result["segments_info"], category_ids)
            row |= {"panoptic": str(file), "segments": [asdict(segment) for segment in found_map.segments]}
            if draw:
                picture = output / f"{stem}-panoptic.jpg"
                image = read_sized_image(source.path, *source.size)
                _save(draw_panoptic(image, found_map.ids, result["segments_info"], config.id2label), picture)
                row["panoptic_picture"] = str(picture)
        rows[order[index]] = row
    if maps:
        things = config.is_thing or []
        content = {
            "images": [
                {"id": i, "file_name": str(sources[i].path), "height": sources[i].size[0], "width": sources[i].size[1]}
                for i in sorted(maps)
            ],
            "annotations": [maps[i] for i in sorted(maps)],
            "categories": [
                {"id": number, "name": config.id2label[i], "isthing": int(things[i])}
                for i, number in enumerate(category_ids)
            ],
        }
        write_json(output / "panoptic.json", content, indent=None)
    ordered = [rows[i] for i in sorted(rows)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered)
    write_atomically(output / "predictions.jsonl", lambda beside: beside.write_text(text, encoding="utf-8"))
    return ordered


def draw_detections(image: Tensor, detections: Sequence[Detection]) -> Image.Image:
    """Draw masks, boxes, labels and scores on an image (3, H, W) uint8. A class has the same colour in every picture.

    Small images are enlarged by a whole factor, so that labels can be read.
    """
    canvas = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    factor = enlargement(canvas.size)
    if factor > 1:
        canvas = canvas.resize((canvas.width * factor, canvas.height * factor), Image.Resampling.BICUBIC)
    if not detections:
        return canvas
    shown = sv.Detections(
        xyxy=np.array([d.box for d in detections], dtype=np.float32) * factor,
        confidence=np.array([d.score for d in detections], dtype=np.float32),
        class_id=np.array([d.class_id for d in detections]),
    )
    if detections[0].run_lengths is not None:
        masks = np.stack([np.asarray(d.mask) for d in detections])
        shown.mask = masks.repeat(factor, axis=1).repeat(factor, axis=2)
        canvas = sv.MaskAnnotator(opacity=0.45).annotate(canvas, shown)
    scale = min(canvas.size) / PLAIN_TEXT_SIDE
    boxes = sv.BoxAnnotator(thickness=max(2, round(2 * scale)))
    labels = sv.LabelAnnotator(
        text_scale=max(0.35, 0.5 * scale), text_thickness=max(1, round(scale)), text_padding=max(2, round(4 * scale)),
        smart_position=True,
    )  # fmt: skip
    canvas = boxes.annotate(canvas, shown)
    return labels.annotate(canvas, shown, labels=[f"{d.label} {d.score:.2f}" for d in detections])


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda beside: picture.save(beside, format="JPEG", quality=92))


def enlargement(size: tuple[int, int]) -> int:
    """The whole factor that makes a small picture readable, without making a narrow one huge."""
    return max(1, min(-(-READABLE_SIDE // min(size)), LONGEST_ENLARGED // max(size)))


def _stems(paths: Sequence[Path]) -> list[str]:
    """A name for what is written of each image: its own, with a number where files of two would be the same."""
    taken: set[str] = set()
    stems = []
    for path in paths:
        names = itertools.chain([path.stem], (f"{path.stem}-{count}" for count in itertools.count(2)))
        stem = next(name for name in names if not {name, f"{name}-panoptic"} & taken)
        taken |= {stem, f"{stem}-panoptic"}
        stems.append(stem)
    return stems
