"""The pictures themselves: each is read once, as a whole, and known again by its bytes and by its look."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ...images.open_file import opened
from ...images.orientation import loaded_orientation, turned, upright
from ...images.rgb import pil_to_rgb
from ...workers import batches_of, leave_signals_to_the_parent
from ..dataset import DetectionDataset
from .findings import HARMS, Example, Findings

LOOK = 16  # pixels of either side of the small grey picture by which looks are compared
SMALLEST = 96  # pixels: JPEG files are decoded at a fraction of their size, while their sides are not below
MOST_BITS = 3  # of 64 in which the hashes of pictures that look alike differ at most
MOST_APART = 6.0  # grey levels of 255, on average, between the looks of such pictures, as far as they have contrast
NEIGHBOURS = 200  # pictures with a part of their hash in common that each is compared with
LEAST_CONTRAST = 4.0  # grey levels of standard deviation: flatter pictures all look alike
MANY = 0.05  # share of pictures with sides exchanged from which on boxes cannot be right
AT_ONCE = 32  # pictures that a loading process hands over


@dataclass(frozen=True)
class Picture:
    """What is known of a picture file.

    Args:
        error: why it cannot be decoded, or "".
        size: height and width as its file has them.
        orientation: EXIF's, 1 (upright) to 8.
        digest: of its bytes.
        bits: 64 of its look: in a picture of 8 × 9 grey pixels, whether each is brighter than the next ("dHash").
        look: 16 × 16 grey pixels, uint8, as it is seen.
    """

    error: str = ""
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    digest: bytes = b""
    bits: int = 0
    look: bytes = bytes(LOOK * LOOK)


def look_at(path: Path) -> Picture:
    """Read and decode a picture."""
    try:
        with opened(path) as image:
            digest = _digest(path)
            size = image.height, image.width
            if image.format == "JPEG":
                image.draft(image.mode, (SMALLEST, SMALLEST))
            orientation = loaded_orientation(image)
            small = upright(_grey(image), orientation)
            look = np.asarray(small.resize((LOOK, LOOK), Image.Resampling.BOX))
            rows = np.asarray(small.resize((9, 8), Image.Resampling.BOX))
        bits = int.from_bytes(np.packbits(rows[:, :-1] > rows[:, 1:]).tobytes(), "big")
        return Picture("", size, orientation, digest, bits, look.tobytes())
    except OSError as error:
        return Picture(str(error))


def _digest(path: Path) -> bytes:
    """Of all its bytes: `holdout.digest` reads the ends only, and what it takes for the same need not be."""
    found = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.digest()


def _grey(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB", "P", "LA", "RGBA", "1", "CMYK", "YCbCr"):
        return image.convert("RGBA").convert("L") if "transparency" in image.info else image.convert("L")
    return Image.fromarray(np.ascontiguousarray(pil_to_rgb(image).permute(1, 2, 0).numpy())).convert("L")


class _Files(Dataset[Picture]):
    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Picture:
        return look_at(self.paths[index])


def look_at_all(paths: Sequence[Path], workers: int, progress: Callable[[int], None]) -> Iterator[Picture]:
    """`look_at`, in this order, by so many processes (0: by this one)."""
    loader = DataLoader(
        _Files(paths),
        batch_size=AT_ONCE,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=leave_signals_to_the_parent,
        generator=torch.Generator(),
    )
    with batches_of(loader) as batches:
        for batch in batches:
            yield from batch
            progress(len(batch))


def check_pictures(data: DetectionDataset, split: str, pictures: Sequence[Picture], found: Findings) -> None:
    """Whether a split's pictures can be decoded, are as large as is said, and which way up they are."""

    def example(index: int, words: str) -> Example:
        return Example(words, data.file_names[index], split, index)

    exchanged = 0
    for index, picture in enumerate(pictures):
        if picture.error:
            words = picture.error.removeprefix(f"{data.image_path(index)}: ")
            found.add("damaged_pictures", example(index, words)).of = len(data)
            continue
        seen, said = turned(picture.size, picture.orientation), tuple(data.sizes[index].tolist())
        if picture.orientation != 1:
            how = "seen" if said == seen else "in the file"
            words = f"EXIF orientation {picture.orientation}; annotated as it is {how}"
            found.add("turned_pictures", example(index, words)).of = len(data)
        if said in (seen, picture.size):
            continue
        name = "exchanged_sizes" if said == seen[::-1] else "other_sizes"
        exchanged += name == "exchanged_sizes"
        words = f"the picture has {seen[1]} × {seen[0]} pixels, the annotations say {said[1]} × {said[0]}"
        found.add(name, example(index, words)).of = len(data)
    if (finding := found.get("exchanged_sizes")) and exchanged <= MANY * len(data):
        finding.severity = HARMS


