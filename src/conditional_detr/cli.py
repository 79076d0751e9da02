"""`cdetr`: parse, call the engine, print. Heavy imports wait until they are needed, so that `--help` is instant."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import __version__

HELP = """usage: cdetr COMMAND [options]

Conditional DETR and DETR: from a labelled folder to a trained, measured, usable detector.

commands:
  train     train a detector         cdetr train --config finetune --data path/to/coco
  eval      score a detector         cdetr eval --model runs/finetune/model --data path/to/coco
  predict   detect in pictures       cdetr predict --model runs/finetune/model --images photos/
  demo      all of it, on generated scenes, in a few minutes on a CPU
  data      generate a data set of scenes with boxes, masks and panoptic maps
  recipes   list the recipes that are shipped

cdetr COMMAND --help shows a command's options; cdetr --version the version.
"""


class UsageError(Exception):
    """A command line that means nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0; 1 for a run that failed, 2 for bad usage, 128 + signal for one that was stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"conditional-detr {__version__}")
        return 0
    if not (ours := logging.getLogger(__package__)).handlers:  # other libraries speak for themselves
        ours.addHandler(logging.StreamHandler())
    try:
        if arguments[0] not in COMMANDS:
            raise UsageError(f"there is no command {arguments[0]!r}; there are {', '.join(COMMANDS)}")
        COMMANDS[arguments[0]](arguments[1:])
        return 0
    except UsageError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:  # the reader of our output left; there is nobody to tell
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    except Exception as error:
        signal_number = getattr(error, "signal", None)
        if signal_number is not None:
            return _fail(f"{error}. Continue with --resume auto", 128 + signal_number)
        if isinstance(error, OSError | ValueError | RuntimeError) and not os.environ.get("CDETR_TRACEBACK"):
            return _fail(str(error), 1)
        raise


def _fail(message: str, code: int) -> int:
    print("cdetr: " + " ".join(message.split()), file=sys.stderr)
    return code


def _parser(command: str, description: str) -> Any:
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        """Errors are one line and end in `main`."""

        def error(self, message: str, ex: Exception | None = None) -> Any:  # type: ignore[override]
            text = " ".join(str(message).split())
            raise UsageError(f"{text} (see cdetr {command} --help)")

    return Parser(prog=f"cdetr {command}", description=description, exit_on_error=True)


def _train(arguments: list[str]) -> None:
    from .data.augmentation import Augmentation
    from .engine.recipe import Recipe, check_recipe_file, find_recipe

    parser = _parser("train", "Train a detector. Every value of the recipe can be overridden here.")
    parser.add_argument("--config", action="config", help="a recipe by name (see cdetr recipes), or a .yaml file")
    parser.add_class_arguments(Recipe, sub_configs=False)
    arguments, name = _with_recipe_file(arguments, find_recipe, check_recipe_file)
    try:
        values = _values(parser, arguments)
        values.pop("config", None)
        values["output"] = values["output"] or f"runs/{name}"
        values["augmentation"] = Augmentation(**values["augmentation"])
        recipe = Recipe(**values)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None

    from .engine.train import train

    train(recipe)


def _with_recipe_file(
    arguments: list[str], find: Callable[[str], Any], check: Callable[[Any], None]
) -> tuple[list[str], str]:
    """Put the recipe's file in place of its name, and return its name."""
    arguments, name = list(arguments), "train"
    for i, argument in enumerate(arguments):
        value = argument.removeprefix("--config=") if argument.startswith("--config=") else None
        if argument == "--config" and i + 1 < len(arguments):
            value = arguments[i + 1]
        if value is None:
            continue
        try:
            path = find(value)
            check(path)
        except ValueError as error:
            raise UsageError(str(error)) from None
        name = path.stem
        if argument == "--config":
            arguments[i + 1] = str(path)
        else:
            arguments[i] = f"--config={path}"
    return arguments, name


