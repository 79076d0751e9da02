"""Pascal VOC: an XML file an image; splits are lists in ImageSets/Main, or folders.

Written here, not read by hotcoco's `from_voc`: that one (1.3) believes the sizes that the XML says, reads one folder, no
lists, and no folder with names of its own, and tells bytes instead of lines. The coordinates are taken as it, supervision and
VOC's own tools take them: pixels counted from 1, both ends inclusive, so that x0 = xmin - 1 and x1 = xmax.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...config import Task
from ..dataset import DetectionDataset
from .collect import Collected, Place
from .format import Format, Found, first_folder, said, split_folders
from .image_files import SUFFIXES, by_stem, files_with, has_file_with
from .xml_files import number, outermost, read_xml

NAME = "Pascal VOC"
XML_FOLDERS = ("annotations", "Annotations", "labels", "xml", "xmls", "Annotation")
IMAGE_FOLDERS = ("images", "JPEGImages", "Images", "imgs", "img")


@dataclass(frozen=True)
class Share:
    """XML files of one folder, and where their pictures are."""

    xmls: Path
    images: Path
    list_file: Path | None = None  # one stem a line; None: every XML file of the folder

    def stems(self) -> list[str]:
        """Of its XML files.

        Raises:
            FileNotFoundError: the list names one that is not there.
        """
        there = [name[:-4] for name in files_with(self.xmls, (".xml",), below=False)]
        if self.list_file is None:
            return there
        known = set(there)
        stems = []
        for line, words in enumerate(map(str.split, self.list_file.read_text(encoding="utf-8").splitlines()), start=1):
            if not words:
                continue
            names = (" ".join(words), words[0], words[0].removesuffix(".xml"), words[0].removesuffix(".jpg"))
            stem = next((name for name in names if name in known), words[0])
            if stem not in known:
                raise FileNotFoundError(
                    f"{self.list_file}:{line}: lists {stem}, and {self.xmls / stem}.xml is not there"
                )
            stems.append(stem)
        return stems


def find(place: Path) -> Found | None:
    """VOCdevkit's folders, one or several (VOC2007, VOC2012); or XML files in folders called like splits, in
    `annotations/` with the like, or all in one."""
    if not place.is_dir():
        return None
    shares = _devkit(place) or _folders(place)
    if not shares:
        return None
    if "trainval" in shares:
        whole = shares.pop("trainval")
        if "train" not in shares:
            shares["train"] = whole
    every = [share for own in shares.values() for share in own]

    def read(split: str, task: Task, skip_bad: bool) -> DetectionDataset:
        return read_shares(place, place, shares[split], every, skip_bad)

    def files(split: str) -> tuple[Path, Path] | None:
        return (
            (shares[split][0].list_file or shares[split][0].xmls, shares[split][0].images) if split in shares else None
        )

    return Found(place, tuple(name for name in shares if name), read, files)


def _devkit(root: Path) -> dict[str, list[Share]]:
    """Splits that ImageSets/Main lists, here or in folders such as VOC2007 or VOCdevkit/VOC2007."""
    shares: dict[str, list[Share]] = {}
    for lists in sorted(
        (*root.glob("ImageSets/Main"), *root.glob("*/ImageSets/Main"), *root.glob("*/*/ImageSets/Main"))
    ):
        own = lists.parent.parent
        xmls, images = own / "Annotations", first_folder(own / name for name in IMAGE_FOLDERS)
        if not xmls.is_dir():
            continue
        for file in sorted(lists.glob("*.txt")):
            if "_" not in file.stem:  # person_train.txt says which images have a person
                shares.setdefault(said(file.stem), []).append(Share(xmls, images or own, file))
    return shares


def _folders(root: Path) -> dict[str, list[Share]]:
    """Splits that are folders of XML files; "" for one folder of all."""
    shares: dict[str, list[Share]] = {}
    for name, folder in split_folders(root).items():  # train/, train/annotations/
        for xmls in (folder, *(folder / inner for inner in XML_FOLDERS)):
            if _has_voc(xmls):
                beside = (folder / inner for inner in IMAGE_FOLDERS)
                shares[name] = [Share(xmls, first_folder(beside) or folder)]
                break
    for xmls in () if shares else [root / inner for inner in XML_FOLDERS]:  # annotations/train/
        for name, folder in split_folders(xmls).items():
            if name not in shares and _has_voc(folder):
                places = (root / inner / folder.name for inner in (*IMAGE_FOLDERS, "."))
                shares[name] = [Share(folder, first_folder(places) or folder)]
    for xmls in () if shares else (root, *(root / inner for inner in XML_FOLDERS)):
        if "" not in shares and _has_voc(xmls):
            shares[""] = [Share(xmls, first_folder(root / inner for inner in IMAGE_FOLDERS) or root)]
    return shares


def _has_voc(folder: Path) -> bool:
    """Whether a folder has XML files that begin as VOC's do; one that is broken counts, since its fault is to be said."""
    first = has_file_with(folder, ".xml") if folder.is_dir() else None
    return first is not None and outermost(first) in ("annotation", "")


