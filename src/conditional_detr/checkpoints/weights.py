"""Files of weights, read without executing anything that is in them."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..messages import shown


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
            + (f" ({shown(refused.group(1))[1:-1]})" if refused else "")
        ) from None
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except Exception as error:  # damaged pickles raise errors of nearly every type
        reason = shown(str(error).split("\n")[0])[1:-1] or "it ends too early"
        raise ValueError(f"{path} is damaged or not a PyTorch file ({type(error).__name__}: {reason})") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors`, `.bin`, `.pt` or `.pth` file.

    Raises:
        ValueError: the file is damaged or holds no weights.
    """
    return read_weights_and_arguments(path)[0]


def read_weights_and_arguments(path: Path, only_look: bool = False) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a file, and the arguments of the training script that the original repositories save beside them;
    None where the file has none.

    Args:
        only_look: see `read_pickled`.

    Raises:
        ValueError: the file is damaged or holds no weights.
    """
    if path.suffix in (".yaml", ".yml", ".json"):
        raise ValueError(f"{path} is no file of weights; a model is a folder, a .pth file or a hub name")
    if path.suffix == ".safetensors":
        try:
            return load_file(path), None
        except SafetensorError as error:
            raise ValueError(
                f"{path} is damaged or not a safetensors file: {shown(str(error))[1:-1]}; download or save it again"
            ) from None
    content = read_pickled(path, only_look)
    arguments = content.get("args") if isinstance(content, dict) else None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = (
        {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
        if isinstance(content, dict)
        else {}
    )
    if not tensors:
        raise ValueError(f"{path} holds no weights")
    return tensors, arguments
