"""Folders elsewhere, such as `s3://bucket/run` or `gs://bucket/data`, by fsspec, which knows the rest by packages of its own
(s3fs, gcsfs, adlfs, …). What is written there is whole or absent."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

AT_ONCE = 256  # files
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # how one begins


def is_remote(place: str | Path) -> bool:
    """Whether this is an address, such as s3://bucket/folder, and no path."""
    return isinstance(place, str) and ADDRESS.match(place) is not None


def name_in_cache(address: str) -> str:
    """What stands for an address among the files of the cache."""
    return hashlib.blake2b(address.rstrip("/").encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


class RemoteFolder:
    """A folder at an address.

    Raises:
        OSError: nothing that is installed knows such addresses, or it does not answer; so do all methods, in one line that
            has the address.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        with self._named():
            from fsspec.core import url_to_fs

            # An instance of its own: what a transaction holds back is an instance's.
            self.files, path = url_to_fs(address, skip_instance_cache=True)
        self.path = path.rstrip("/")

    def sizes(self) -> dict[str, int]:
        """Bytes of each file in it and below it, by names relative to it; empty where it is not there."""
        with self._named():
            self.files.invalidate_cache()
            found = self.files.find(self.path, detail=True)
        names = {path[len(self.path) :].lstrip("/"): int(facts["size"]) for path, facts in found.items()}
        return {name: size for name, size in names.items() if name and ".." not in name.split("/")}

    def put(self, local: Path, name: str) -> None:
        """Copy a file there: readers see the old one or the whole new one."""
        place = f"{self.path}/{name}"
        with self._named():
            self.files.makedirs(place.rpartition("/")[0], exist_ok=True)
            with self.files.transaction, open(local, "rb") as own, self.files.open(place, "wb") as there:
                shutil.copyfileobj(own, there, 2**22)

    def get(self, names: Sequence[str], folder: Path) -> None:
        """Copy files from there by their names, many at once where it can; each arrives whole or not at all."""
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            beside = [folder / f"{name}.part" for name in some]
            for path in beside:
                path.parent.mkdir(parents=True, exist_ok=True)
            with self._named():
                self.files.get([f"{self.path}/{name}" for name in some], [str(path) for path in beside])
            for path in beside:
                path.replace(path.with_suffix(""))

    def remove(self, name: str) -> None:
        with self._named():
            self.files.rm_file(f"{self.path}/{name}")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each kind of storage has its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OSError(f"{self.address} cannot be used: {reason}") from error