def _eval(arguments: list[str]) -> None:
    parser = _parser(
        "eval",
        "Score a model on a COCO data set: COCO's figures for boxes, masks and panoptic maps, and of each class.",
    )
    parser.add_argument("--model", type=str, required=True, help="a saved model's folder, a .pth file or a hub name")
    parser.add_argument("--data", type=str, default="", help="folder of a COCO data set")
    parser.add_argument("--split", type=str, default="val", help="which split of the data set")
    parser.add_argument(
        "--task", type=str, default="", help="detection, instance or panoptic; the most the model can by default"
    )
    parser.add_argument(
        "--panoptic_threshold",
        type=float | None,
        default=None,
        help="least score of a panoptic segment; 0.85 for DETR and 0.3 for Conditional DETR by default",
    )
    parser.add_argument(
        "--annotations", type=str, default="", help="annotation file, in place of the one found in data"
    )
    parser.add_argument("--images", type=str, default="", help="image folder, in place of the one found in data")
    parser.add_argument("--batch_size", type=int, default=8, help="images of a batch, on each process")
    parser.add_argument(
        "--workers",
        type=int,
        default=-1,
        help="processes that decode; -1: none where a CPU predicts, else one for each core, at most 8",
    )
    _add_speed(parser)
    _add_image_size(parser)
    parser.add_argument("--predictions", type=str, default="", help="also write predictions here, as COCO results JSON")
    parser.add_argument("--metrics", type=str, default="", help="also write the figures here, as JSON")
    parser.add_argument("--device", type=str, default="", help="such as cpu or cuda:1; the best there is by default")
    parser.add_argument(
        "--skip_bad_images", type=bool, default=False, help="count unreadable images instead of stopping"
    )
    values = _values(parser, arguments)
    if bool(values["annotations"]) != bool(values["images"]):
        raise UsageError("--annotations and --images go together: give both or neither")
    if not values["annotations"] and not values["data"]:
        raise UsageError("give --data FOLDER, or --annotations FILE with --images FOLDER")
    if values["task"] not in ("", "detection", "instance", "panoptic"):
        raise UsageError(f"--task is {values['task']!r}; it is detection, instance or panoptic")

    import torch
    from accelerate import PartialState

    from .checkpoints.files import write_json
    from .data.coco import find_split
    from .engine.detector import Detector
    from .engine.evaluate import evaluate
    from .engine.inference import worker_count
    from .engine.starting import read_split_files

    state = (
        PartialState(cpu=not torch.accelerator.is_available()) if "WORLD_SIZE" in os.environ else None
    )  # started by torchrun or accelerate
    device = values["device"] or (str(state.device) if state else None)
    detector = Detector.from_pretrained(values["model"], device=device, **_speed(values), **_image_size(values))
    task = values["task"] or detector.model.task
    files = (values["annotations"], values["images"])
    if not values["annotations"]:
        files = find_split(values["data"], values["split"], task)
    dataset = read_split_files(*files, task, values["skip_bad_images"])
    main = state is None or state.is_main_process
    if main:
        print("\n".join(dataset.summary()))
    with _progress("evaluating", len(dataset), main) as advance:
        metrics = evaluate(
            detector.model,
            detector.processor,
            dataset,
            predictions=Path(values["predictions"]) if values["predictions"] else None,
            batch_size=values["batch_size"],
            workers=worker_count(values["workers"], detector.model.device),
            skip_bad=values["skip_bad_images"],
            panoptic_threshold=values["panoptic_threshold"],
            progress=advance,
        )
    if main and values["predictions"]:
        print(f"predictions in {values['predictions']}")
    if main and metrics is None:
        print(
            "no annotations, so nothing to score"
            + ("" if values["predictions"] else "; save predictions with --predictions")
        )
    elif main and metrics is not None:
        _print_metrics(metrics)
        if values["metrics"]:
            write_json(Path(values["metrics"]), metrics.to_dict())
    if state is not None:
        state.destroy_process_group()