def read_shares(
    place: Path, root: Path, shares: Sequence[Share], every: Sequence[Share], skip_bad: bool
) -> DetectionDataset:
    """Read a split.

    Args:
        place: what the data set is called after.
        every: of all splits, since the classes are all that are named in any of them.

    Raises:
        OSError: a picture or an XML file is missing or damaged.
        ValueError: an XML file is wrong; its name and line are said.
    """
    own = [(share, stem) for share in shares for stem in share.stems()]
    read = {(share.xmls, stem): _annotation(share.xmls / f"{stem}.xml") for share, stem in own}
    names = {name for annotation in read.values() for name in annotation.names()}
    for share in every:
        for stem in share.stems():
            if (share.xmls, stem) not in read:
                names |= _annotation(share.xmls / f"{stem}.xml").names()
    if not names:
        raise ValueError(
            f"{place} ({NAME}): not one <object> with a <name> in its XML files; there is nothing to learn"
        )
    classes = sorted(names)
    found = Collected(place, root, NAME, classes, range(1, len(classes) + 1), masks=False, skip_bad=skip_bad)
    class_of = {name: i for i, name in enumerate(classes)}
    pictures = {share.images: by_stem(files_with(share.images, SUFFIXES, below=False)) for share in shares}
    for share, stem in own:
        annotation = read.pop((share.xmls, stem))
        _add_image(found, annotation, _picture(found, share, pictures[share.images], stem, annotation), class_of)
    with_xml = {name for share in shares if share.list_file is None for name in share.stems()}
    unlabelled = sum(len(set(pictures[share.images]) - with_xml) for share in shares if share.list_file is None)
    if unlabelled:
        found.warnings.append(f"{unlabelled} pictures have no XML file and are left out")
    return found.dataset()


@dataclass
class _Annotation:
    """What an XML file says; of its elements, which take ten times the memory, nothing is kept."""

    path: Path
    file_name: str
    size: tuple[int, int]  # height and width; 0 where it says none
    objects: list[tuple[int, str, tuple[float, float, float, float], bool]]  # line, class, corners, difficult

    def names(self) -> set[str]:
        return {name for _, name, _, _ in self.objects}


def _annotation(path: Path) -> _Annotation:
    tree = read_xml(path, "annotation")
    objects = []
    for element in tree.all("object"):
        name, box = element.text_of("name"), element.child("bndbox")
        if not name:
            Place(path, element.line).fault("<object> has no <name>; expected its class")
        if box is None:
            Place(path, element.line).fault("<object> has no <bndbox>; expected xmin, ymin, xmax, ymax")
        x0, y0, x1, y1 = (number(path, box, side, box.text_of(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
        if x1 < x0 or y1 < y0:
            Place(path, box.line).fault(
                f"<bndbox> {x0:g}, {y0:g}, {x1:g}, {y1:g} ends before it begins; expected xmin ≤ xmax and ymin ≤ ymax"
            )
        objects.append((element.line, name, (x0, y0, x1, y1), element.text_of("difficult") == "1"))
    size = tree.child("size")
    try:
        claimed = (0, 0) if size is None else (int(float(size.text_of("height"))), int(float(size.text_of("width"))))
    except (ValueError, OverflowError):
        claimed = (0, 0)
    return _Annotation(path, os.path.basename(tree.text_of("filename").replace("\\", "/")), claimed, objects)


def _picture(found: Collected, share: Share, pictures: dict[str, str], stem: str, annotation: _Annotation) -> str:
    """The name of an XML file's picture, counted from the data set's folder: the one of the XML file's name, or else that
    which <filename> says, since people rename files and leave what stands in them."""
    claimed = annotation.file_name
    name = pictures.get(stem) or pictures.get(os.path.splitext(claimed)[0]) or claimed or f"{stem}.jpg"
    return os.path.relpath(share.images / name, found.images).replace(os.sep, "/")


def _add_image(found: Collected, annotation: _Annotation, picture: str, class_of: dict[str, int]) -> None:
    if (sizes := found.picture_size(picture, Place(annotation.path))) is None:
        return
    height, width = _size(annotation, sizes)
    found.add_image(picture, height, width, Place(annotation.path))
    for line, name, (x0, y0, x1, y1), difficult in annotation.objects:
        # Tools that count from 0 write 0 for the first pixel: one outside is no fault.
        box = (x0 - 1, y0 - 1, x1, y1)
        found.add_object(Place(annotation.path, line), class_of[name], box, crowd=difficult, rounding=1.5)


def _size(annotation: _Annotation, sizes: tuple[tuple[int, int], tuple[int, int]]) -> tuple[int, int]:
    """Height and width that the boxes count in: the picture's, as it is seen, or as its file has it where the XML says so.
    The XML's own only where boxes fit into it and not into the picture, which has been made smaller since."""
    seen, stored = sizes
    claimed = annotation.size
    if claimed in sizes:
        return claimed
    right, bottom = (max((corners[i] for _, _, corners, _ in annotation.objects), default=0) for i in (2, 3))

    def fits(size: tuple[int, int]) -> bool:
        return right <= size[1] + 1 and bottom <= size[0] + 1

    return next((size for size in (seen, stored, claimed) if fits(size)), seen)


def _read(annotations: str | Path, images: str | Path, task: Task, skip_bad: bool) -> DetectionDataset:
    xmls, folder = Path(annotations), Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {folder} does not exist")
    share = Share(xmls, folder)
    return read_shares(xmls, folder, [share], [share], skip_bad)


VOC = Format(
    name=NAME,
    tasks=("detection",),
    layouts=("{split}/*.xml (Pascal VOC)", "ImageSets/Main/{split}.txt"),
    find=find,
    is_of=lambda annotations, task: annotations.is_dir() and _has_voc(annotations),
    read=_read,
)
