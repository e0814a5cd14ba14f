"""Recipes: flat YAML files that hold every setting of a training, each line with its meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
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


# As jsonargparse says that it does not know a name, in a file or on the command line.
_UNKNOWN = (
    re.compile(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<name>[\w.]+)'"),
    re.compile(r"Option '(?P<name>[\w.]+)' is not accepted"),
    re.compile(r"unrecognized arguments: --(?P<name>[\w.]+)"),
)
_WITHIN = re.compile(r"given class_path '(?P<module>actionfusion[\w.]*)\.(?P<kind>\w+)'")


def did_you_mean(message: str, known: Iterable[str]) -> str | None:
    """The right name nearest to one that a parser has refused, or None where it was another fault, or none is near.

    Args:
        message: the parser's.
        known: names of all settings, such as ``training.batch_size``.
    """
    match = next((match for pattern in _UNKNOWN if (match := pattern.search(message))), None)
    if match is None:
        return None
    group = match.groupdict().get("group")
    name = f"{group}.{match['name']}" if group else match["name"]
    names = list(known)
    if within := _WITHIN.search(message):
        names = [part.name for part in fields(getattr(import_module(within["module"]), within["kind"]))]
    if near := get_close_matches(name, names, 1):
        return near[0]
    # Given without its group, or with another one.
    last = {full.rsplit(".", 1)[-1]: full for full in names}
    nearest = get_close_matches(name.rsplit(".", 1)[-1], last, 1)
    return last[nearest[0]] if nearest else None
