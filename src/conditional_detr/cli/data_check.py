"""`cdetr data check`: what is wrong with a data set, as text, JSON and a page of pictures."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .options import values_of
from .parser import CommandParser
from .progress import progress
from .usage import UsageError

if TYPE_CHECKING:
    from ..data.examine.examination import Examination
    from ..data.examine.findings import Finding

TASKS = ("detection", "instance", "panoptic")
COLOURS = {"stops": "bold red", "harms": "yellow", "know": "cyan"}
MOST_CLASSES = 30  # in the table


def run(arguments: list[str]) -> int:
    """Returns 1 where something stops training, else 0."""
    values = values_of(_parser(), arguments)
    if values["task"] not in TASKS:
        raise UsageError(f"--task is {values['task']!r}; it is {', '.join(TASKS[:-1])} or {TASKS[-1]}")
    for name in ("image_size", "max_size", "output_stride", "num_queries"):
        if values[name] < 1:
            raise UsageError(f"--{name} is {values[name]}; it must be positive")
    for name in ("json", "html"):
        _check_target(name, values[name], values["data"])
    from ..data.examine.examination import examine
    from ..data.examine.objects import Seen
    from ..files import write_atomically, write_json

    seen = Seen(values["image_size"], values["max_size"], values["output_stride"], values["num_queries"])
    with ExitStack() as bar:
        result = examine(
            values["data"],
            values["task"],
            seen,
            values["workers"],
            lambda total: bar.enter_context(progress("looking at pictures", total, sys.stderr.isatty())),
        )
    if values["html"]:
        from ..evaluate.data_page import data_page

        page = data_page(result)
        write_atomically(Path(values["html"]), lambda beside: beside.write_text(page, encoding="utf-8"))
    if values["json"] == "-":
        print(json.dumps(result.to_dict(), indent=2))
        return int(result.stops)
    if values["json"]:
        write_json(Path(values["json"]), result.to_dict())
    _print(result)
    for name in ("json", "html"):
        if values[name]:
            print(f"{name.upper()} in {values[name]}")
    return int(result.stops)


def _parser() -> CommandParser:
    parser = CommandParser(
        "data check",
        "Look at all of a data set, pictures included, and say what is wrong with it, with counts, examples and what to do. "
        "Exit code 1 where something stops training. Nothing is written into the data's folder.",
    )
    parser.add_argument("--data", type=str, required=True, help="folder of a data set: COCO, YOLO, Pascal VOC, CVAT, …")
    parser.add_argument("--task", type=str, default="detection", help="detection, instance or panoptic")
    parser.add_argument("--image_size", type=int, default=800, help="short side in pixels that the model will see")
    parser.add_argument("--max_size", type=int, default=1333, help="longest long side")
    parser.add_argument("--output_stride", type=int, default=32, help="pixels of a cell of the model's feature map")
    parser.add_argument("--num_queries", type=int, default=300, help="objects that the model can find in an image")
    parser.add_argument("--json", type=str, default="", help="also write all of it here, as JSON; - prints it instead")
    parser.add_argument("--html", type=str, default="", help="also write a page here, with pictures, in one file")
    parser.add_argument(
        "--workers", type=int, default=-1, help="processes that decode; -1: one for each core, at most 8"
    )
    return parser


def _check_target(name: str, target: str, data: str) -> None:
    """Nothing is written into the data set's folder."""
    if not target or (name == "json" and target == "-"):
        return
    path, own = Path(target).resolve(), Path(data).resolve()
    own = own if own.is_dir() else own.parent
    if path.is_dir():
        raise UsageError(f"--{name} is {target}, which is a folder; it is a file")
    if own in path.parents:
        raise UsageError(f"--{name} is {target}, in the data set's folder, where nothing is written; name one outside")


def _print(result: Examination) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..data.examine.findings import SEVERITIES
    from ..data.examine.objects import class_counts

    console = Console(highlight=False)
    console.print(f"{escape(str(result.data))}: {result.format}, {result.task}")
    for data in result.sets.values():
        for note in data.notes:
            console.print(escape(note))
    table = Table("split", "images", "objects", "most in an image", box=None, pad_edge=False)
    for split, data in result.sets.items():
        objects = data.objects_per_image()
        table.add_row(escape(split or "all"), *map(str, (len(data), objects.sum(), objects.max(initial=0))))
    console.print(table)
    names = list(dict.fromkeys(name for data in result.sets.values() for name in data.category_names))
    classes = Table("class", *(escape(split or "objects") for split in result.sets), box=None, pad_edge=False)
    counts = [dict(zip(d.category_names, class_counts(d).tolist(), strict=True)) for d in result.sets.values()]
    for name in names[:MOST_CLASSES]:
        classes.add_row(escape(name), *(str(own.get(name, "–")) for own in counts))
    console.print(classes)
    if len(names) > MOST_CLASSES:
        console.print(f"… and {len(names) - MOST_CLASSES} classes more (--json has them all)")
    for severity, meaning in SEVERITIES.items():
        own = [finding for finding in result.findings if finding.severity == severity]
        if own:
            console.print(f"\n[{COLOURS[severity]}]{meaning.capitalize()}[/]")
        for finding in own:
            console.print(escape(_line(finding)), soft_wrap=True)
            for example in finding.examples[:2]:
                console.print(f"    e.g. {escape(str(example))}", soft_wrap=True)
            console.print(f"    → {escape(finding.cure)}", soft_wrap=True)
    if not result.findings:
        console.print("\nNothing is wrong.")
    if result.advice is not None:
        console.print("\n[bold]Recommended[/]")
        for option, reason in result.advice.lines():
            console.print(f"  {option}: {reason}", soft_wrap=True)


def _line(finding: Finding) -> str:
    of = f" of {finding.of:,}" if finding.of is not None else ""
    where = f"{finding.split}: " if finding.split else ""
    rule = f" ({finding.detail})" if finding.detail else ""
    return f"  {where}{finding.what}{rule}: {finding.count:,}{of}"
