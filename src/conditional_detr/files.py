"""Files that are whole or absent, and JSON. What grows line by line (`log.jsonl`, `predictions.jsonl`) has its own writer."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

LEFTOVER = re.compile(r"\..+\.([1-9]\d*)\.part", re.DOTALL)  # the names that `write_atomically` gives
DAY = 86_400.0  # seconds


def write_atomically(path: Path, write: Callable[[Path], Any], outlast_power_cuts: bool = True) -> None:
    """Let `write` fill a file beside `path`, then put it in place: readers see the old file or the whole new one.

    Args:
        outlast_power_cuts: wait until the disk has it. Without, thousands of files that can be made anew are written in
            a fraction of the time.

    Raises:
        OSError: the file could not be written (a full disk, no permission); what stood at `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(beside)
        if outlast_power_cuts:
            with open(beside, "r+b") as file:  # Windows flushes files that are open for writing only
                os.fsync(file.fileno())
        beside.chmod(0o666 & ~_umask())  # safetensors writes files that only their owner may read
        os.replace(beside, path)
        if outlast_power_cuts:
            _flush_folder(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a full disk in words that do not name it
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OSError(
            f"cannot write {path}: {reason} ({free:.0f} MiB are free there). Free some space or choose another folder; "
            "nothing that was written before is lost"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Let a renaming outlast a power cut, where the system can."""
    if os.name != "posix":
        return
    with suppress(OSError):  # some file systems have no such thing; the file is in place either way
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove what `write_atomically` left in a folder, and below it, when its process was killed.

    A file goes if no process has the number in its name, or if it is this process's own: call it while this process
    writes nothing there. Windows cannot be asked whether a process lives, so there a file goes when a day old.

    Returns:
        the files that were removed.
    """
    removed = []
    for path in folder.rglob(".*.part"):
        named = LEFTOVER.fullmatch(path.name)
        try:
            if not named or path.is_symlink() or not path.is_file() or not _is_abandoned(path, int(named[1])):
                continue
            path.unlink()
        except OSError:  # gone already, or not ours to remove
            continue
        removed.append(path)
    return removed


def _is_abandoned(path: Path, process: int) -> bool:
    if process == os.getpid():
        return True
    if os.name != "posix":  # os.kill would end the process there, not look for it
        return time.time() - path.stat().st_mtime > DAY
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _umask() -> int:
    """What new files are not allowed; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError:  # halves of characters, which names of files can hold, and JSON's escapes
        content = (json.dumps(value, indent=indent) + "\n").encode("ascii")
    write_atomically(path, lambda beside: beside.write_bytes(content))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON; the message names the file and the place.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, of UTF-8, or of a number of thousands of digits
        raise ValueError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is not JSON that can be read: lists in lists without end") from None
