"""A run whose `--output` is an address (`s3://bucket/run`): it trains in a folder of the user's cache, and a thread copies what is
finished there, so that no step waits for a network.

Every file of a run is written whole (or, of the log, line by line), and arrives whole: whoever continues the run, here or
elsewhere, fetches what is newer there than in the cache, and takes the newest whole checkpoint of that.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ..data.formats.index import cache_folder
from ..files import write_atomically
from ..remote import RemoteFolder, is_remote, name_in_cache
from .checkpoint_files import checkpoints, step_in_name
from .distributed import join
from .recipe import Recipe

logger = logging.getLogger(__name__)
PAUSE = 5.0  # seconds between two looks at what has changed


def folder_of(output: str) -> Path:
    """The folder in which a run trains: in the cache where its output is an address."""
    if not is_remote(output):
        return Path(output)
    return (cache_folder() or Path(tempfile.gettempdir()) / "conditional-detr") / "runs" / name_in_cache(output)


def recipe_of(output: str) -> Path:
    """Where the recipe of a run at an address is, if there is one; the run is fetched first."""
    mirror = Mirror(output)
    mirror.fetch()
    return mirror.folder / "recipe.yaml"


@contextmanager
def mirrored(recipe: Recipe) -> Iterator[Recipe]:
    """In the block, train by the recipe that this gives; afterwards all is where `output` says.

    Raises:
        OSError: that place cannot be read at the beginning, or not be written at the end.
    """
    if not is_remote(recipe.output):
        yield recipe
        return
    state, mirror = join(), Mirror(recipe.output)
    if state.local_process_index == 0:
        mirror.fetch()
    if state.process_index == 0:
        mirror.start()
    try:
        yield dataclasses.replace(recipe, output=str(mirror.folder))
    except BaseException:
        try:
            mirror.finish()
        except OSError as error:
            logger.warning("%s; all of the run is in %s", error, mirror.folder)
        raise
    mirror.finish()


class Mirror:
    """A run's folder, and its copy elsewhere.

    Args:
        output: the address.
    """

    def __init__(self, output: str) -> None:
        self.there, self.folder = RemoteFolder(output), folder_of(output)
        self._sent: dict[
            str, tuple[int, int] | None
        ] = {}  # size and time of what is there; None: of another run's time
        self._ending, self._thread = threading.Event(), threading.Thread(target=self._keep, daemon=True)

    def fetch(self) -> None:
        """Take what is newer there. A folder in the cache of a run that is there no more is forgotten."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_suffix(".lock")):
            self._fetch()

    def _fetch(self) -> None:
        sizes = self.there.sizes()
        self._sent = dict.fromkeys(sizes)
        if "recipe.yaml" not in sizes:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        if _newest(Path(name) for name in sizes if name.startswith("checkpoints/")) <= _newest(
            checkpoints(self.folder / "checkpoints")
        ):
            return
        self.there.get([name for name in sizes if not _is_unfinished(name)], self.folder)

    def start(self) -> None:
        """Begin to copy what there will be.

        Raises:
            OSError: nothing can be written there.
        """
        trial = self.folder / ".may_write"
        write_atomically(trial, lambda beside: beside.touch())
        self.there.put(trial, trial.name)
        self.there.remove(trial.name)
        trial.unlink()
        self._thread.start()

    def finish(self) -> None:
        """Copy what is left. On processes that did not `start`, nothing happens.

        Raises:
            OSError: it cannot be copied; it is all in `folder`.
        """
        if self._thread.is_alive():
            self._ending.set()
            self._thread.join()
            self.copy()

    def copy(self) -> None:
        """Copy what has changed, checkpoints last, and remove the checkpoints that are kept no more."""
        own = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if not _is_unfinished(name) and path.is_file():
                state = path.stat()
                own[name] = (state.st_size, state.st_mtime_ns)
        for name in sorted(own, key=lambda name: (name.startswith("checkpoints/"), name)):
            if self._sent.get(name) != own[name]:
                try:
                    self.there.put(self.folder / name, name)
                except OSError:
                    if (self.folder / name).exists():  # else a checkpoint that is kept no more
                        raise
                    continue
                self._sent[name] = own[name]
        for name in [name for name in self._sent if name.startswith("checkpoints/") and name not in own]:
            self.there.remove(name)
            del self._sent[name]

    def _keep(self) -> None:
        told = False
        while not self._ending.wait(PAUSE):
            try:
                self.copy()
                told = False
            except OSError as error:
                if not told:  # once for each interruption
                    logger.warning("%s; it is tried again while training goes on in %s", error, self.folder)
                told = True


def _is_unfinished(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/")) or name.endswith((".part", ".aside"))


def _newest(paths: Iterator[Path] | list[Path]) -> int:
    """The last step of checkpoints, by their names; -1 where there are none."""
    return max((number for path in paths if (number := step_in_name(path)) is not None), default=-1)
