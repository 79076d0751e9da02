"""`cdetr demo`: see `demo_run`."""

from __future__ import annotations

from .options import add_threads, values_of
from .parser import CommandParser
from .threads import use_threads
from .usage import UsageError


def run(arguments: list[str]) -> None:
    parser = CommandParser(
        "demo", "Generate scenes, train a detector on them from scratch, evaluate it, and draw what it finds."
    )
    parser.add_argument("--task", type=str, default="detection", help="detection, or panoptic for masks and maps too")
    parser.add_argument(
        "--output", type=str, default="", help="folder to write to (default: runs/demo, runs/demo_panoptic)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the scenes and the training")
    add_threads(parser)
    values = values_of(parser, arguments)
    if values["task"] not in ("detection", "panoptic"):
        raise UsageError(f"--task is {values['task']!r}; the demo is of detection or panoptic")
    values["output"] = values["output"] or ("runs/demo" if values["task"] == "detection" else "runs/demo_panoptic")
    use_threads(values.pop("threads"))
    from .demo_run import run_demo

    run_demo(**values)
