"""`cdetr data`: a generated data set."""

from __future__ import annotations

from .options import values_of
from .parser import CommandParser


def run(arguments: list[str]) -> None:
    parser = CommandParser(
        "data", "Generate a data set of scenes, with boxes, masks and panoptic maps in COCO's formats."
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
