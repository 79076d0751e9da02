"""YOLO's data sets: a data.yaml that says where the images are, and beside them a text file an image.

Written here, not read by hotcoco's `from_yolo`: that one (1.3) refuses polygons, takes pixels and NaN for fractions, reads
one flat folder and no data.yaml's paths, and loses the suffixes of images.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from ...config import Task
from ...messages import listed_briefly, shown
from ..dataset import DetectionDataset
from .collect import Collected, Place
from .format import ALIASES, Format, Found, first_folder, split_folders
from .image_files import SUFFIXES, files_with
from .polygons import polygon_box

NAME = "YOLO"
FARTHEST = 2.0  # sides of an image: a number beyond is no fraction but a pixel
CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels")  # one name a line, where there is no data.yaml


def find(place: Path) -> Found | None:
    """A data.yaml, or another .yaml file with `names`, in a folder; or such a file itself. Where there is none, a list of
    classes as LabelImg and Darknet write it, beside images and labels."""
    settings = _settings_file(place)
    if settings is None:
        return None
    root = settings.parent
    if settings.suffix.lower() not in (".yaml", ".yml"):
        content: dict[str, Any] = {}
    else:
        content = _read_settings(settings)
    named = {
        ours: content[name]
        for ours, names in ALIASES.items()
        for name in names
        if content.get(name) not in (None, "", [])
    }
    if not named:
        named = {name: [os.fspath(folder)] for name, folder in _folders(root).items()}
    base = _base(settings, content)

    def entries(split: str) -> list[Any]:
        value = named[split] if split else ["images" if (root / "images").is_dir() else "."]
        return value if isinstance(value, list) else [value]

    def read(split: str, task: Task, skip_bad: bool) -> DetectionDataset:
        pictures = [picture for entry in entries(split) for picture in _pictures(settings, base, split, entry)]
        return read_pictures(settings, base, pictures, task, skip_bad, needs_labels=split != "test")

    def files(split: str) -> tuple[Path, Path] | None:
        return (settings, _resolve(settings, base, split, entries(split)[0])) if split in named else None

    return Found(settings, tuple(named), read, files)


def _settings_file(place: Path) -> Path | None:
    if place.is_file():
        return place if place.suffix.lower() in (".yaml", ".yml") and _names_of(place) else None
    yamls = [place / name for name in files_with(place, (".yaml", ".yml"), below=False)]
    first = [place / "data.yaml", place / "data.yml", place / "dataset.yaml"]
    for file in (*(file for file in first if file in yamls), *yamls):
        if _names_of(file):
            return file
    for name in CLASS_LISTS:
        if (place / name).is_file() and _has_labels(place):
            return place / name
    return None


def _names_of(file: Path) -> bool:
    """Whether a file seems to be a data.yaml."""
    if file.name == "data.yaml":
        return True
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "names" in content


def _has_labels(root: Path) -> bool:
    folders = [root, root / "labels", *_folders(root).values()]
    return any(set(files_with(folder, (".txt",), below=False)) - set(CLASS_LISTS) for folder in folders)


def _folders(root: Path) -> dict[str, Path]:
    """Splits where data.yaml names none: images/train, or train/images, or train."""
    inside = split_folders(root / "images")
    own = split_folders(root)
    return inside or {name: first_folder([folder / "images"]) or folder for name, folder in own.items()}


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content.get("names"):
        raise ValueError(f"{file}: 'names' is missing; a YOLO data set lists its classes there: names: [cat, dog]")
    return content


def class_names(file: Path) -> list[str]:
    """The names of classes 0…C-1.

    Raises:
        ValueError: data.yaml has no names, or no list of them without a gap, or two alike.
    """
    if file.suffix.lower() not in (".yaml", ".yml"):
        found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        names: Any = [name for name in found if name]
    else:
        content = _read_settings(file)
        names = content["names"]
        if isinstance(names, dict):
            try:
                numbers = {int(number): name for number, name in names.items()}
            except (TypeError, ValueError):
                raise ValueError(f"{file}: names has keys that are no class numbers: {shown(list(names))}") from None
            if sorted(numbers) != list(range(len(numbers))):
                raise ValueError(
                    f"{file}: names has the class numbers {listed_briefly(sorted(numbers))}; expected 0…{len(numbers) - 1}, "
                    "each once"
                )
            names = [numbers[number] for number in range(len(numbers))]
        if not isinstance(names, list):
            raise ValueError(f"{file}: names is {shown(names)}; expected a list of classes: names: [cat, dog]")
        count = content.get("nc")
        if isinstance(count, int) and count != len(names):
            raise ValueError(f"{file}: nc is {count}, and names has {len(names)} classes; correct one of them")
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{file}: two classes are called {twice!r}; classes are told apart by name")
    return names


def _base(settings: Path, content: dict[str, Any]) -> Path:
    """The folder that data.yaml's paths count from: its `path`, where that is a folder here, else its own. Ultralytics
    counts `path` from a folder of all data sets, which other machines do not have."""
    path = content.get("path")
    if isinstance(path, str) and path:
        for place in (settings.parent / path, Path(path).expanduser()):
            if place.is_dir():
                return place
    return settings.parent


def _resolve(settings: Path, base: Path, split: str, entry: Any) -> Path:
    """A folder or a .txt file that data.yaml names. Roboflow writes `../train/images` and means `train/images`.

    Raises:
        FileNotFoundError: it is nowhere.
    """
    if not isinstance(entry, str):
        raise ValueError(f"{settings}: {split} is {shown(entry)}; expected a folder, a .txt file, or a list of them")
    inner = entry
    while inner.startswith(("../", "..\\", "./", ".\\")):
        inner = inner.lstrip(".")[1:]
    for place in (base / entry, settings.parent / entry, base / inner, settings.parent / inner):
        if place.exists():
            return place
    raise FileNotFoundError(
        f"{settings}: {split} is {entry}, which is neither in {base} nor beside the file; correct 'path' or '{split}' in it"
    )


def _pictures(settings: Path, base: Path, split: str, entry: Any) -> list[Path]:
    """The pictures of a folder, and below it, or those that a .txt file lists."""
    place = _resolve(settings, base, split, entry)
    if place.is_dir():
        return [place / name for name in files_with(place, SUFFIXES)]
    pictures = []
    for line in place.read_text(encoding="utf-8").splitlines():
        if name := line.strip():
            picture = place.parent / name
            if not picture.is_file() and (base / name).is_file():
                picture = base / name
            pictures.append(picture)
    return pictures


def read_pictures(
    settings: Path, base: Path, pictures: list[Path], task: Task, skip_bad: bool, needs_labels: bool = True
) -> DetectionDataset:
    """Read the labels of pictures.

    Raises:
        OSError: a picture is missing or damaged, or (where labels are needed) there is no label file at all.
        ValueError: a label file is wrong; its name and line are said.
    """
    names = class_names(settings)
    content = _read_settings(settings) if settings.suffix.lower() in (".yaml", ".yml") else {}
    poses = bool(content.get("kpt_shape"))
    found = Collected(settings, base, NAME, names, range(len(names)), task == "instance", skip_bad)
    labels = _Labels()
    for picture in pictures:
        file_name = _relative(picture, base)
        if (size := found.picture_size(file_name)) is None:
            continue
        height, width = size[0]
        found.add_image(file_name, height, width)
        if (file := labels.of(picture)) is not None:
            _read_labels(found, file, len(names), settings, poses)
    if needs_labels and pictures and not labels.found:
        looked_in = " or ".join(str(folder) for folder in labels.folders_of(pictures[0]))
        raise FileNotFoundError(
            f"{settings}: none of its {len(pictures)} images has a label file (the first: {pictures[0].name}); looked for "
            f"{pictures[0].stem}.txt in {looked_in}"
        )
    if poses:
        found.warnings.append("key points (kpt_shape in data.yaml) are passed over")
    return found.dataset()


def _relative(picture: Path, base: Path) -> str:
    """A picture's name counted from the data set's folder, where it is in it."""
    try:
        return picture.relative_to(base).as_posix()
    except ValueError:
        relative = os.path.relpath(picture, base)
        return str(picture) if relative.startswith("..") else Path(relative).as_posix()


class _Labels:
    """Label files by their pictures; each folder is listed once."""

    def __init__(self) -> None:
        self.listed: dict[Path, set[str]] = {}
        self.folders: dict[Path, tuple[Path, ...]] = {}
        self.found = 0

    def folders_of(self, picture: Path) -> tuple[Path, ...]:
        """`labels/` in place of the last `images/` of its path, and the picture's own folder."""
        parent = picture.parent
        if parent not in self.folders:
            parts = list(parent.parts)
            places = [parent]
            if "images" in parts:
                last = len(parts) - 1 - parts[::-1].index("images")
                parts[last] = "labels"
                places.insert(0, Path(*parts))
            self.folders[parent] = tuple(places)
        return self.folders[parent]

    def of(self, picture: Path) -> Path | None:
        name = picture.stem + ".txt"
        for folder in self.folders_of(picture):
            if folder not in self.listed:
                self.listed[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
            if name in self.listed[folder]:
                self.found += 1
                return folder / name
        return None


def _read_labels(found: Collected, file: Path, classes: int, settings: Path, poses: bool) -> None:
    """Add the objects of a label file: a line is `class cx cy w h` or `class x1 y1 x2 y2 …`, fractions of the sides."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text file of labels") from None
    if not text.strip():
        return
    height, width = found.sizes[-1]
    name = os.fspath(file)
    for line, words in enumerate(map(str.split, text.splitlines()), start=1):
        if not words:
            continue
        place = Place(name, line)
        try:
            values = [float(word) for word in words]
        except ValueError:
            place.fault(f"{shown(' '.join(words))} is not a row of numbers; expected class cx cy w h")
        number = values[0]
        if not 0 <= number < classes or number != int(number):
            last = f"0…{classes - 1}"
            place.fault(
                f"class {words[0]} is not in {settings}, which has {last}; correct the number, or add the class to names"
            )
        if poses:
            values = values[:5]
        count = len(values)
        if count < 5 or count % 2 == 0:
            more = "; is the last one a score? Take it away" if count == 6 else ""
            place.fault(
                f"has {count} numbers; expected class cx cy w h, or class and the x y of at least 3 points{more}"
            )
        largest = max(map(abs, values[1:]))
        if not largest <= FARTHEST:
            place.fault(
                f"has {largest:g}; expected fractions of the image's sides, 0…1. Divide pixels by its width ({width}) and "
                f"height ({height})"
            )
        if count == 5:
            _, cx, cy, w, h = values
            box = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
            found.add_object(place, int(number), box)
        else:
            polygon = [value * side for value, side in zip(values[1:], [width, height] * (count // 2), strict=True)]
            found.add_object(place, int(number), polygon_box(polygon), polygons=[polygon])


def _read(annotations: str | Path, images: str | Path, task: Task, skip_bad: bool) -> DetectionDataset:
    settings, folder = Path(annotations), Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {folder} does not exist")
    pictures = [folder / name for name in files_with(folder, SUFFIXES)]
    return read_pictures(settings, folder, pictures, task, skip_bad)


YOLO = Format(
    name=NAME,
    tasks=("detection", "instance"),
    layouts=("data.yaml (YOLO: images/{split}/ and labels/{split}/)",),
    find=find,
    is_of=lambda annotations, task: annotations.suffix.lower() in (".yaml", ".yml"),
    read=_read,
)
