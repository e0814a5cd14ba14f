"""Recipes: flat YAML files that hold every setting of a training, each line with its meaning."""

from __future__ import annotations

from pathlib import Path

from actionfusion.errors import SettingsError

FOLDER = Path(__file__).parent


def recipe_path(name: str) -> Path:
    """The file of a recipe that ships with the package, or the path itself where that is a file of one's own."""
    shipped = FOLDER / f"{name}.yaml"
    return shipped if shipped.is_file() and not Path(name).exists() else Path(name)


def find_recipe(name: str) -> Path:
    """The same, but only a file that is there.

    Raises:
        SettingsError: no such recipe and no such file.
    """
    path = recipe_path(name)
    if not path.is_file():
        raise SettingsError(name, "is no recipe", f"give a YAML file or one of {', '.join(recipe_names())}")
    return path


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
