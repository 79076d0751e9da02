"""Damage, as a function of a random number generator: JSON values, bytes, checkpoints."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import torch

# What somebody's program could have written in place of a value.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 0.5, -0.0, 1e30, 10**400, -(2**31), 2**31, 2**63, float("inf"), float("nan"), "", "1", "é",
    "../../outside", "/etc/passwd", "a" * 300, [], [[]], [1, "2"], {}, {"a": 1},
)  # fmt: skip


def damage_json(value: Any, rng: random.Random) -> tuple[Any, str]:
    """A copy of a JSON value with one place changed, and what was done where."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return rng.choice(ODD_VALUES), "all of it"
    parent, key, path = rng.choice(places)
    action = rng.choice(("replace", "replace", "replace", "remove", "repeat", "swap"))
    if action == "remove":
        del parent[key]
    elif action == "repeat" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif action == "swap":
        other, other_key, _ = rng.choice(places)
        parent[key] = copy.deepcopy(other[other_key]) if other is not parent else rng.choice(ODD_VALUES)
    else:
        parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return value, f"{action} {path}"


def _places(value: Any, path: str = "") -> Any:
    """Every (parent, key, path) in a JSON value."""
    entries: Any = ()
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value))
    for key, child in entries:
        yield value, key, f"{path}/{key}"
        yield from _places(child, f"{path}/{key}")


def damage_bytes(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Bytes cut, overwritten, or with single bits turned."""
    action = rng.choice(("cut", "bits", "overwrite", "empty"))
    where = rng.randrange(max(1, len(content)))
    if action == "cut":
        return content[:where], f"cut to {where} of {len(content)} bytes"
    if action == "empty":
        return b"", "emptied"
    damaged = bytearray(content)
    if action == "bits":
        for _ in range(rng.randint(1, 20)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        return bytes(damaged), "bits turned"
    length = rng.randint(1, 1000)
    damaged[where : where + length] = rng.randbytes(len(damaged[where : where + length]))
    return bytes(damaged), f"{length} bytes overwritten at {where}"


def damage_checkpoint(path: Path, rng: random.Random) -> str:
    """Damage a training checkpoint in place: its bytes, or what it holds. Returns what was done."""
    if rng.random() < 0.3:
        content, what = damage_bytes(path.read_bytes(), rng)
        path.write_bytes(content)
        return what
    state = torch.load(path, weights_only=True)
    section = rng.choice(list(state))
    places = [place for place in _places({section: state[section]}) if place[0] is not None]
    places[0] = (state, section, f"/{section}")
    parent, key, where = rng.choice(places)
    old = parent[key]
    if isinstance(old, torch.Tensor) and rng.random() < 0.7:
        new: Any = rng.choice((old.new_zeros(*old.shape, 2), old.flatten()[:1].clone(), old.to(torch.int8)))
        action = f"made {tuple(new.shape)} {new.dtype}"
    elif rng.random() < 0.3:
        del parent[key]
        torch.save(state, path)
        return f"removed {where}"
    else:
        new = rng.choice([odd for odd in ODD_VALUES if not isinstance(odd, int) or abs(odd) < 2**63])
        action = f"made {new!r}"
    parent[key] = new
    torch.save(state, path)
    return f"{where} {action}"