@dataclass(frozen=True)
class Copies:
    """Pairs of pictures (positions in all that were looked at): the later, and an earlier one that it is like."""

    same: list[tuple[int, int]]
    similar: list[tuple[int, int]]


def find_copies(pictures: Sequence[Picture]) -> Copies:
    """Pictures of the same bytes, and pictures that look alike: their hashes differ in at most `MOST_BITS` bits and their
    looks by few grey levels."""
    first_of: dict[bytes, int] = {}
    same = []
    for index, picture in enumerate(pictures):
        if not picture.error and (first := first_of.setdefault(picture.digest, index)) != index:
            same.append((index, first))
    left = np.array(sorted(first_of.values()), dtype=np.int64)
    if len(left) < 2:
        return Copies(same, [])
    looks = np.frombuffer(b"".join(pictures[i].look for i in left), dtype=np.uint8).reshape(len(left), -1)
    contrast = looks.std(1)
    left, looks, contrast = (values[contrast >= LEAST_CONTRAST] for values in (left, looks, contrast))
    bits = np.array([pictures[i].bits for i in left], dtype=np.uint64)
    similar: dict[int, int] = {}
    for one, two in _near(bits):
        apart = np.abs(looks[one].astype(np.int16) - looks[two]).mean(1)
        alike = apart <= np.minimum(MOST_APART, 0.25 * np.minimum(contrast[one], contrast[two]))
        for a, b in zip(left[one[alike]].tolist(), left[two[alike]].tolist(), strict=True):
            later, earlier = max(a, b), min(a, b)
            similar[later] = min(similar.get(later, earlier), earlier)
    return Copies(same, sorted(similar.items()))


def _near(bits: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs whose hashes differ in at most `MOST_BITS` bits: one of `MOST_BITS` + 1 equal parts of them is then equal, so
    only those with an equal part are compared, and each with the next `NEIGHBOURS` alone, in the order of their hashes: the
    frames of a film may all have one. Some pairs come twice."""
    step = 64 // (MOST_BITS + 1)
    for part in range(MOST_BITS + 1):
        keys = (bits >> np.uint64(part * step)) & np.uint64(2**step - 1)
        order = np.lexsort((bits, keys))
        starts = np.flatnonzero(np.concatenate(([True], keys[order][1:] != keys[order][:-1])))
        for low, high in itertools.pairwise([*starts.tolist(), len(order)]):
            group = order[low:high]
            for offset in range(1, min(len(group), NEIGHBOURS + 1)):
                one, two = group[:-offset], group[offset:]
                near = _ones(bits[one] ^ bits[two]) <= MOST_BITS
                if near.any():
                    yield one[near], two[near]


def _ones(values: np.ndarray) -> np.ndarray:
    """How many bits are set. (n,) uint64 -> (n,)"""
    return np.unpackbits(values.view(np.uint8).reshape(len(values), 8), axis=1).sum(1)


def check_copies(
    sets: dict[str, DetectionDataset], pictures: Sequence[Picture], of_split: dict[str, Findings], across: Findings
) -> None:
    """Pictures that are twice, in a split or in two.

    Args:
        pictures: of all splits, one after another.
    """
    owner = [(split, index) for split, data in sets.items() for index in range(len(data))]
    copies = find_copies(pictures)
    for pairs, name in ((copies.same, "same_pictures"), (copies.similar, "similar_pictures")):
        for later, earlier in pairs:
            (split, index), (other, first) = owner[later], owner[earlier]
            here, there = sets[split].file_names[index], sets[other].file_names[first]
            if split == other and here == there:
                continue  # one file listed twice, which is said of the list
            if split == other:
                of_split[split].add(name, Example(f"as {there}", here, split, index, (), (other, first))).of = len(
                    sets[split]
                )
            else:
                words = f"in {split}, as {there} in {other}"
                across.add(f"{name}_across", Example(words, here, split, index, (), (other, first)))
