"""What a format of data sets tells about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...config import Task
from ..dataset import DetectionDataset


@dataclass(frozen=True)
class Format:
    """A way in which data sets lie in files; `data.splits` has the list of all.

    Args:
        tasks: what it has annotations for.
        layouts: where a split's files lie in a folder, for people, with `{split}` for its name.
        find_split: (folder, name of the split) -> annotation file and image folder, or None where it has no such split;
            FileNotFoundError where it has half of one.
        is_of: (annotation file, task) -> whether the file is read as this format for this task.
        read: (annotation file, image folder, task, whether to leave out missing images) -> the data set, or OSError or
            ValueError that says what is wrong and where.
    """

    tasks: tuple[Task, ...]
    layouts: tuple[str, ...]
    find_split: Callable[[Path, str], tuple[Path, Path] | None]
    is_of: Callable[[Path, Task], bool]
    read: Callable[[str | Path, str | Path, Task, bool], DetectionDataset]


def images_beside(root: Path, annotations: Path, name: str) -> Path:
    """The folder of a split's images: `images/NAME/`, or `NAME/`.

    Raises:
        FileNotFoundError: there is neither.
    """
    places = (root / "images" / name, root / name)
    for images in places:
        if images.is_dir():
            return images
    raise FileNotFoundError(f"{annotations} is there, its images are not: neither {places[0]} nor {places[1]} exists")
