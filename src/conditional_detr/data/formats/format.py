"""What a format of data sets tells about itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...config import Task
from ..dataset import DetectionDataset

# Names a split goes by in the layouts that people have; the first is the one said here.
ALIASES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


@dataclass(frozen=True)
class Found:
    """A data set as it lies in a folder, before it is read.

    Args:
        place: what was recognised: the folder, or the file in it that says so.
        splits: the names of its splits, of which "train", "val" and "test" are said so; none where it has no splits.
        read: (name of a split, or "" for all of a data set without splits; task; whether to leave out images that are
            missing or damaged) -> the data set, or OSError or ValueError that says what is wrong and where.
        files: (name of a split, or "") -> its annotations, a file or a folder of files, and the folder of its images, or
            None where it has no such split; FileNotFoundError where it has half of one.
    """

    place: Path
    splits: tuple[str, ...]
    read: Callable[[str, Task, bool], DetectionDataset]
    files: Callable[[str], tuple[Path, Path] | None]


@dataclass(frozen=True)
class Format:
    """A way in which data sets lie in files; `data.splits` has the list of all.

    Args:
        name: for people.
        tasks: what it has annotations for.
        layouts: where a split's files lie in a folder, for people, with `{split}` for its name.
        find: (folder, or a file that stands for it) -> what lies there in this format, or None.
        is_of: (annotations, task) -> whether they are read as this format for this task, where a user names them.
        read: (annotations, image folder, task, whether to leave out missing images) -> the data set, or OSError or
            ValueError that says what is wrong and where.
    """

    name: str
    tasks: tuple[Task, ...]
    layouts: tuple[str, ...]
    find: Callable[[Path], Found | None]
    is_of: Callable[[Path, Task], bool]
    read: Callable[[str | Path, str | Path, Task, bool], DetectionDataset]


def said(name: str) -> str:
    """How a split is called here that is called so there: `valid` is `val`."""
    return next((ours for ours, names in ALIASES.items() if name.lower() in names), name)


def split_folders(root: Path) -> dict[str, Path]:
    """Folders in `root` that are called like a split, by the name it has here."""
    found: dict[str, Path] = {}
    for ours, names in ALIASES.items():
        for name in names:
            for folder in (root / name, root / name.title()):
                if ours not in found and folder.is_dir():
                    found[ours] = folder
    return found


def first_folder(places: Iterable[Path]) -> Path | None:
    """The first of these that is a folder."""
    return next((place for place in places if place.is_dir()), None)


def images_beside(root: Path, annotations: Path, name: str) -> Path:
    """The folder of a split's images: `images/NAME/`, or `NAME/`.

    Raises:
        FileNotFoundError: there is neither.
    """
    places = (root / "images" / name, root / name)
    if (images := first_folder(places)) is not None:
        return images
    raise FileNotFoundError(f"{annotations} is there, its images are not: neither {places[0]} nor {places[1]} exists")
