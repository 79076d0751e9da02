"""Data sets elsewhere (`--data s3://bucket/coco`): fetched once to the user's cache, by one process of a machine."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from filelock import FileLock

from ..remote import RemoteFolder, is_remote, name_in_cache
from .formats.index import cache_folder

logger = logging.getLogger(__name__)


def local_folder(place: str | Path) -> Path:
    """The folder of a data set, which is fetched first where it is an address. Files are known by name and size: those that
    are there are not fetched again, also when an earlier attempt was broken off.

    Raises:
        FileNotFoundError: nothing is there.
        OSError: it cannot be read, or the cache not be written.
    """
    return _fetched(str(place)) if is_remote(place) else Path(place)


@functools.cache  # once a process, however often it asks
def _fetched(address: str) -> Path:
    cache = cache_folder()
    if cache is None:
        raise OSError(
            f"{address} would be fetched to a cache, and CDETR_CACHE says that there is none: set it to a folder"
        )
    folder = cache / "data" / name_in_cache(address) / Path(address.rstrip("/")).name
    there = RemoteFolder(address)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        sizes = there.sizes()
        if not sizes:
            raise FileNotFoundError(f"data folder {address} does not exist, or is empty")
        wanted = [name for name, size in sizes.items() if _size(folder / name) != size]
        if wanted:
            amount = sum(sizes[name] for name in wanted) / 2**20
            logger.warning("fetching %d files (%.0f MiB) of %s to %s", len(wanted), amount, address, folder)
            there.get(wanted, folder)
    return folder


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
