"""`cdetr`: parse, call the engine, print. Heavy imports wait until they are needed, so that `--help` is instant."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import __version__
from ..stopping import Interrupted, sigterm_unwinds
from .threads import wait_briefly

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
    wait_briefly()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"conditional-detr {__version__}")
        return 0
    if not (ours := logging.getLogger("conditional_detr")).handlers:  # other libraries speak for themselves
        ours.addHandler(logging.StreamHandler())
    try:
        if arguments[0] not in COMMANDS:
            raise UsageError(f"there is no command {arguments[0]!r}; there are {', '.join(COMMANDS)}")
        with sigterm_unwinds():
            COMMANDS[arguments[0]](arguments[1:])
        return 0
    except UsageError as error:
        return _fail(str(error), 2)
    except Interrupted as stopped:
        return _fail(str(stopped), 128 + stopped.signal)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:  # the reader of our output left; there is nobody to tell
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return 0
    except Exception as error:
        if isinstance(error, OSError | ValueError | RuntimeError) and not os.environ.get("CDETR_TRACEBACK"):
            return _fail(str(error), 1)
        raise


def _fail(message: str, code: int) -> int:
    print("cdetr: " + " ".join(message.split()), file=sys.stderr)
    return code


def _parser(command: str, description: str) -> Any:
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        """Errors are one line in plain words, and end in `main`."""

        given: list[str] = []

        def parse_args(self, args: list[str], **options: Any) -> Any:  # type: ignore[override]
            self.given = args
            return super().parse_args(args, **options)

        def error(self, message: str, ex: Exception | None = None) -> Any:  # type: ignore[override]
            raise UsageError(f"{_in_plain_words(self, str(message))} (see cdetr {command} --help)")

    return Parser(prog=f"cdetr {command}", description=description, exit_on_error=True, allow_abbrev=False)


def _in_plain_words(parser: Any, message: str) -> str:
    """What the parser reports, without the names of its parts and of Python's types."""
    from ..options import expectation, instead

    if found := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
        names = [action.dest for action in parser._actions]
        if "init_from" in names:
            from ..train.recipe import option_names

            names = option_names()
        unknown = [word.partition("=")[0] for word in found[1].split() if word.startswith("-")]
        if not unknown:
            return f"{found[1]} stands behind no option"
        return " ".join(f"there is no option {o}{instead(o.lstrip('-'), names, '--')}" for o in unknown)
    if found := re.match(r"the following arguments are required: (.*)", message):
        return "give " + " and ".join(f"--{name}" for name in found[1].split(", "))
    if found := re.match(r"argument (--\S+): expected (one argument|at least one argument)", message):
        return f"{found[1]} needs a value"
    if found := re.match(r'Parser key "([^"]+)"', message):
        option = f"--{found[1]}"
        kind = getattr(parser._option_string_actions.get(option), "_typehint", None)
        value = _given(parser.given, option)
        if kind is not None:
            return f"{option} is {value!r}; it {expectation(kind)}"
        return f"{option} is {value!r}; give its fields one by one, such as --augmentation.crop 0"
    return " ".join(message.split())


def _given(arguments: list[str], option: str) -> str:
    """The value that an option has on a command line: the last one."""
    value = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == option:
            value = following
        elif argument.startswith(f"{option}="):
            value = argument.removeprefix(f"{option}=")
    return value


def _train(arguments: list[str]) -> None:
    from ..train.recipe import Recipe

    arguments, files = _take_recipe_files(arguments)
    defaults, name = _recipe_values(files), files[-1].stem if files else "train"
    values = _values(_train_parser(defaults), arguments)
    values.pop("config", None)
    if not values["output"]:
        values["output"] = f"runs/{name}"
    try:
        recipe = Recipe(**values)
    except ValueError as error:
        raise UsageError(_from_file(str(error), files)) from None

    _use_threads(recipe.threads)
    from ..train.loop import train

    try:
        train(recipe)
    except ConnectionError as error:
        advice = (
            ""
            if _given(arguments, "--init_from")
            else ". Without a network, --config scratch_small trains from nothing"
        )
        raise OSError(f"{error}{advice}") from None


def _train_parser(defaults: dict[str, Any]) -> Any:
    """Options of every value of the recipe, in groups, with these defaults: of the recipe that is asked for."""
    import docstring_parser

    from ..data.augmentation import Augmentation
    from ..train.recipe import GROUPS, Recipe, field_types

    parser = _parser("train", "Train a detector. The options are the values of the recipe, with those of --config.")
    parser.add_argument(
        "--config",
        action="config",
        help="a recipe by name (see cdetr recipes), or a .yaml file; all other options win over it",
    )
    kinds, plain = field_types(), Recipe().to_dict()
    about = {param.arg_name: param.description for param in docstring_parser.parse(Recipe.__doc__ or "").params}
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            if kinds[name] is Augmentation:
                parser.add_class_arguments(Augmentation, name)
            else:
                group.add_argument(f"--{name}", type=kinds[name], default=plain[name], help=about[name])
    parser.set_defaults(defaults)
    return parser


