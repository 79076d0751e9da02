"""What was read of large annotation files, kept in the user's cache: the arrays of the data set in a file, which is mapped
the next time. All processes of a machine share its memory, and of several that start together one reads.

An index is a safetensors file, and holds for one state of the annotations: their size, times and a sample of their bytes.
It is made only of what was read without a fault, and believed only while the pictures that were there are there, and those
that were missing (where that is allowed) are missing. One that is old, damaged or of another version is made anew without a word.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors.numpy import save_file

from ...files import remove_leftovers, write_atomically
from ..dataset import DetectionDataset
from ..object_masks import InstanceMasks, PanopticMasks
from ..sharing import SharedList
from .image_files import exist

logger = logging.getLogger(__name__)

VERSION = "3"  # changes with what is in an index, and with what the readers make of a file
LEAST = 2**22  # bytes of annotations: fewer are read in some hundredths of a second
MOST = 16  # indices that are kept; those used last
PATIENCE = 600.0  # seconds that another process is waited for, which is reading
SAMPLES, SAMPLE = 64, 2**12  # pieces of the file that are looked at, and their bytes
KINDS = {"I64": np.int64, "F32": np.float32, "BOOL": np.bool_, "U8": np.uint8}  # as safetensors calls them
LISTS = ("image_ids", "file_names", "masks.file_names")  # one item an image
GIVEN = ("annotation_file", "image_folder", "ground_truth", "panoptic_truth", "masks")  # fields that are no content


def cache_folder() -> Path | None:
    """Where indices are: the folder `CDETR_CACHE`, and nowhere if it is set to nothing; else in the user's cache."""
    if (chosen := os.environ.get("CDETR_CACHE")) is not None:
        return Path(chosen) if chosen else None
    own = {"win32": os.environ.get("LOCALAPPDATA", ""), "darwin": os.path.expanduser("~/Library/Caches")}
    caches = own.get(sys.platform, os.environ.get("XDG_CACHE_HOME", ""))
    if not os.path.isabs(caches):  # a relative one is to be passed over (XDG Base Directory Specification)
        caches = os.path.expanduser("~/.cache")
    return Path(caches) / "conditional-detr"


