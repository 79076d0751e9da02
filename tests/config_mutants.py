"""Damaged copies of a JSON value: what a slip of the hand, another program or a bad disk makes of a configuration."""

import copy
import random

HOSTILE = (
    None, True, False, 0, 1, -1, 2, 3, 0.0, 0.5, -0.5, 1e300, float("nan"), float("inf"), float("-inf"), 2**31, 2**63,
    10**400, -(2**31), "", "0", "8", "x", "../x", "/etc/passwd", "a\0b", "\ud800", "é\n", [], [0], [0, 0, 0], [[]],
    [None, "x", 1.5], {}, {"": 1}, {"0": "a"}, {"5": "a"}, {"x": []}, {"shortest_edge": -1}, {"height": 2**40, "width": 1},
)  # fmt: skip


def mutants(value, seed, count):
    """Yield `count` pairs of what was done, in words, and a copy of `value` (JSON) in which one or two places are wrong.

    The same seed gives the same mutants, on any machine.
    """
    chance = random.Random(seed)
    for _ in range(count):
        whole = {"": copy.deepcopy(value)}
        done = [_damage(whole, chance) for _ in range(chance.choice((1, 1, 1, 2)))]
        yield ", ".join(done), whole.get("")


def _damage(whole, chance):
    """Make one place wrong; `whole` holds the value under the key "", so that the value itself may be replaced."""
    places = list(_places(whole, ""))
    parent, key, path = chance.choice(places[:1] + places[1:] * 20)
    old = parent[key]
    kind = chance.choice(("replace", "replace", "replace", "delete", "rename", "type", "grow", "scale"))
    if kind == "delete" and path:
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict) and path:
        parent[chance.choice((str(key) + "_", "", "x", str(key).upper(), "-1", "1e3", "99"))] = parent.pop(key)
    elif kind == "type":
        parent[key] = [old] if chance.random() < 0.3 else {"a": old} if chance.random() < 0.3 else str(old)
    elif kind == "grow" and isinstance(old, list | str):
        parent[key] = old * 2 if chance.random() < 0.5 else old[:-1]
    elif kind == "scale" and isinstance(old, int | float) and not isinstance(old, bool):
        parent[key] = old * chance.choice((-1, 0, 0.5, 1.5, 3, 1000, 2**31))
    else:
        kind = "replace"
        parent[key] = copy.deepcopy(chance.choice(HOSTILE))
    return f"{kind} {path or 'everything'}"


def _places(parent, path):
    entries = parent.items() if isinstance(parent, dict) else enumerate(parent)
    for key, value in list(entries):
        here = f"{path}.{key}" if path else str(key)
        yield parent, key, here
        if isinstance(value, dict | list):
            yield from _places(value, here)
