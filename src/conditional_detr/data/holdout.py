"""Splits of a data set that comes without: the same every time, and identical pictures never on both sides."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from .dataset import DetectionDataset

SPLITS = ("train", "val", "test")
END = 2**16  # bytes read at either end of a file


def part_of(dataset: DetectionDataset, split: str, shares: Sequence[float], whole: str = "") -> DetectionDataset:
    """A data set's images that are "train", "val" or "test"; all of it where nothing else has a share.

    Args:
        shares: of these, in their order; they need not add up to 1.
        whole: what the data set is called where it is itself a split.

    Raises:
        ValueError: this split has no share, or there are too few different pictures.
    """
    number = SPLITS.index(split) if split in SPLITS else len(shares)
    if number >= len(shares) or not shares[number]:
        raise ValueError(
            f"{dataset.annotation_file} has no '{split}' split, and --split {_numbers(shares)} makes none of it"
        )
    if shares[number] == sum(shares):
        return dataset
    parts = divide([digest(dataset.image_path(i)) for i in range(len(dataset))], shares)
    chosen = [i for i, part in enumerate(parts) if part == number]
    if not chosen:
        raise ValueError(
            f"{dataset.annotation_file} has too few different pictures ({len(set(parts))} parts could be made of {len(dataset)}) "
            f"for a '{split}' split: give more, name annotations and images of each split, or train on all of it "
            "without validation (--split 1,0)"
        )
    own = dataset.subset(chosen)
    of = f"of '{whole}'" if whole else "of a data set without splits"
    own.notes.append(
        f"'{split}': {len(own)} of the {len(dataset)} images {of}, the same every time (--split {_numbers(shares)})"
    )
    return own


def _numbers(shares: Sequence[float]) -> str:
    return ",".join(f"{share:g}" for share in shares)


def divide(digests: Sequence[bytes], shares: Sequence[float]) -> list[int]:
    """For each picture the part it belongs to: pictures are ordered by their digests, which is as good as by chance, and
    cut at the shares; those of one digest stay together. A part with a share has a picture wherever there are enough."""
    total = sum(shares)
    ends: list[int] = []
    for share, upto in zip(shares, itertools.accumulate(shares), strict=True):
        least = (ends[-1] if ends else 0) + (share > 0)
        ends.append(max(round(len(digests) * upto / total), least))
    missing = ends[-1] - len(digests)
    if missing > 0:  # small parts took one more than there are; the first gives it
        ends = [max(end - missing, 0) for end in ends]
    order = sorted(range(len(digests)), key=lambda i: (digests[i], i))
    parts = [0] * len(digests)
    start = 0
    for _, group in itertools.groupby(order, key=lambda i: digests[i]):
        members = list(group)
        part = next(k for k, end in enumerate(ends) if start < end)
        for i in members:
            parts[i] = part
        start += len(members)
    return parts


def digest(picture: Path) -> bytes:
    """What pictures of the same bytes have in common. Of large files only size and both ends are read, so different
    pictures may have it in common, too, and then stay together, which does no harm."""
    found = hashlib.blake2b(digest_size=8)
    try:
        with open(picture, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            found.update(str(size).encode())
            found.update(file.read(END))
            if size > 2 * END:
                file.seek(-END, os.SEEK_END)
                found.update(file.read(END))
            else:
                found.update(file.read())
    except OSError:  # it is said elsewhere
        found.update(os.fsencode(picture.name))
    return found.digest()
