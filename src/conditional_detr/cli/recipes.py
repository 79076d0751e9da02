"""`cdetr recipes`: the recipes that are shipped."""

from __future__ import annotations

from ..train.recipe import find_recipe, recipe_names
from .options import values_of
from .parser import CommandParser


def run(arguments: list[str]) -> None:
    values_of(CommandParser("recipes", "List the recipes that are shipped."), arguments)
    for name in recipe_names():
        first = find_recipe(name).read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:28} {first.removeprefix('# ')}")
