"""`cdetr explain`: where a model looked for what it found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..messages import printable
from .options import add_device, add_image_size, add_model, add_pictures, add_threads, image_size_of, values_of
from .parser import CommandParser
from .progress import progress
from .threads import use_threads
from .usage import UsageError

if TYPE_CHECKING:
    from ..explain.figures import AttentionFigures


def run(arguments: list[str]) -> None:
    values = values_of(_parser(), arguments)
    if values["detections"] < 1:
        raise UsageError(f"--detections is {values['detections']}; it is a number of detections")
    use_threads(values.pop("threads"))
    _explain(values)


def _parser() -> CommandParser:
    parser = CommandParser(
        "explain",
        "Show where a model looked for each detection: the spatial, the content and the combined attention of each head of a "
        "decoder layer, as pictures and arrays; and, over all of them, to which side of an object each head looks.",
    )
    add_model(parser)
    add_pictures(parser, output="explanations")
    parser.add_argument("--detections", type=int, default=5, help="most detections of an image, the best first")
    parser.add_argument("--layer", type=int, default=-1, help="of the decoder, from 0; -1 is the last")
    parser.add_argument("--draw", type=bool, default=True, help="draw pictures, beside the arrays")
    parser.add_argument("--json", type=str, default="", help="also write the figures here, as JSON")
    add_device(parser)
    add_threads(parser)
    add_image_size(parser)
    return parser


def _explain(values: dict[str, Any]) -> None:
    from ..explain.write import explain_files
    from ..files import write_json
    from ..images.find import find_images
    from ..predict.detector import Detector

    images = find_images(values["images"])
    detector = Detector.from_pretrained(values["model"], device=values["device"] or None, **image_size_of(values))
    output = Path(values["output"])
    with progress("explaining", len(images), True) as advance:
        figures = explain_files(
            detector,
            images,
            output,
            threshold=values["threshold"],
            most=values["detections"],
            layer=values["layer"],
            draw=values["draw"],
            progress=advance,
        )
    if values["json"]:
        write_json(Path(values["json"]), figures.to_dict())
    if figures.detections:
        _print_figures(figures)
    else:
        print(f"no detection above {values['threshold']:g}: lower --threshold to see what the model takes for likely")
    print(f"{figures.detections} detections in {len(images)} images, in {printable(output)}")


def _print_figures(figures: AttentionFigures) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("head", "looks at", "x", "y", "spread", "growth", "correlation", box=None, pad_edge=False)
    for head in figures.heads("spatial"):
        x, y = (
            f"{mean:+.2f} ± {deviation:.2f}"
            for mean, deviation in ((head.x, head.x_deviation), (head.y, head.y_deviation))
        )
        further = ["–" if value is None else f"{value:.2f}" for value in (head.growth, head.correlation)]
        table.add_row(str(head.head), head.looks_at, x, y, f"{head.spread:.1f} px", *further)
    print(
        "spatial attention: its centre from the box's (±1 is the box's edge), its spread, and how that grows with the object"
    )
    Console(highlight=False).print(table)
