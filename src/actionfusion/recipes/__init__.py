"""Recipes: flat YAML files that hold every setting of a training, each line with its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actionfusion.errors import SettingsError
from actionfusion.settings import build_each, read_yaml
from actionfusion.upgrade import with_new_names

FOLDER = Path(__file__).parent
_MODEL = "fusion"  # of a recipe that names none


def recipe_path(name: str) -> Path:
    """Find the file of a recipe that ships with the package; a path to another file is given back as it is."""
    shipped = FOLDER / f"{name}.yaml"
    return shipped if shipped.is_file() and not Path(name).is_file() else Path(name)


def find_recipe(name: str) -> Path:
    """Find the file of a recipe as `recipe_path` does, and see that it is there.

    Raises:
        SettingsError: no such recipe and no such file.
    """
    path = recipe_path(name)
    if not path.is_file():
        raise SettingsError(name, "is no recipe", f"give a YAML file or one of {', '.join(recipe_names())}")
    return path


def recipe_names() -> list[str]:
    """List the names of the recipes that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def default_recipe(model: str | None, other: str = "small") -> Path:
    """Find the recipe that is taken where none is given: the one of the model's name, or another.

    Of the other a model takes all but the section ``network``, for which it has settings of its own.

    Args:
        model: as given, if it is.
        other: recipe of a model without one of its name.
    """
    return FOLDER / f"{model if model in recipe_names() else other}.yaml"


def read_recipe(name: str, kinds: Mapping[str, Any], model: str | None = None) -> dict[str, Any]:
    """Read what a recipe sets, as the plain values of its file, which ``kinds`` take.

    Args:
        name: a recipe that ships with the package, or a YAML file.
        kinds: the arguments that it may set, with their types.
        model: that is to be trained by it; of a recipe of another one, the section ``network`` is left out.

    Raises:
        SettingsError: no such recipe, or a line in it that ``kinds`` do not take.
    """
    values = with_new_names(read_yaml(path := find_recipe(name)))
    if model is not None and model != values.get("model", _MODEL):
        values = {section: given for section, given in values.items() if section != "network"}
    build_each(kinds, values, path)
    return values
