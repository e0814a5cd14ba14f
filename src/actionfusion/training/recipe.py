"""A recipe file, read into the typed settings of ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from actionfusion.errors import SettingsError
from actionfusion.recipes import did_you_mean, find_recipe
from actionfusion.training.train import train


def load_recipe(name: str | Path) -> dict[str, Any]:
    """Every argument of ``train`` as a recipe sets it, the rest at its default.

    Args:
        name: a recipe that ships with the package, or a YAML file.

    Raises:
        SettingsError: no such recipe, or a line in it that ``train`` does not know.
    """
    path = find_recipe(str(name))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(train, as_group=False)
    try:
        settings: dict[str, Any] = vars(parser.instantiate(parser.parse_path(path)))
    except ArgumentError as error:
        message = " ".join(str(error).split())
        near = did_you_mean(message, parser.get_defaults().keys())
        raise SettingsError(path, message, f"did you mean {near}?" if near else "mend that line") from error
    return settings
