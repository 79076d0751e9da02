"""`cdetr data`: a data set generated, checked, or converted."""

from __future__ import annotations

import sys
from collections.abc import Callable

from . import data_check
from .options import values_of
from .parser import CommandParser
from .usage import UsageError

HELP = """usage: cdetr data {check,generate,convert} [options]

commands:
  check     say what is wrong with a data set     cdetr data check --data photos --html check.html
  generate  generate a data set of scenes     cdetr data generate --output scenes --train 1000 --val 200
  convert   write a data set in another format    cdetr data convert --data photos --to yolo --output photos_yolo

cdetr data COMMAND --help shows a command's options. Without a command it is generate.
"""
FORMATS = ("coco", "yolo", "voc")


def run(arguments: list[str]) -> int | None:
    """Returns the exit code; None for 0."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        sys.exit(0)  # as every command's parser does
    if not arguments or arguments[0].startswith("-"):
        _generate(arguments)
        return None
    commands: dict[str, Callable[[list[str]], int | None]] = {
        "check": data_check.run,
        "generate": _generate,
        "convert": _convert,
    }
    if arguments[0] not in commands:
        raise UsageError(f"there is no command data {arguments[0]!r}; there are {', '.join(commands)}")
    return commands[arguments[0]](arguments[1:])


def _generate(arguments: list[str]) -> None:
    parser = CommandParser(
        "data generate", "Generate a data set of scenes, with boxes, masks and panoptic maps in COCO's formats."
    )
    parser.add_argument("--output", type=str, required=True, help="folder to write to")
    parser.add_argument("--train", type=int, default=1000, help="number of training images")
    parser.add_argument("--val", type=int, default=200, help="number of validation images")
    parser.add_argument("--test", type=int, default=0, help="number of test images")
    parser.add_argument("--size", type=int, default=96, help="side of the square images in pixels")
    parser.add_argument("--max_objects", type=int, default=5, help="most objects of an image")
    parser.add_argument("--shapes", type=str, nargs="+", default=["circle", "square", "triangle"], help="classes")
    parser.add_argument("--seed", type=int, default=0, help="decides everything that is random")
    values = values_of(parser, arguments)
    from ..data.scenes import generate_scenes

    counts = {split: values.pop(split) for split in ("train", "val", "test")}
    output = values.pop("output")
    generate_scenes(output, {split: count for split, count in counts.items() if count}, **values)
    print(f"data set in {output}: {', '.join(f'{count} {split}' for split, count in counts.items() if count)} images")


def _convert(arguments: list[str]) -> None:
    parser = CommandParser(
        "data convert",
        "Write a data set in another format: every split, with copies of the pictures. What the format cannot say is counted.",
    )
    parser.add_argument("--data", type=str, required=True, help="folder of a data set: COCO, YOLO, Pascal VOC, CVAT, …")
    parser.add_argument("--to", type=str, required=True, help="coco, yolo or voc")
    parser.add_argument("--output", type=str, required=True, help="folder to write to: a new or an empty one")
    parser.add_argument(
        "--task",
        type=str,
        default="",
        help="detection (boxes) or instance (masks); masks where every object has one by default",
    )
    parser.add_argument(
        "--split",
        type=str,
        default="",
        help="make splits where there are none, such as 0.8,0.1,0.1; all is train by default",
    )
    parser.add_argument(
        "--skip_bad_images", type=bool, default=False, help="leave out images that are missing or damaged"
    )
    values = values_of(parser, arguments)
    if values["to"] not in FORMATS:
        raise UsageError(f"--to is {values['to']!r}; it is coco, yolo or voc")
    if values["task"] not in ("", "detection", "instance"):
        raise UsageError(f"--task is {values['task']!r}; it is detection or instance")
    from ..data.convert import convert

    done = convert(
        values["data"],
        values["output"],
        values["to"],
        values["task"] or None,
        values["skip_bad_images"],
        values["split"],
        say=print,
    )
    print(f"data set in {done.folder}: {', '.join(f'{count} {split}' for split, count in done.images.items())} images")
    for what, count in done.lost.items():
        print(f"not in the new files: {count} {what}")
