"""What is chosen where nothing is given: the recipe, and the name of the run folder.  What is chosen is always said."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from actionfusion.errors import SettingsError
from actionfusion.models import model_class
from actionfusion.recipes import default_recipe
from actionfusion.run_folder import is_unfinished
from actionfusion.storage import PathLike, plain_name, to_path
from actionfusion.training.features import FOLDER
from actionfusion.training.recipe import Recipe, load_recipe

RUNS = Path("runs")


def choose(
    recipe: Recipe | None, root: PathLike | None, out: Path | None, changes: Mapping[str, Any]
) -> tuple[Recipe, Path, list[str]]:
    """Complete what ``train`` is given by what it is not, with a line for each choice.

    Args:
        recipe: as given.
        root: of the videos, if it is given apart from the recipe.
        out: the run folder.
        changes: fields of the recipe to replace.

    Returns:
        The recipe, with the folder of the features where they are to be kept; the run folder; the lines.

    Raises:
        SettingsError: no such model, settings of another one, or two roots.
    """
    given, lines = chosen_recipe(recipe, changes)
    given = rooted(given, root, changes)
    if out is None:
        out, unfinished = _free_run_folder(given.data.root)
        lines += [f"note: {path} is unfinished; train --resume --out {path} goes on with it" for path in unfinished]
        lines.append(f"run folder: {out} (chosen; --out sets it)")
    return given.changed(features=given.features.beside(out)), out, lines


def chosen_recipe(recipe: Recipe | None, changes: Mapping[str, Any]) -> tuple[Recipe, list[str]]:
    """Give the recipe with its changes; where there is none, that of the model, or ``small``, and what says so.

    Args:
        recipe: as given.
        changes: fields to replace, the model among them.

    Raises:
        SettingsError: no such model, or settings of another one.
    """
    if recipe is not None:
        return recipe.changed(**changes), []
    recipe = load_recipe(path := recipe_of(changes.get("model")))
    lines, changed = [f"recipe: {path.stem} (chosen; --config sets it)"], recipe.changed(**changes)
    if changed.model != recipe.model:
        lines.append(f"network: the settings of {changed.model}, since those of {path.stem} are of {recipe.model}")
    return changed, lines


def recipe_of(model: str | None) -> Path:
    """Find the recipe that is taken where none is given.

    Raises:
        SettingsError: no such model.
    """
    return default_recipe(model) if model is None else default_recipe(model, model_class(model).recipe)


def rooted(recipe: Recipe, root: PathLike | None, changes: Mapping[str, Any]) -> Recipe:
    """Let a recipe read the videos at ``root``, where that is given.

    Args:
        recipe: with its changes.
        root: of the videos.
        changes: that were made; they must not name another root.

    Raises:
        SettingsError: they do.
    """
    if root is None:
        return recipe
    if "data" in changes and differ(root, named := changes["data"].root):
        raise SettingsError("root", f"is {root}, and data.root is {named}", "give one of them")
    return recipe.changed(data=replace(recipe.data, root=root))


def differ(root: PathLike, other: PathLike | None) -> bool:
    """Tell whether another root is given that is not the same."""
    return other is not None and to_path(root).expanduser().absolute() != to_path(other).expanduser().absolute()


def _free_run_folder(root: PathLike | None) -> tuple[Path, list[Path]]:
    """Name a run folder after its videos, with a number where something has that name, and the unfinished ones."""
    name, number, unfinished = plain_name(root or "") or "run", 1, []
    while os.path.lexists(out := RUNS / (name if number == 1 else f"{name}-{number}")) or out.name == FOLDER:
        if is_unfinished(out):
            unfinished.append(out)
        number += 1
    return out, unfinished
