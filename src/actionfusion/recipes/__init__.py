"""Recipes: flat YAML files that hold every setting of a training, each line with its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actionfusion.errors import SettingsError
from actionfusion.settings import build_each, read_yaml
from actionfusion.upgrade import with_new_names

FOLDER = Path(__file__).parent
_DEFAULT = "small"
_DEFAULT_OF = (None, "fusion")


def recipe_path(name: str) -> Path:
    """Find the file of a recipe that ships with the package; a path to another file is given back as it is."""
    shipped = FOLDER / f"{name}.yaml"
    return shipped if shipped.is_file() and not Path(name).exists() else Path(name)


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


def default_recipe(model: str | None) -> Path:
    """Find the file of the recipe that is taken where none is given: that of the model's name, else ``small``.

    Args:
        model: as given, if it is.
    """
    return FOLDER / f"{model if model in recipe_names() and model not in _DEFAULT_OF else _DEFAULT}.yaml"


def is_borrowed(model: str | None) -> bool:
    """Tell whether the default recipe of a model is fusion's, of which it takes all but the network's settings."""
    return model not in _DEFAULT_OF and default_recipe(model).stem == _DEFAULT


def read_recipe(name: str, kinds: Mapping[str, Any], *, network: bool = True) -> dict[str, Any]:
    """Read what a recipe sets, as the plain values of its file, which ``kinds`` take.

    Args:
        name: a recipe that ships with the package, or a YAML file.
        kinds: the arguments that it may set, with their types.
        network: read the settings of its model too.

    Raises:
        SettingsError: no such recipe, or a line in it that ``kinds`` do not take.
    """
    values = with_new_names(read_yaml(path := find_recipe(name)))
    if not network:
        values.pop("network", None)
    build_each(kinds, values, path)
    return values
