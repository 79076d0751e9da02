"""Options by name and value, of recipes and of the command line: a wrong one is said in plain words, with what fits.

No PyTorch here: the command line reads this file.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin

# PyTorch's types, by the names that users give them; under autocast None computes in float32.
PRECISIONS: dict[str, str | None] = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}
# What other programs call the same thing; of several, the first that the command has is named.
OTHER_NAMES = {
    "amp": ("precision",),
    "batch": ("batch_size",),
    "batchsize": ("batch_size",),
    "bs": ("batch_size",),
    "checkpoint": ("init_from", "model"),
    "ckpt": ("init_from", "model"),
    "classes": ("shapes",),
    "clip_max_norm": ("clip_norm",),
    "coco_path": ("data",),
    "conf": ("threshold",),
    "conf_thres": ("threshold",),
    "confidence": ("threshold",),
    "cpus": ("threads",),
    "data_dir": ("data",),
    "data_path": ("data",),
    "dataset": ("data",),
    "dataset_dir": ("data",),
    "epoch": ("epochs",),
    "fp16": ("precision",),
    "grad_accum": ("accumulate",),
    "gradient_accumulation_steps": ("accumulate",),
    "half": ("precision",),
    "image": ("images",),
    "img": ("images",),
    "img_size": ("image_size",),
    "imgsz": ("image_size",),
    "input": ("images",),
    "learning_rate": ("lr",),
    "load": ("init_from", "model"),
    "load_from": ("init_from", "model"),
    "lr_backbone": ("backbone_lr",),
    "lr_drop": ("drop_epochs",),
    "masks": ("task",),
    "max_epochs": ("epochs",),
    "max_grad_norm": ("clip_norm",),
    "n_epochs": ("epochs",),
    "num_epochs": ("epochs",),
    "num_threads": ("threads",),
    "num_train_epochs": ("epochs",),
    "num_workers": ("workers",),
    "out": ("output",),
    "output_dir": ("output",),
    "patience": ("early_stopping",),
    "pretrained": ("init_from", "model"),
    "project": ("output",),
    "recipe": ("config",),
    "resolution": ("image_size",),
    "save_dir": ("output",),
    "score_threshold": ("threshold",),
    "size": ("image_size",),
    "source": ("images",),
    "warmup": ("warmup_steps",),
    "wd": ("weight_decay",),
    "weights": ("init_from", "model"),
}
# What is no option, and how it is said instead.
ELSEWHERE = {
    "device": "training takes the GPU that there is; CUDA_VISIBLE_DEVICES chooses among several, and hides all where empty",
    "gpus": "several GPUs take a process each: torchrun --nproc_per_node N -m conditional_detr train …",
    "num_classes": "the classes are those of the data",
    "optimizer": "the optimizer is AdamW",
}


def checked(name: str, value: Any, kind: Any) -> Any:
    """The value as a field of this type holds it: a list for a tuple, text for a path, an int for numpy's.

    Args:
        name: put before the message.
        kind: bool, int, float, str, a Literal, list[int] or dict[str, Any].

    Raises:
        ValueError: it is of another type, or a number that is not finite; the message says what fits.
    """
    origin, fits = get_origin(kind), False
    if origin is Literal:
        fits = isinstance(value, str) and value in get_args(kind)
    elif kind is bool:
        fits = isinstance(value, bool)
    elif isinstance(value, bool):
        fits = False  # though Python counts it among the numbers
    elif kind is int and isinstance(value, Integral):
        return int(value)
    elif kind is float and isinstance(value, Real) and _finite(value):
        return value if type(value) in (int, float) else float(value)
    elif kind is str and isinstance(value, str | os.PathLike):
        return os.fspath(value)
    elif origin is list and isinstance(value, list | tuple):
        try:
            return [checked(name, entry, get_args(kind)[0]) for entry in value]
        except ValueError:
            pass
    elif origin is dict:
        fits = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if fits:
        return value
    raise ValueError(f"{name} is {value!r}; it {expectation(kind)}")


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float's
        return False


def expectation(kind: Any) -> str:
    """What a value of this type must be, as the end of a sentence: "is fp32, bf16 or fp16", "must be a number"."""
    if get_origin(kind) is Literal:
        *others, last = get_args(kind)
        return f"is {', '.join(others)} or {last}"
    if get_origin(kind) is list:
        return "must be a list of whole numbers, such as [40, 80]"
    if get_origin(kind) is dict:
        return "must be fields with values, such as {num_queries: 100}"
    numbers = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return f"must be {numbers.get(next(iter(get_args(kind)), kind), 'another')}"


def instead(name: str, known: Iterable[str], option: str = "") -> str:
    """What an unknown name may have been meant for: "; did you mean lr?", or "" where nothing is like it.

    Args:
        known: the names that there are.
        option: put before each of them, such as "--".
    """
    known = list(known)
    plain = name.replace("-", "_")
    others = (plain, f"model.{plain}", f"augmentation.{plain}", *OTHER_NAMES.get(plain.lower(), ()))
    close = [other for other in others if other in known][:1] or difflib.get_close_matches(
        plain, sorted(set(known)), n=3
    )
    if close:
        return f"; did you mean {' or '.join(option + other for other in close)}?"
    return f"; {ELSEWHERE[plain]}" if plain in ELSEWHERE else ""
