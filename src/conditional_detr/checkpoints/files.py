"""Files that are whole or absent, and weights that are read without executing anything."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside `path`, then put it in place: readers see the old file or the whole new one.

    Raises:
        OSError: the file could not be written (a full disk, no permission); what stood at `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        beside.chmod(0o666 & ~_umask())  # safetensors writes files that only their owner may read
        os.replace(beside, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors have their own words for a full disk, which say nothing to a person
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OSError(
            f"cannot write {path}: {reason} ({free:.0f} MiB are free there). Free some space or choose another folder; "
            "nothing that was written before is lost"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _umask() -> int:
    """What new files are not allowed; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is not JSON; the message names the file and the place.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:  # also bytes that are no text, and numbers of thousands of digits
        raise ValueError(f"{path} is not JSON: {error}") from None


def read_pickled(path: Path, only_look: bool = False) -> dict[str, Any]:
    """Read a `.pth`, `.pt` or `.bin` file without executing what is in it: tensors, plain values, and the
    `argparse.Namespace` that the original repositories save.

    Args:
        only_look: leave the tensors on disk where the format can: for their names and shapes, and for plain values.

    Raises:
        ValueError: it is damaged, or holds anything else.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            mapped = only_look and zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        refused = re.search(r"Unsupported \w+: (?:GLOBAL )?(\S+)", str(error))
        raise ValueError(
            f"{path} was not opened: it holds more than tensors and plain values, and opening it could run code"
            + (f" ({refused.group(1)})" if refused else "")
        ) from None
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except (OSError, RuntimeError, EOFError, LookupError, AttributeError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise ValueError(f"{path} is damaged or not a PyTorch file ({type(error).__name__}: {reason})") from None


def read_weights(path: Path, only_look: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors`, `.bin`, `.pt` or `.pth` file; `only_look`: see `read_pickled`.

    Raises:
        ValueError: the file is damaged or holds no weights.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is damaged or not a safetensors file: {error}; download or save it again"
            ) from None
    content = read_pickled(path, only_look)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = (
        {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, dict)
        else {}
    )
    if not tensors:
        raise ValueError(f"{path} holds no weights")
    return tensors
