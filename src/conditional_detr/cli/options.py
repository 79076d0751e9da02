"""Options that several commands have: functions that add them to a parser, and that check and take their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.shares import SHARES
from ..options import PRECISIONS
from .parser import CommandParser
from .usage import UsageError


def values_of(parser: CommandParser, arguments: list[str], output_is_file: bool = False) -> dict[str, Any]:
    """The values of a command line, those of shared options in their ranges.

    Args:
        output_is_file: --output may be one; otherwise it is a folder.

    Raises:
        UsageError: it means nothing; one line in plain words.
    """
    values = parser.parse_args(arguments).as_dict()
    if values.get("batch_size", 1) < 1:
        raise UsageError(f"batch_size is {values['batch_size']}; it must be positive")
    for name in ("threshold", "panoptic_threshold"):
        if values.get(name) is not None and not 0 <= values[name] <= 1:
            raise UsageError(f"--{name} is {values[name]}; scores are in 0…1")
    if values.get("workers", 0) < -1:
        raise UsageError(f"workers is {values['workers']}; it is a number of processes, or -1 for one for each core")
    if not output_is_file and values.get("output") and Path(values["output"]).is_file():
        raise UsageError(f"--output is {values['output']}, which is a file; it is a folder")
    if not 0 <= values.get("threads", 0) <= 1024:
        raise UsageError(f"threads is {values['threads']}; it is a number of threads, or 0 for those that are free")
    return values


def add_model(parser: CommandParser) -> None:
    parser.add_argument("--model", type=str, required=True, help="a saved model's folder, a .pth file or a hub name")


def add_split(parser: CommandParser) -> None:
    """Which part of a data set is meant."""
    parser.add_argument("--split", type=str, default="val", help="which split of the data set")
    parser.add_argument(
        "--shares", type=str, default=SHARES, help="how the splits are made where there are none: train's --split"
    )


def add_task(parser: CommandParser) -> None:
    parser.add_argument(
        "--task", type=str, default="", help="detection, instance or panoptic; the most the model can by default"
    )


def check_task(values: dict[str, Any]) -> None:
    if values["task"] not in ("", "detection", "instance", "panoptic"):
        raise UsageError(f"--task is {values['task']!r}; it is detection, instance or panoptic")


def add_pictures(parser: CommandParser, output: str, required: bool = True) -> None:
    """Which pictures to detect in, how sure to be, and where to write; `output` is the folder's name by default."""
    presence: dict[str, Any] = {"required": True} if required else {"default": []}
    parser.add_argument("--images", type=str, nargs="+", help="files, folders or glob patterns", **presence)
    parser.add_argument("--output", type=str, default=output, help="folder to write to")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score of a detection, 0 to 1")


def add_tile(parser: CommandParser) -> None:
    parser.add_argument(
        "--tile",
        type=str,
        default="",
        help="cut large pictures into overlapping tiles, so that small objects are found: their side in pixels, or auto, which "
        "cuts pictures that the model would see at less than half their size",
    )


def tile_of(values: dict[str, Any]) -> dict[str, Any]:
    """Take what `add_tile` added out of `values`, as an argument of `predictions` and `evaluate`. Pictures may then be of any size."""
    given = values.pop("tile")
    if not given:
        return {}
    if given != "auto" and not (given.isdecimal() and int(given)):
        raise UsageError(f"--tile is {given!r}; it is a number of pixels, or auto")
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # beyond which Pillow takes a picture for an attack
    return {"tile": given if given == "auto" else int(given)}


def add_panoptic_threshold(parser: CommandParser) -> None:
    parser.add_argument(
        "--panoptic_threshold",
        type=float | None,
        default=None,
        help="least score of a panoptic segment; 0.85 for DETR and 0.3 for Conditional DETR by default",
    )


def add_workers(parser: CommandParser) -> None:
    parser.add_argument(
        "--workers",
        type=int,
        default=-1,
        help="processes that decode; -1: none where a CPU predicts, else one for each core, at most 8",
    )


def add_cluster(parser: CommandParser) -> None:
    parser.add_argument(
        "--cluster",
        type=str,
        default="",
        help="let a cluster of Ray's do it: host:port of its head, auto on a machine of it, or local for one of this machine",
    )
    parser.add_argument(
        "--actors",
        type=int,
        default=0,
        help="of a cluster: how many hold the model; 0: one a GPU, or one for each --threads cores",
    )


def check_cluster_options(values: dict[str, Any]) -> None:
    """Raises UsageError for options that mean nothing without a cluster, or with one."""
    if values["actors"] < 0:
        raise UsageError(f"--actors is {values['actors']}; it is a number of processes, or 0")
    if not values["cluster"]:
        if values["actors"]:
            raise UsageError("--actors is for --cluster")
        return
    if values["workers"] != -1:
        raise UsageError("--workers is for one machine: on a cluster Ray sees to who reads")
    if values["tile"]:
        raise UsageError("--tile is for one machine: leave it out with --cluster")


def add_device(parser: CommandParser) -> None:
    parser.add_argument("--device", type=str, default="", help="such as cpu or cuda:1; the best there is by default")


def add_threads(parser: CommandParser) -> None:
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="CPU threads; 0: as many as other programs leave cores, when the command starts",
    )


def add_speed(parser: CommandParser) -> None:
    parser.add_argument("--precision", type=str, default="fp32", help="fp32, bf16 or fp16")
    parser.add_argument(
        "--compile", type=bool, default=False, help="compile the model first, which takes minutes: for many images"
    )


def add_engine(parser: CommandParser) -> None:
    parser.add_argument(
        "--engine",
        type=str,
        default="",
        help="openvino or onnxruntime, to compute on the CPU in place of PyTorch; handing the model over takes half a minute, "
        "which cdetr export does once",
    )


def add_image_size(parser: CommandParser) -> None:
    parser.add_argument(
        "--image_size", type=int, default=0, help="short side in pixels that images are given; 0: the model's own"
    )
    parser.add_argument(
        "--max_size", type=int, default=0, help="longest long side; 0: the model's own, or in its ratio to --image_size"
    )


def image_size_of(values: dict[str, Any]) -> dict[str, Any]:
    """Take what `add_image_size` added out of `values`, as arguments of `Detector.from_pretrained`."""
    given = {name: values.pop(name) for name in ("image_size", "max_size")}
    for name, value in given.items():
        if value < 0:
            raise UsageError(f"--{name} is {value}; it is a number of pixels")
    return {name: value for name, value in given.items() if value}


def speed_of(values: dict[str, Any]) -> dict[str, Any]:
    """Take what `add_speed` added out of `values`, as arguments of `Detector.from_pretrained`."""
    precision = values.pop("precision")
    if precision not in PRECISIONS:
        raise UsageError(f"--precision is {precision!r}; it is {', '.join(PRECISIONS)}")
    engine = values.pop("engine", "")
    return {"dtype": PRECISIONS[precision], "compile": values.pop("compile"), **({"engine": engine} if engine else {})}
