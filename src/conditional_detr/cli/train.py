"""`cdetr train`: every value of a recipe is an option."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import docstring_parser

from ..data.augmentation import Augmentation
from ..remote import is_remote
from ..train.recipe import GROUPS, Recipe, field_types, find_recipe, option_names, read_recipe
from .options import values_of
from .parser import CommandParser, given_value
from .threads import use_threads
from .usage import UsageError


def run(arguments: list[str]) -> None:
    arguments, files = _take_recipe_files(arguments)
    defaults, name = _recipe_values(files), files[-1].stem if files else "train"
    values = values_of(_train_parser(defaults), arguments)
    values.pop("config", None)
    if not values["output"]:
        values["output"] = f"runs/{name}"
    try:
        recipe = Recipe(**values)
    except ValueError as error:
        raise UsageError(_from_file(str(error), files)) from None

    if "WORLD_SIZE" in os.environ:  # with a stack of fifty lines PyTorch warns of what train/watch.py says in one
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    use_threads(recipe.threads)
    from ..train.loop import train

    try:
        train(recipe)
    except ConnectionError as error:
        advice = (
            ""
            if given_value(arguments, "--init_from")
            else ". Without a network, --config scratch_small trains from nothing"
        )
        raise OSError(f"{error}{advice}") from None


def _train_parser(defaults: dict[str, Any]) -> CommandParser:
    """Options of every value of the recipe, in groups, with these defaults: of the recipe that is asked for."""
    parser = CommandParser(
        "train", "Train a detector. The options are the values of the recipe, with those of --config.", option_names
    )
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
    others, names, words = [], [], iter(arguments)
    for word in words:
        option, given, name = word.partition("=")
        if option != "--config":
            others.append(word)
        elif name := name if given else next(words, ""):
            names.append(name)
        else:
            raise UsageError("--config needs a value (cdetr recipes lists those that are shipped)")
    if not names and given_value(others, "--resume") == "auto":
        own = _own_recipe(given_value(others, "--output"))
        if given_value(others, "--output") and not own.is_file() and not given_value(others, "--data"):
            raise UsageError(
                f"{own.parent} holds no run to continue (there is no {own}); give --config and --data for a new one"
            )
        return others, [own] if given_value(others, "--output") and own.is_file() else []
    try:
        return others, [find_recipe(name) for name in names]
    except ValueError as error:
        raise UsageError(str(error)) from None


def _own_recipe(output: str) -> Path:
    """Where the recipe of a run in this place is, if there is one."""
    if not is_remote(output):
        return Path(output) / "recipe.yaml"
    from ..train.mirror import recipe_of

    return recipe_of(output)


def _recipe_values(files: list[Path]) -> dict[str, Any]:
    """The values of recipes one upon the other."""
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
    for path in files:
        try:
            Recipe(**read_recipe(path))
        except ValueError as error:
            if str(error) == message:
                return f"{path}: {message}"
    return message
