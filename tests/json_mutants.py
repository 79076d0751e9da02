"""JSON values, damaged at random: one change each, as broken exports and half-edited files have them."""

import copy
import random

STRANGE = [
    None, True, False, 0, 1, -1, 1.0, 0.5, -7, 2**31, 2**53 + 1, 2**64, 10**30, 10**400, -(10**400), 1e30, 1e308, -1e308,
    float("inf"), float("-inf"), float("nan"), "", "1", "none", "../../x", "/etc/passwd", "a\0b", "\ud800", "x" * 300,
    [], [1], [0, 0, 5, 5], ["0", "0", "5", "5"], [[]], [None] * 4, {}, {"id": 1}, [[1, 2, 3, 4, 5, "6"]],
]  # fmt: skip


def mutants(value, seed, count):
    """Yield `count` copies of a JSON value, each with one change: a value replaced, removed, doubled, or of another type.

    They are Python values; `json.dumps` writes them (NaN and infinities as Python's own reader takes them).
    """
    chance = random.Random(seed)
    for _ in range(count):
        mutant = copy.deepcopy(value)
        places = list(_places(mutant))
        holder, key = chance.choice(places)
        change = chance.randrange(6)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder.insert(chance.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        elif change == 2:
            other, name = chance.choice(places)
            holder[key] = copy.deepcopy(other[name])
        elif change == 3 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = chance.choice([str(holder[key]), float(holder[key]), -holder[key], holder[key] * 1e9])
        else:
            holder[key] = copy.deepcopy(chance.choice(STRANGE))
        yield mutant


def _places(value):
    """Every (holder, key) below a value."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
