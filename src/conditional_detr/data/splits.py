"""A split of a data set: found in a folder and read, whatever its format; made where there is none.

A new format is a file in `formats/` and its entry in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import Task
from .check import check_dataset
from .dataset import DetectionDataset
from .fetch import local_folder
from .formats.coco import COCO
from .formats.coco_panoptic import COCO_PANOPTIC
from .formats.cvat import CVAT
from .formats.foreign import looks_like
from .formats.format import Format, Found
from .formats.labelme import LABELME
from .formats.open_images import OPEN_IMAGES
from .formats.voc import VOC
from .formats.yolo import YOLO
from .holdout import SPLITS, part_of
from .shares import SHARES, shares_of

FORMATS = (
    COCO_PANOPTIC,
    YOLO,
    VOC,
    CVAT,
    LABELME,
    OPEN_IMAGES,
    COCO,
)  # asked in this order whose a named file is; COCO takes every one


def find_data(folder: str | Path, task: Task = "detection") -> tuple[Format, Found] | None:
    """Recognise what lies in a folder; None where it is nothing that is known.

    Args:
        folder: or a file that stands for it, such as data.yaml; or an address, which is fetched.

    Raises:
        FileNotFoundError: it is missing or empty.
        NotADirectoryError: it is a file of no format.
        ValueError: two formats lie there, or one that has nothing for this task.
    """
    root = local_folder(folder)
    if not root.exists():
        raise FileNotFoundError(f"data folder {root} does not exist")
    if root.is_dir() and not any(root.iterdir()):
        raise FileNotFoundError(f"data folder {root} is empty")
    known = [(form, found) for form in FORMATS if (found := form.find(root)) is not None]
    fitting = [(form, found) for form, found in known if task in form.tasks]
    if len(fitting) > 1:
        names = " and ".join(f"{form.name} ({found.place})" for form, found in fitting)
        raise ValueError(
            f"{root} is two formats at once: {names}. Take away the files of one, give --data the file of one (data.yaml), or "
            "name annotations and images of each split"
        )
    if not fitting and root.is_file():
        raise NotADirectoryError(f"{root} is a file: data is a folder that holds annotations and images")
    boxes_only = [form.name for form, _ in known if form.tasks == ("detection",)]
    if not fitting and boxes_only:
        raise ValueError(f"{root} is {boxes_only[0]}, which has boxes alone: the task '{task}' needs masks")
    return fitting[0] if fitting else None


def find_split(folder: str | Path, split: str, task: Task = "detection") -> tuple[Path, Path]:
    """Find the annotations, a file or a folder of files, and the image folder of a split.

    COCO's layouts, in this order: `annotations/instances_train2017.json` (any year, or none) with `images/train2017/` or
    `train2017/`; `annotations/train.json` with `images/train/` or `train/`; Roboflow's `train/_annotations.coco.json`
    with the images beside it (there `val` is called `valid`). For the task "panoptic" only
    `annotations/panoptic_train2017.json` (any year, or none); `read_panoptic` finds its PNG files. Those of the other
    formats are in their files.

    Raises:
        FileNotFoundError: the folder is missing, empty, or has none of these; what was looked for is named.
        NotADirectoryError, ValueError: see `find_data`.
    """
    known = find_data(folder, task)
    if known is not None and (files := known[1].files(split)) is not None:
        return files
    raise _no_split(local_folder(folder), split, task)


def _no_split(root: Path, split: str, task: Task) -> FileNotFoundError:
    *others, last = [
        layout.format(split=split) for form in FORMATS[::-1] if task in form.tasks for layout in form.layouts
    ]
    kind = "panoptic " if task == "panoptic" else ""
    if (foreign := looks_like(root)) and find_data(root, task) is None:
        return FileNotFoundError(f"{root} has no {kind}'{split}' split that can be read: {foreign}")
    return FileNotFoundError(
        f"{root} has no {kind}'{split}' split: neither {', '.join(others)} nor {last}; "
        "or name annotation file and image folder themselves (see --help)"
    )


def read_split(
    folder: str | Path,
    split: str,
    task: Task = "detection",
    skip_bad: bool = False,
    shares: str = SHARES,
) -> DetectionDataset:
    """Read a split of the data set in a folder, with what the task needs: boxes, boxes and masks, or panoptic segments.

    Where the data set has no splits, "train", "val" and "test" are made of it; where it has "train" and no "val", "val"
    is held out of "train".

    Args:
        shares: of train, val and test, where they are made, as "0.8,0.1,0.1"; "" makes none.

    Raises:
        OSError, ValueError: see `find_data` and `read_split_files`.
    """
    return read_splits(folder, [split], task, skip_bad, shares)[0]


def read_splits(
    folder: str | Path,
    splits: Sequence[str],
    task: Task = "detection",
    skip_bad: bool = False,
    shares: str = SHARES,
) -> list[DetectionDataset]:
    """As `read_split`, of several: what they are made of is read once."""
    known = find_data(folder, task)
    if known is None:
        raise _no_split(local_folder(folder), splits[0], task)
    sources: dict[str, DetectionDataset] = {}
    datasets = []
    for split in splits:
        source, parts = _source(known[1], split, shares_of(shares) if shares else [])
        if source is None:
            raise _no_split(local_folder(folder), split, task)
        if source not in sources:
            sources[source] = _checked(known[1].read(source, task, skip_bad))
        datasets.append(part_of(sources[source], split, parts, source) if parts else sources[source])
    return datasets


def has_split(folder: str | Path, split: str, task: Task = "detection", shares: str = SHARES) -> bool:
    """Whether the data set in a folder has a split, or one is to be made of it by these shares.

    Raises:
        OSError, ValueError: see `find_data`; or nothing that is known lies there.
    """
    known = find_data(folder, task)
    if known is None:
        raise _no_split(local_folder(folder), split, task)
    source, parts = _source(known[1], split, shares_of(shares))
    return source is not None and (not parts or dict(zip(SPLITS, parts, strict=False)).get(split, 0) > 0)


def read_all(folder: str | Path, task: Task = "detection", skip_bad: bool = False) -> list[DetectionDataset]:
    """Every split of the data set in a folder, or all of it where it has none.

    Raises:
        OSError, ValueError: see `read_split`.
    """
    known = find_data(folder, task)
    if known is None:
        raise _no_split(local_folder(folder), "train", task)
    return [_checked(known[1].read(split, task, skip_bad)) for split in known[1].splits or ("",)]


def _source(found: Found, split: str, shares: Sequence[float]) -> tuple[str | None, Sequence[float]]:
    """The split that is to be read, and the shares by which it is to be divided, if it is."""
    if not found.splits:
        return ("", shares) if shares else (None, ())
    made = [name for name in ("val", "test") if name not in found.splits]
    if shares and "train" in found.splits and "val" in made and split in ("train", *made):
        return "train", shares if "test" in made else shares[:2]
    return (split if found.files(split) is not None else None), ()


def read_split_files(annotations: str | Path, images: str | Path, task: Task, skip_bad: bool) -> DetectionDataset:
    """Read annotations with what the task needs: boxes, boxes and masks, or panoptic segments. A file called
    panoptic_… has boxes for detection, too: of things and stuff.

    Raises:
        OSError, ValueError: see `read_coco`, `read_panoptic` and `check_dataset`.
    """
    form = next(form for form in FORMATS if form.is_of(Path(annotations), task))
    return _checked(form.read(annotations, images, task, skip_bad))


def _checked(dataset: DetectionDataset) -> DetectionDataset:
    dataset.warnings += check_dataset(dataset)
    return dataset
