"""The one rule for the size an image is resized to, used by training, evaluation, prediction and the image processor.

Plain integers in and out; nothing here imports torch. Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

DEFAULT_SHORTEST_EDGE = 800
DEFAULT_LONGEST_EDGE = 1333

_FORMS = ({"shortest_edge", "longest_edge"}, {"shortest_edge"}, {"height", "width"}, {"max_height", "max_width"})


def output_size(height: int, width: int, shortest_edge: int, longest_edge: int | None = None) -> tuple[int, int]:
    """The size that brings an image's short side to `shortest_edge` without its long side passing `longest_edge`.

    The aspect ratio is kept. Where the cap on the long side acts, the exact (fractional) short side gives the long side
    by truncation and is itself rounded to the nearest integer, halves to even; otherwise the long side is truncated.
    An image that has that short side already keeps its size, even if its long side passes the cap (by one pixel, or by
    more if it is very thin).
    Equal to transformers' `get_size_with_aspect_ratio`, except that no side is ever 0 (there, an image thinner
    than about 1:2600 gets a side of 0 pixels and cannot be resized).

    Args:
        height, width: the image's size, at least 1.
        shortest_edge: wanted length of the short side, at least 1.
        longest_edge: greatest length of the long side; None for no limit.

    Returns:
        (height, width), each at least 1.

    Raises:
        ValueError: a size below 1.
    """
    if min(height, width, shortest_edge, shortest_edge if longest_edge is None else longest_edge) < 1:
        raise ValueError(f"sizes must be at least 1, got image {(height, width)} for {shortest_edge}, {longest_edge}")
    shorter, longer = min(height, width), max(height, width)
    short: int = shortest_edge
    exact_short: float = shortest_edge
    # The order of the floating-point operations decides the last pixel.
    if longest_edge is not None and float(longer) / float(shorter) * shortest_edge > longest_edge:
        exact_short = longest_edge * float(shorter) / float(longer)
        short = round(exact_short)
    if shorter == short:
        return height, width
    long = max(1, int(exact_short * longer / shorter))
    short = max(1, short)
    return (short, long) if height <= width else (long, short)


def output_size_within(height: int, width: int, max_height: int, max_width: int) -> tuple[int, int]:
    """The largest size of the same aspect ratio inside `max_height` x `max_width`, truncated to integers, at least 1.

    Small images grow: one side always reaches its limit (give or take truncation). As in transformers'
    `get_image_size_for_max_height_width`.

    Raises:
        ValueError: a size below 1.
    """
    if min(height, width, max_height, max_width) < 1:
        raise ValueError(f"sizes must be at least 1, got image {(height, width)} for {(max_height, max_width)}")
    scale = min(max_height / height, max_width / width)
    return max(1, int(height * scale)), max(1, int(width * scale))


def size_after_resize(height: int, width: int, size: Mapping[str, int]) -> tuple[int, int]:
    """The (height, width) of a `height` x `width` image after a resize to `size`, one of the forms of `size_dict`.

    Raises:
        ValueError: an unknown form, or a size below 1.
    """
    if "shortest_edge" in size:
        return output_size(height, width, size["shortest_edge"], size.get("longest_edge"))
    if "max_height" in size and "max_width" in size:
        return output_size_within(height, width, size["max_height"], size["max_width"])
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    raise ValueError(f"size must have one of the key sets {_forms()}, got {dict(size)}")


def size_dict(
    size: int | Sequence[int] | Mapping[str, int] | None = None, max_size: int | None = None
) -> dict[str, int]:
    """Every form in which a resize can be asked for, as one dict.

    Args:
        size: None (short side 800, long side at most 1333); an int, the short side; a pair (height, width), exact; or
            a dict with `shortest_edge` (and `longest_edge`), `height` and `width`, or `max_height` and `max_width`.
        max_size: older name of `longest_edge`, used where `size` is None, an int, or has only `shortest_edge`;
            1333 by default for the first two.

    Raises:
        ValueError: none of these forms, or a value that is not an integer of at least 1.
    """
    given: Any = size
    if given is None or _is_int(given):
        entries = {
            "shortest_edge": DEFAULT_SHORTEST_EDGE if given is None else given,
            "longest_edge": DEFAULT_LONGEST_EDGE if max_size is None else max_size,
        }
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        entries = {"height": given[0], "width": given[1]}
    elif (
        isinstance(given, Mapping) or type(given).__name__ == "SizeDict"
    ):  # transformers' is no Mapping, but yields pairs
        entries = {key: value for key, value in dict(given).items() if value is not None}
        if set(entries) == {"shortest_edge"} and max_size is not None:
            entries["longest_edge"] = max_size
    else:
        raise ValueError(f"size must be an int, a pair (height, width) or a dict, got {size!r}")
    if set(entries) not in _FORMS:
        raise ValueError(f"size must have one of the key sets {_forms()}, got {entries}")
    return {key: _positive_int(key, value) for key, value in entries.items()}


def pad_size_dict(pad_size: int | Sequence[int] | Mapping[str, int]) -> dict[str, int]:
    """A canvas size, given as an int (a square), a pair (height, width) or a dict, as {"height", "width"}.

    Raises:
        ValueError: none of these forms, or a value that is not an integer of at least 1.
    """
    entries = size_dict((pad_size, pad_size) if isinstance(pad_size, int) else pad_size)
    if set(entries) != {"height", "width"}:
        raise ValueError(f"pad_size must have the keys 'height' and 'width', got {entries}")
    return entries


def _is_int(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _positive_int(key: str, value: Any) -> int:
    if not _is_int(value) or operator.index(value) < 1:
        raise ValueError(f"{key} must be an integer of at least 1, got {value!r}")
    return operator.index(value)


def _forms() -> str:
    return ", ".join("{" + ", ".join(sorted(form, reverse="shortest_edge" in form)) + "}" for form in _FORMS)
