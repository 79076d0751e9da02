"""Formats that are not read here, recognised all the same, so that it can be said what to do."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from .format import split_folders
from .image_files import SUFFIXES, files_with
from .json_kinds import json_kind

LOOKED_AT = 20  # files of a kind in a folder
ADVICE = {
    "Label Studio": "export it as COCO or YOLO (Export → COCO)",
    "VIA": "export it as COCO (Annotation → Export Annotations (COCO format))",
    "Supervisely": "export it as COCO (the app 'Export to COCO')",
    "Datumaro": "convert it: datum convert -i DIR -if datumaro -f coco -o OUT -- --save-media",
    "createML": "export it as COCO from the tool that wrote it",
    "TFRecord": "export it as COCO or Pascal VOC from the tool that wrote it; Roboflow offers both",
    "KITTI": "convert it: datum convert -i DIR -if kitti -f coco -o OUT -- --save-media",
    "DOTA": "its boxes are turned; hotcoco's COCO.from_dota(labels, images_dir=…).save(file) writes upright ones as COCO JSON",
    "YOLO without data.yaml": "write data.yaml beside images/ and labels/: names: [cat, dog], train: images/train, val: images/val",
    "pictures without annotations": "annotations are needed to train: COCO JSON, YOLO or Pascal VOC",
}


def looks_like(root: Path) -> str:
    """What a folder that nothing here reads seems to be, and what to do; nothing where that is not known either."""
    kind = next(_kinds(root), "")
    return f"this looks like {kind}: {ADVICE[kind]}" if kind else ""


def _kinds(root: Path) -> Iterator[str]:
    folders = [root] if root.is_dir() else []
    folders += [folder for folder in sorted(root.glob("*")) if folder.is_dir()][:LOOKED_AT]
    folders += [inner for folder in folders[1:] for inner in sorted(folder.glob("*"))[:LOOKED_AT] if inner.is_dir()]
    texts = False
    for folder in folders:
        names = files_with(folder, (".json", ".jsonl", ".csv", ".txt", ".tfrecord", ".record"), below=False)
        for suffix, some in itertools.groupby(sorted(names, key=_suffix), key=_suffix):
            for name in itertools.islice(some, LOOKED_AT):
                file = folder / name
                if suffix in (".tfrecord", ".record") or ".tfrecord" in name:
                    yield "TFRecord"
                elif suffix in (".json", ".jsonl"):
                    if (kind := json_kind(file)) in ADVICE:
                        yield kind
                elif suffix == ".csv":
                    if "region_shape_attributes" in _beginning(file):
                        yield "VIA"
                elif kind := _text_kind(_beginning(file)):
                    texts |= kind == "YOLO"
                    if kind != "YOLO":
                        yield kind
        if any(re.search(r"\.tfrecord-\d+|\.record-\d+", path.name) for path in folder.glob("*record-*")):
            yield "TFRecord"
    if texts:
        yield "YOLO without data.yaml"
    places = [root, *split_folders(root).values(), root / "images"]
    if any(files_with(place, SUFFIXES, below=False) for place in places):
        yield "pictures without annotations"


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _beginning(file: Path) -> str:
    try:
        with open(file, "rb") as content:
            return content.read(4096).decode("utf-8", "replace")
    except OSError:
        return ""


def _text_kind(text: str) -> str:
    """Whose a text file of labels is, by the words of its first rows."""
    number = r"-?\d+(\.\d+)?([eE][-+]?\d+)?"
    for line in text.splitlines()[:4]:
        if re.fullmatch(rf"({number}\s+){{8}}\S+(\s+\d+)?\s*", line) and not re.fullmatch(
            rf"({number}\s+){{8}}{number}\s*", line
        ):
            return "DOTA"
        if re.fullmatch(rf"[A-Za-z_]\S*(\s+{number}){{14,15}}\s*", line):
            return "KITTI"
        if re.fullmatch(rf"\d+(\s+{number}){{4,}}\s*", line):
            return "YOLO"
    return ""