def _predict(arguments: list[str]) -> None:
    parser = _parser(
        "predict",
        "Detect in pictures; write predictions.jsonl and pictures with boxes drawn; with a segmentation model also masks, "
        "and with a panoptic one maps in COCO's format.",
    )
    parser.add_argument("--model", type=str, required=True, help="a saved model's folder, a .pth file or a hub name")
    parser.add_argument("--images", type=str, nargs="+", required=True, help="files, folders or glob patterns")
    parser.add_argument("--output", type=str, default="predictions", help="folder to write to")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score of a detection, 0 to 1")
    parser.add_argument(
        "--panoptic_threshold",
        type=float | None,
        default=None,
        help="least score of a panoptic segment; 0.85 for DETR and 0.3 for Conditional DETR by default",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="images of a batch; only such of one size share one")
    parser.add_argument(
        "--workers",
        type=int,
        default=-1,
        help="processes that decode; -1: none where a CPU predicts, else one for each core, at most 8",
    )
    parser.add_argument("--device", type=str, default="", help="such as cpu or cuda:1; the best there is by default")
    _add_speed(parser)
    _add_image_size(parser)
    parser.add_argument("--draw", type=bool, default=True, help="draw pictures")
    parser.add_argument("--draw_labels", type=bool, default=True, help="write classes and scores into the pictures")
    parser.add_argument(
        "--line_width", type=int, default=0, help="of drawn boxes, in pixels; 0: by the picture and how crowded it is"
    )
    parser.add_argument(
        "--skip_bad_images", type=bool, default=False, help="report unreadable images instead of stopping"
    )
    values = _values(parser, arguments)

    from .engine.detector import Detector
    from .engine.inference import worker_count
    from .engine.predict import find_images, predictions
    from .processing.reading import printable

    if values["line_width"] < 0:
        raise UsageError(f"--line_width is {values['line_width']}; it is a number of pixels, or 0")
    values["line_width"] = values["line_width"] or None
    images = find_images(values.pop("images"))
    speed, size = _speed(values), _image_size(values)
    detector = Detector.from_pretrained(values.pop("model"), device=values.pop("device") or None, **speed, **size)
    output = Path(values.pop("output"))
    values["workers"] = worker_count(values["workers"], detector.model.device)
    with _progress("predicting", len(images), True) as advance:
        found, bad, first = 0, 0, ""
        for row in predictions(detector, images, output, progress=advance, **values):
            found += len(row.get("detections", ()))
            if "error" in row:
                bad, first = bad + 1, first or row["error"]
    pictures = ", pictures beside it" if values["draw"] else ""
    print(f"detections in {len(images) - bad} images: {found}, in {printable(output / 'predictions.jsonl')}{pictures}")
    if bad:
        print(f"{bad} images could not be used; first: {first}")


def _add_speed(parser: Any) -> None:
    parser.add_argument("--precision", type=str, default="fp32", help="fp32, bf16 or fp16")
    parser.add_argument(
        "--compile", type=bool, default=False, help="compile the model first, which takes minutes: for many images"
    )


def _add_image_size(parser: Any) -> None:
    parser.add_argument(
        "--image_size", type=int, default=0, help="short side in pixels that images are given; 0: the model's own"
    )
    parser.add_argument(
        "--max_size", type=int, default=0, help="longest long side; 0: the model's own, or in its ratio to --image_size"
    )


def _image_size(values: dict[str, Any]) -> dict[str, Any]:
    """Take what `_add_image_size` added out of `values`, as arguments of `Detector.from_pretrained`."""
    given = {name: values.pop(name) for name in ("image_size", "max_size")}
    for name, value in given.items():
        if value < 0:
            raise UsageError(f"--{name} is {value}; it is a number of pixels")
    return {name: value for name, value in given.items() if value}


def _speed(values: dict[str, Any]) -> dict[str, Any]:
    """Take what `_add_speed` added out of `values`, as arguments of `Detector.from_pretrained`."""
    from .engine.inference import PRECISIONS

    precision = values.pop("precision")
    if precision not in PRECISIONS:
        raise UsageError(f"--precision is {precision!r}; it is {', '.join(PRECISIONS)}")
    return {"dtype": PRECISIONS[precision], "compile": values.pop("compile")}


