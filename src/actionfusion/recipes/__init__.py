"""Recipes: flat YAML files that hold every setting of a training, each line with its meaning."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def recipe_path(name: str) -> Path:
    """The file of a recipe that ships with the package, or the path itself where that is a file of one's own."""
    shipped = FOLDER / f"{name}.yaml"
    return shipped if shipped.is_file() and not Path(name).exists() else Path(name)


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
