"""A command's parser, whose errors are one line in plain words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from ..options import expectation, instead
from .usage import UsageError


class CommandParser(ArgumentParser):
    """Errors are one line in plain words, and end in `main`.

    Args:
        option_names: gives the names that an unknown option may have been meant for; None for those that are added.
    """

    def __init__(self, command: str, description: str, option_names: Callable[[], list[str]] | None = None) -> None:
        super().__init__(prog=f"cdetr {command}", description=description, exit_on_error=True, allow_abbrev=False)
        self.option_names = option_names or (lambda: [action.dest for action in self._actions])
        self.given: list[str] = []

    def parse_args(self, args: list[str], **options: Any) -> Namespace:  # type: ignore[override]
        self.given = args
        return super().parse_args(args, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(f"{_in_plain_words(self, str(message))} (see {self.prog} --help)")


def _in_plain_words(parser: CommandParser, message: str) -> str:
    """What the parser reports, without the names of its parts and of Python's types."""
    if found := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
        names = parser.option_names()
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
        value = given_value(parser.given, option)
        if kind is not None:
            return f"{option} is {value!r}; it {expectation(kind)}"
        return f"{option} is {value!r}; give its fields one by one, such as --augmentation.crop 0"
    return " ".join(message.split())


def given_value(arguments: list[str], option: str) -> str:
    """The value that an option has on a command line: the last one."""
    value = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == option:
            value = following
        elif argument.startswith(f"{option}="):
            value = argument.removeprefix(f"{option}=")
    return value
