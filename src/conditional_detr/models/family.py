"""The family of a model type: the file of its name in this folder."""

from __future__ import annotations

from importlib import import_module

from ..families import CONFIG_CLASSES
from ..messages import shown
from .frame import Family


def family_of(model_type: str) -> Family:
    """The models of a family that `families.CONFIG_CLASSES` lists; only its own file is imported.

    Raises:
        ValueError: there is no such family.
    """
    if model_type not in CONFIG_CLASSES:
        raise ValueError(f"no family is called {shown(model_type)}; this package knows {', '.join(CONFIG_CLASSES)}")
    family: Family = import_module(f"{__package__}.{model_type}").FAMILY
    return family
