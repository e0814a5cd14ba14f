"""A recipe file, read into the typed settings of ``train``."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

from actionfusion.recipes import find_recipe
from actionfusion.settings import build_each, read_yaml
from actionfusion.training.train import train


def load_recipe(name: str | Path) -> dict[str, Any]:
    """Every argument of ``train`` as a recipe sets it, the rest at its default.

    Args:
        name: a recipe that ships with the package, or a YAML file.

    Raises:
        SettingsError: no such recipe, or a line in it that ``train`` does not know.
    """
    path = find_recipe(str(name))
    kinds, known = get_type_hints(train), signature(train).parameters
    given = build_each({name: kinds[name] for name in known}, read_yaml(path), path)
    return {name: given.get(name, part.default) for name, part in known.items()}