def _take_recipe_files(arguments: list[str]) -> tuple[list[str], list[Path]]:
    """Take --config out of a command line, wherever it stands. Returns the other arguments, and the files: of several the
    later wins. A run that is resumed without one has its own."""
    from ..train.recipe import find_recipe

    others, names, words = [], [], iter(arguments)
    for word in words:
        option, given, name = word.partition("=")
        if option != "--config":
            others.append(word)
        elif name := name if given else next(words, ""):
            names.append(name)
        else:
            raise UsageError("--config needs a value (cdetr recipes lists those that are shipped)")
    if not names and _given(others, "--resume") == "auto":
        own = Path(_given(others, "--output")) / "recipe.yaml"
        if _given(others, "--output") and not own.is_file() and not _given(others, "--data"):
            raise UsageError(
                f"{own.parent} holds no run to continue (there is no {own}); give --config and --data for a new one"
            )
        return others, [own] if _given(others, "--output") and own.is_file() else []
    try:
        return others, [find_recipe(name) for name in names]
    except ValueError as error:
        raise UsageError(str(error)) from None


def _recipe_values(files: list[Path]) -> dict[str, Any]:
    """The values of recipes one upon the other."""
    from ..train.recipe import read_recipe

    values: dict[str, Any] = {}
    for path in files:
        try:
            for name, value in read_recipe(path).items():
                values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
        except ValueError as error:
            raise UsageError(str(error)) from None
    return values


def _from_file(message: str, files: list[Path]) -> str:
    """An error of a recipe, with the file in front if it is there and not on the command line."""
    from ..train.recipe import Recipe, read_recipe

    for path in files:
        try:
            Recipe(**read_recipe(path))
        except ValueError as error:
            if str(error) == message:
                return f"{path}: {message}"
    return message


def _add_threads(parser: Any) -> None:
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="CPU threads; 0: as many as other programs leave cores, when the command starts",
    )


def _use_threads(wanted: int) -> None:
    """Load PyTorch, and let it compute with as many threads as are wanted (0: see `choose_threads`)."""
    from .threads import choose_threads, moment

    before = moment()
    import torch

    number, line = choose_threads(wanted, torch.get_num_threads(), before)
    torch.set_num_threads(number)
    if os.environ.get("RANK", "0") == "0":
        print(line)


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
    _add_threads(parser)
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

    _use_threads(values["threads"])
    import torch
    from accelerate import PartialState

    from ..data.splits import find_split, read_split_files
    from ..evaluate.evaluation import evaluate
    from ..files import write_json
    from ..predict.detector import Detector
    from ..predict.stream import worker_count

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
    _add_threads(parser)
    _add_image_size(parser)
    parser.add_argument("--draw", type=bool, default=True, help="draw pictures")
    parser.add_argument("--draw_labels", type=bool, default=True, help="write classes and scores into the pictures")
    parser.add_argument(
        "--line_width", type=int, default=0, help="of drawn boxes, in pixels; 0: by the picture and how crowded it is"
    )
    parser.add_argument(
        "--truth", type=str, default="", help="COCO JSON of the pictures: its objects are drawn beside what is found"
    )
    parser.add_argument(
        "--skip_bad_images", type=bool, default=False, help="report unreadable images instead of stopping"
    )
    values = _values(parser, arguments)

    _use_threads(values.pop("threads"))
    from ..evaluate.pictures import truth_of
    from ..messages import printable
    from ..predict.detector import Detector
    from ..predict.stream import worker_count
    from ..predict.write import find_images, predictions

    if values["line_width"] < 0:
        raise UsageError(f"--line_width is {values['line_width']}; it is a number of pixels, or 0")
    values["line_width"] = values["line_width"] or None
    images = find_images(values.pop("images"))
    values["truth"] = truth_of(values["truth"], images) if values["truth"] else None
    speed, size = _speed(values), _image_size(values)
    detector = Detector.from_pretrained(values.pop("model"), device=values.pop("device") or None, **speed, **size)
    output = Path(values.pop("output"))
    values["workers"] = worker_count(values["workers"], detector.model.device)
    with _progress("predicting", len(images), True) as advance:
        found, bad, first = 0, 0, ""
        done = 0
        try:
            for row in predictions(detector, images, output, progress=advance, **values):
                done += 1
                found += len(row.get("detections", ()))
                if "error" in row:
                    bad, first = bad + 1, first or row["error"]
        except KeyboardInterrupt:
            print(f"{done} of {len(images)} images are in {printable(output / 'predictions.jsonl')}", file=sys.stderr)
            raise
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
    from ..predict.stream import PRECISIONS

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
    _add_threads(parser)
    values = _values(parser, arguments)
    if values["task"] not in ("detection", "panoptic"):
        raise UsageError(f"--task is {values['task']!r}; the demo is of detection or panoptic")
    values["output"] = values["output"] or ("runs/demo" if values["task"] == "detection" else "runs/demo_panoptic")
    _use_threads(values.pop("threads"))
    from .demo import run_demo

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
    from ..data.scenes import generate_scenes

    counts = {split: values.pop(split) for split in ("train", "val", "test")}
    output = values.pop("output")
    generate_scenes(output, {split: count for split, count in counts.items() if count}, **values)
    print(f"data set in {output}: {', '.join(f'{count} {split}' for split, count in counts.items() if count)} images")


def _recipes(arguments: list[str]) -> None:
    _values(_parser("recipes", "List the recipes that are shipped."), arguments)
    from ..train.recipe import find_recipe, recipe_names

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
    if values.get("output") and Path(values["output"]).is_file():
        raise UsageError(f"--output is {values['output']}, which is a file; it is a folder")
    if not 0 <= values.get("threads", 0) <= 1024:
        raise UsageError(f"threads is {values['threads']}; it is a number of threads, or 0 for those that are free")
    return values


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "eval": _eval,
    "predict": _predict,
    "demo": _demo,
    "data": _data,
    "recipes": _recipes,
}
