"""Recipes: flat YAML files that hold every setting of a training, each line with its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actionfusion.errors import SettingsError
from actionfusion.settings import build_each, read_yaml
from actionfusion.upgrade import with_new_names

FOLDER = Path(__file__).parent


def recipe_path(name: str) -> Path:
    """Return the file of a recipe that ships with the package, or the path itself where that is your own file."""
    shipped = FOLDER / f"{name}.yaml"
    return shipped if shipped.is_file() and not Path(name).exists() else Path(name)


def find_recipe(name: str) -> Path:
    """Return ``recipe_path`` of a recipe that is there.

    Raises:
        SettingsError: no such recipe and no such file.
    """
    path = recipe_path(name)
    if not path.is_file():
        raise SettingsError(name, "is no recipe", f"give a YAML file or one of {', '.join(recipe_names())}")
    return path


def recipe_names() -> list[str]:
    """List the recipes that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(name: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a recipe sets, as the plain values of its file, which ``kinds`` take.

    Args:
        name: a recipe that ships with the package, or a YAML file.
        kinds: the arguments that it may set, with their types.

    Raises:
        SettingsError: no such recipe, or a line in it that ``kinds`` do not take.
    """
    values = with_new_names(read_yaml(path := find_recipe(name)))
    build_each(kinds, values, path)
    return values
