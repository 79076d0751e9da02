"""Predictions in files of other programs' forms, beside `predictions.jsonl`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ..config import DetectionConfig
from ..files import write_atomically, write_json
from ..results.named import Detection
from ..results.other_forms import CSV_FIELDS, to_coco, to_csv, to_labelme, to_yolo

FORMS = ("coco", "csv", "yolo", "labelme")
CLASSES = "classes.txt"  # names of YOLO's classes, as LabelImg has them


class OtherFiles:
    """Writes rows of `predictions.jsonl`, one after another, in other forms.

    `predictions.csv` grows line by line; `labels/NAME.txt` (YOLO) and `labelme/NAME.json` are whole or absent, and so is
    `coco_results.json`, which is made of the rows at the end.

    Args:
        folder: to write to.
        forms: some of `FORMS`.
        config: of the model.
        images, stems: of each row, its file and the name of what is written of it.

    Raises:
        ValueError: files are there that may have been corrected by hand.
    """

    def __init__(
        self, folder: Path, forms: Sequence[str], config: DetectionConfig, images: Sequence[Path], stems: Sequence[str]
    ) -> None:
        self.folder, self.forms, self.images, self.stems = folder, forms, images, stems
        self.names = [config.id2label[i] for i in range(config.num_labels)]
        self.class_of = {name: i for i, name in enumerate(self.names)}
        self.category_ids: Sequence[int] = config.category_ids or range(config.num_labels)
        self._csv: IO[str] | None = None
        for form, inner in (("labelme", self.folder / "labelme"), ("yolo", self.folder / "labels")):
            if form in forms and inner.is_dir() and any(inner.iterdir()):
                raise ValueError(
                    f"{inner} holds files already, which may have been corrected by hand: choose another folder (--output), or "
                    "move them"
                )

    def begin(self) -> None:
        """Write what is there before any row.

        Raises:
            OSError: it cannot be written.
        """
        if "csv" in self.forms:
            self._csv = open(self.folder / "predictions.csv", "w", encoding="utf-8", newline="")  # noqa: SIM115
            self._write_csv(",".join(CSV_FIELDS) + "\n")
        if "yolo" in self.forms:
            text = "".join(f"{name}\n" for name in self.names)
            _write_text(self.folder / "labels" / CLASSES, text)

    def add(self, position: int, row: dict[str, Any]) -> None:
        """Write an image's row; nothing where it has an error.

        Raises:
            OSError: it cannot be written.
        """
        if "error" in row:
            return
        found, size, stem = self._detections(row), (row["width"], row["height"]), self.stems[position]
        if self._csv is not None:
            self._write_csv(to_csv(found, row["file"], *size))
        if "yolo" in self.forms:
            _write_text(self.folder / "labels" / f"{stem}.txt", to_yolo(found, *size))
        if "labelme" in self.forms:
            file = self.folder / "labelme" / f"{stem}.json"
            path = _from(file.parent, self.images[position])
            _write_text(file, json.dumps(to_labelme(found, path, *size), indent=2) + "\n")

    def finish(self, rows: Path) -> None:
        """Write what is made of all rows.

        Args:
            rows: `predictions.jsonl`.

        Raises:
            OSError: it cannot be written.
        """
        self.close()
        if "coco" in self.forms:
            write_json(self.folder / "coco_results.json", list(self._coco(rows)), indent=None)

    def close(self) -> None:
        if self._csv is not None:
            self._csv.close()

    def _detections(self, row: dict[str, Any]) -> list[Detection]:
        return [
            Detection(d["label"], d["score"], tuple(d["box"]), self.class_of[d["label"]], d.get("mask"))
            for d in row["detections"]
        ]

    def _coco(self, rows: Path) -> Iterator[dict[str, Any]]:
        with open(rows, encoding="utf-8") as lines:
            for path, line in zip(self.images, lines, strict=True):
                row = json.loads(line)
                if "error" not in row:
                    yield from to_coco(self._detections(row), image_id(path), self.category_ids)

    def _write_csv(self, text: str) -> None:
        assert self._csv is not None
        try:
            self._csv.write(text)
            self._csv.flush()  # so that it is there when the process is not any more
        except OSError as error:
            raise OSError(f"cannot write {self._csv.name}: {error.strerror}; free some space (--output)") from None


def image_id(path: Path) -> int | str:
    """A picture's id in COCO's results, as Ultralytics has it: the number that its name is, as in COCO, or its name without
    suffix."""
    return int(path.stem) if path.stem.isdecimal() and path.stem.isascii() else path.stem


def _from(folder: Path, file: Path) -> str:
    """The way to a file from a folder; the file itself where there is none, such as to another of Windows' drives."""
    try:
        way = os.path.relpath(os.path.abspath(file), os.path.abspath(folder))
    except ValueError:
        way = os.path.abspath(file)
    return way.replace(os.sep, "/")


def _write_text(path: Path, text: str) -> None:
    content = text.encode("utf-8", "backslashreplace")
    write_atomically(path, lambda beside: beside.write_bytes(content), outlast_power_cuts=False)