def _demo(arguments: list[str]) -> None:
    parser = _parser(
        "demo", "Generate scenes, train a detector on them from scratch, evaluate it, and draw what it finds."
    )
    parser.add_argument("--task", type=str, default="detection", help="detection, or panoptic for masks and maps too")
    parser.add_argument(
        "--output", type=str, default="", help="folder to write to (default: runs/demo, runs/demo_panoptic)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the scenes and the training")
    values = _values(parser, arguments)
    if values["task"] not in ("detection", "panoptic"):
        raise UsageError(f"--task is {values['task']!r}; the demo is of detection or panoptic")
    values["output"] = values["output"] or ("runs/demo" if values["task"] == "detection" else "runs/demo_panoptic")
    from .engine.demo import run_demo

    run_demo(**values)


def _data(arguments: list[str]) -> None:
    parser = _parser("data", "Generate a data set of scenes, with boxes, masks and panoptic maps in COCO's formats.")
    parser.add_argument("--output", type=str, required=True, help="folder to write to")
    parser.add_argument("--train", type=int, default=1000, help="number of training images")
    parser.add_argument("--val", type=int, default=200, help="number of validation images")
    parser.add_argument("--test", type=int, default=0, help="number of test images")
    parser.add_argument("--size", type=int, default=96, help="side of the square images in pixels")
    parser.add_argument("--max_objects", type=int, default=5, help="most objects of an image")
    parser.add_argument("--shapes", type=str, nargs="+", default=["circle", "square", "triangle"], help="classes")
    parser.add_argument("--seed", type=int, default=0, help="decides everything that is random")
    values = _values(parser, arguments)
    from .data.scenes import generate_scenes

    counts = {split: values.pop(split) for split in ("train", "val", "test")}
    output = values.pop("output")
    generate_scenes(output, {split: count for split, count in counts.items() if count}, **values)
    print(f"data set in {output}: {', '.join(f'{count} {split}' for split, count in counts.items() if count)} images")


def _recipes(arguments: list[str]) -> None:
    _values(_parser("recipes", "List the recipes that are shipped."), arguments)
    from .engine.recipe import find_recipe, recipe_names

    for name in recipe_names():
        first = find_recipe(name).read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:28} {first.removeprefix('# ')}")


@contextmanager
def _progress(what: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal; nothing elsewhere."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        *Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn(), disable=not shown
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _print_metrics(metrics: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    summary = Table("figure", "value", box=None, pad_edge=False)
    for name, value in metrics.summary.items():
        summary.add_row(name, _figure(value))
    columns = list(dict.fromkeys(column for row in metrics.per_class.values() for column in row if column != "objects"))
    classes = Table("class", *columns, "objects", box=None, pad_edge=False)
    for name, row in metrics.per_class.items():
        figures = [_figure(row.get(column, -1.0)) for column in columns]
        classes.add_row(name, *figures, str(row["objects"]))
    console.print(summary)
    console.print()
    console.print(classes)


def _figure(value: float) -> str:
    return "–" if value < 0 else f"{value:.3f}"


def _values(parser: Any, arguments: list[str]) -> dict[str, Any]:
    values = parser.parse_args(arguments).as_dict()
    if values.get("batch_size", 1) < 1:
        raise UsageError(f"batch_size is {values['batch_size']}; it must be positive")
    for name in ("threshold", "panoptic_threshold"):
        if values.get(name) is not None and not 0 <= values[name] <= 1:
            raise UsageError(f"--{name} is {values[name]}; scores are in 0…1")
    if values.get("workers", 0) < -1:
        raise UsageError(f"workers is {values['workers']}; it is a number of processes, or -1 for one for each core")
    return values


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "eval": _eval,
    "predict": _predict,
    "demo": _demo,
    "data": _data,
    "recipes": _recipes,
}

if __name__ == "__main__":
    sys.exit(main())
