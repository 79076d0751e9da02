"""A split of a data set: found in a folder and read, whatever its format.

A new format is a file in `formats/` and its entry in `FORMATS`.
"""

from __future__ import annotations

from pathlib import Path

from ..config import Task
from .check import check_dataset
from .dataset import DetectionDataset
from .formats.coco import COCO
from .formats.coco_panoptic import COCO_PANOPTIC

FORMATS = (COCO_PANOPTIC, COCO)  # in this order they are asked; COCO takes every file
# Names a split goes by in the layouts that people have.
ALIASES = {"val": ("val", "valid", "validation"), "train": ("train",), "test": ("test",)}


def find_split(folder: str | Path, split: str, task: Task = "detection") -> tuple[Path, Path]:
    """Find the annotation file and the image folder of a split.

    Layouts, in this order: `annotations/instances_train2017.json` (any year, or none) with `images/train2017/` or
    `train2017/`; `annotations/train.json` with `images/train/` or `train/`; Roboflow's `train/_annotations.coco.json`
    with the images beside it (there `val` is called `valid`). For the task "panoptic" only
    `annotations/panoptic_train2017.json` (any year, or none); `read_panoptic` finds its PNG files.

    Raises:
        FileNotFoundError: the folder is missing, empty, or has none of these; what was looked for is named.
        NotADirectoryError: it is a file.
    """
    root = Path(folder)
    if root.is_file():
        raise NotADirectoryError(f"{root} is a file: data is a folder that holds annotations and images")
    if not root.is_dir():
        raise FileNotFoundError(f"data folder {root} does not exist")
    if not any(root.iterdir()):
        raise FileNotFoundError(f"data folder {root} is empty")
    formats = [form for form in FORMATS if task in form.tasks]
    for name in ALIASES.get(split, (split,)):
        for form in formats:
            if (found := form.find_split(root, name)) is not None:
                return found
    *others, last = [layout.format(split=split) for form in formats for layout in form.layouts]
    kind = "panoptic " if task == "panoptic" else ""
    raise FileNotFoundError(
        f"{root} has no {kind}'{split}' split: neither {', '.join(others)} nor {last}; "
        "or name annotation file and image folder themselves (see --help)"
    )


def read_split_files(annotations: str | Path, images: str | Path, task: Task, skip_bad: bool) -> DetectionDataset:
    """Read an annotation file with what the task needs: boxes, boxes and masks, or panoptic segments. A file called
    panoptic_… has boxes for detection, too: of things and stuff.

    Raises:
        OSError, ValueError: see `read_coco`, `read_panoptic` and `check_dataset`.
    """
    form = next(form for form in FORMATS if form.is_of(Path(annotations), task))
    dataset = form.read(annotations, images, task, skip_bad)
    dataset.warnings = check_dataset(dataset)
    return dataset
