"""XML files as trees of elements that know their line.

By expat, which is what Python's own ElementTree stands on, since ElementTree does not tell lines. Files of other people are
read here, so no entity is ever declared: neither a bomb of entities in entities nor a file from elsewhere is expanded (expat
itself opens no other file, and since 2.4.1 stops such bombs; defusedxml refuses them in the same way, in Python's slower parser).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from ...messages import shown
from .collect import Place

DEEPEST = 100  # elements in elements: the formats have six


class Element:
    """An element: its name, attributes, own text, children and line."""

    __slots__ = ("attributes", "children", "line", "name", "text")

    def __init__(self, name: str, attributes: dict[str, str], line: int) -> None:
        self.name, self.attributes, self.line = name, attributes, line
        self.text = ""
        self.children: list[Element] = []

    def child(self, name: str) -> Element | None:
        for child in self.children:
            if child.name == name:
                return child
        return None

    def all(self, name: str) -> Iterator[Element]:
        return (child for child in self.children if child.name == name)

    def text_of(self, name: str) -> str:
        """The text of a child; nothing where there is none."""
        child = self.child(name)
        return "" if child is None else child.text.strip()


def read_xml(path: Path, root: str) -> Element:
    """Read a file whose outermost element has this name.

    Raises:
        OSError: it cannot be read.
        ValueError: not XML, entities declared, or another outermost element; file, line and reason in a line.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    top: list[Element] = []
    open_elements: list[Element] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        element = Element(name, attributes, parser.CurrentLineNumber)
        if open_elements:
            open_elements[-1].children.append(element)
            if len(open_elements) > DEEPEST:
                Place(path, element.line).fault(f"elements stand in each other {DEEPEST} deep; this is no annotation")
        else:
            top.append(element)
        open_elements.append(element)

    def end(name: str) -> None:
        open_elements.pop()

    def text(data: str) -> None:
        open_elements[-1].text += data

    def entity(*declared: Any) -> None:
        Place(path, parser.CurrentLineNumber).fault(
            f"declares the entity {shown(declared[0])}, which no annotation needs and which can be an attack; take the "
            "<!DOCTYPE …> away"
        )

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = text, entity
    content = path.read_bytes()
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        Place(path, error.lineno).fault(f"is not XML: {expat.ErrorString(error.code)}")
    except (ValueError, LookupError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: is not XML that can be read: {error}") from None
    if top[0].name != root:
        Place(path, top[0].line).fault(f"begins with <{top[0].name}>; expected <{root}>")
    return top[0]


def outermost(path: Path) -> str:
    """The name of an XML file's outermost element, from its beginning; nothing where it is no XML."""
    found: list[str] = []
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        if not found:
            found.append(name)

    parser.StartElementHandler = start
    try:
        with open(path, "rb") as file:
            parser.Parse(file.read(2**16), False)
    except (OSError, ValueError, LookupError, expat.ExpatError):
        pass
    return found[0] if found else ""


def number(path: Path, parent: Element, name: str, text: str | None) -> float:
    """A number that stands in a child or an attribute.

    Raises:
        ValueError: it is missing or no number.
    """
    if text is None or text == "":
        Place(path, parent.line).fault(f"<{parent.name}> has no {name}; expected a number")
    try:
        return float(text)
    except ValueError:
        Place(path, parent.line).fault(f"{name} of <{parent.name}> is {shown(text)}; expected a number")