def indexed(
    annotations: Path,
    images: Path,
    pngs: Path | None,
    masks: bool,
    skip_missing: bool,
    read: Callable[[], DetectionDataset],
    **truth: Any,
) -> DetectionDataset:
    """A data set from its index, or else read, and the index made.

    Args:
        annotations, images, pngs: file, folder of its images, and of the panoptic PNG files where it has them.
        masks: whether it is read with masks.
        skip_missing: whether pictures may be missing.
        read: reads the data set.
        truth: `ground_truth` and, of panoptic data, `panoptic_truth`, see `DetectionDataset`.

    Raises:
        OSError, ValueError: those of `read`.
    """
    folder = cache_folder()
    if folder is None or not annotations.is_file() or annotations.stat().st_size < LEAST:
        return read()
    names = json.dumps([os.path.realpath(annotations), os.path.realpath(images), str(pngs), masks])
    digest = hashlib.blake2b(names.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    index = folder / f"{digest}.safetensors"
    given = {"annotation_file": annotations, "image_folder": images, **truth}
    if (found := _load(index, given, pngs, skip_missing)) is not None:
        return found
    with _alone(index) as writable:
        if (found := _load(index, given, pngs, skip_missing)) is not None:  # made by another process in the meantime
            return found
        state = _state(annotations)
        dataset = read()
        if writable:
            _save(index, dataset, state)
            return _load(index, given, pngs, skip_missing) or dataset  # in memory that others share
        return dataset


@contextmanager
def _alone(index: Path) -> Iterator[bool]:
    """Wait while another process makes this index; gives whether the folder can be written to."""
    try:
        index.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(index.with_suffix(".lock"))
        lock.acquire(timeout=PATIENCE)
    except (OSError, Timeout, NotImplementedError):  # read only, full, or without locks
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _state(annotations: Path) -> str:
    """What changes when a file does."""
    found = annotations.stat()
    digest = hashlib.blake2b(digest_size=16)
    with open(annotations, "rb") as file:
        for start in np.linspace(0, max(found.st_size - SAMPLE, 0), SAMPLES).astype(int).tolist():
            file.seek(start)
            digest.update(file.read(SAMPLE))
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {digest.hexdigest()}"


def _save(index: Path, dataset: DetectionDataset, state: str) -> None:
    """Write an index, and remove those that were not used for long. One that cannot be written is none."""
    fields = {f.name: getattr(dataset, f.name) for f in dataclasses.fields(dataset) if f.name not in GIVEN}
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in fields.items() if name not in arrays}
    masks = dataset.masks
    if isinstance(masks, InstanceMasks):
        arrays |= {"masks.run_length_bytes": masks.run_length_bytes, "masks.first": masks.first}
    elif isinstance(masks, PanopticMasks):
        arrays |= {"masks.segment_ids": masks.segment_ids}
        others["masks.file_names"] = masks.file_names
    for name in LISTS:
        if name in others:
            items = SharedList(others.pop(name))
            arrays |= {f"{name}.texts": items.texts, f"{name}.first": items.first}
    arrays["others"] = np.frombuffer(json.dumps(others).encode(), dtype=np.uint8)
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    facts = {"version": VERSION, "state": state, "crc": str(_crc(arrays))}
    try:
        remove_leftovers(index.parent)
        write_atomically(index, lambda beside: save_file(arrays, beside, facts), outlast_power_cuts=False)
        kept = sorted(index.parent.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in kept[MOST:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".lock").unlink(missing_ok=True)
    except OSError as error:
        logger.debug("no index: %s", error)


def _crc(arrays: dict[str, np.ndarray]) -> int:
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(arrays[name].reshape(-1).view(np.uint8).data, crc)
    return crc


def _load(index: Path, given: dict[str, Any], pngs: Path | None, skip_missing: bool) -> DetectionDataset | None:
    """What an index holds, in memory that all who map the file share; None where there is none to be believed."""
    try:
        facts, arrays = _map(index)
        if (facts["version"], facts["state"]) != (VERSION, _state(given["annotation_file"])):
            return None
        if facts["crc"] != str(_crc(arrays)):
            return None
        others = json.loads(arrays.pop("others").tobytes())
        dataset = _restored(arrays, others, given, pngs)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = exist(dataset.image_folder, dataset.file_names)
    if isinstance(dataset.masks, PanopticMasks):
        there += exist(dataset.masks.folder, dataset.masks.file_names)
    if not all(there) or (dataset.missing and not skip_missing) or any(exist(dataset.image_folder, dataset.missing)):
        return None
    with suppress(OSError):
        os.utime(index)  # it is in use
    return dataset


def _map(index: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The facts and arrays of a safetensors file. The arrays can be written to, which changes the file for nobody."""
    mapped = np.asarray(np.memmap(index, dtype=np.uint8, mode="c"))
    start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    header = json.loads(mapped[8:start].tobytes())
    facts = header.pop("__metadata__")
    arrays = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        arrays[name] = mapped[start + first : start + end].view(KINDS[entry["dtype"]]).reshape(entry["shape"])
    return facts, arrays


def _restored(
    arrays: dict[str, np.ndarray], others: dict[str, Any], given: dict[str, Any], pngs: Path | None
) -> DetectionDataset:
    masks: InstanceMasks | PanopticMasks | None = None
    for name in LISTS:
        if f"{name}.texts" in arrays:
            others[name] = SharedList.of(arrays.pop(f"{name}.texts"), arrays.pop(f"{name}.first"))
    if "masks.run_length_bytes" in arrays:
        masks = InstanceMasks(arrays["sizes"], arrays.pop("masks.run_length_bytes"), arrays.pop("masks.first"))
    elif "masks.segment_ids" in arrays and pngs is not None:
        names = others.pop("masks.file_names")
        masks = PanopticMasks(arrays["sizes"], pngs, names, arrays["first"], arrays.pop("masks.segment_ids"))
    fields: dict[str, Any] = {**given, **arrays, **others, "masks": masks}
    return DetectionDataset(**fields)
