"""``train --resume``: the settings come from the run, and nothing that is given may contradict it.

A run folder names no path of the machine that it is trained on.  While a training is not finished, ``resume.json``
beside the checkpoint does; it goes when the training ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from actionfusion.data.dataset import DataSettings
from actionfusion.errors import RunFolderError, SettingsError
from actionfusion.files import remove_partials, write_atomically
from actionfusion.run_folder import (
    CHECKPOINT,
    CONFIG,
    CURVES,
    LABELS,
    LOCAL,
    LOG,
    METRICS,
    PROBE,
    SPLIT,
    WEIGHTS,
    RunFolder,
    names_in,
    open_run,
    writing,
)
from actionfusion.settings import build, field_kinds, plain, read_json
from actionfusion.storage import to_path
from actionfusion.training.features import FeatureSettings
from actionfusion.training.recipe import Recipe, recipe_from, recipe_kinds

# All that there is before the first checkpoint; the last is the probe's, which is solved anew.
_BEGUN = frozenset((CONFIG, LABELS, SPLIT, LOCAL, LOG, PROBE))
# What a model that is solved writes before its only checkpoint, which says that it is finished.
_SOLVED = frozenset((METRICS, CURVES, WEIGHTS))
OF_A_TRAINING = _BEGUN | _SOLVED | {CHECKPOINT}


@dataclass(frozen=True)
class _Data:
    root: str | None = None
    store: str | None = None
    manifest: str | None = None


@dataclass(frozen=True)
class _Features:
    folder: str


@dataclass(frozen=True)
class _Local:
    """What ``resume.json`` holds: where this machine has what, and the device as it was given."""

    data: _Data
    device: str | None
    features: _Features | None = None
    pretrained: str | None = None


def remember_paths(run: RunFolder, recipe: Recipe, device: str | None) -> None:
    """Write down where this machine has what the recipe names, until the training is finished; no password in it.

    Args:
        run: that begins.
        recipe: with the paths of the videos, the cached features, and the weights that it starts from.
        device: as ``train`` was given it.

    Raises:
        RunFolderError: it cannot be written.
    """
    given = {name: getattr(recipe.data, name) for name in field_kinds(_Data)}
    paths = {name: str(to_path(value).absolute()) for name, value in given.items() if value is not None}
    local: dict[str, Any] = {"data": paths, "device": device}
    if recipe.features.folder is not None:
        local["features"] = {"folder": str(recipe.features.folder.absolute())}
    if recipe.pretrained not in (None, "imagenet"):
        local["pretrained"] = str(Path(recipe.pretrained).absolute())
    with writing(run.path / LOCAL):
        write_atomically(run.path / LOCAL, json.dumps(local, indent=1) + "\n")


def forget_paths(run: RunFolder) -> None:
    """Remove the paths once the training is finished."""
    (run.path / LOCAL).unlink(missing_ok=True)


def is_begun(path: Path) -> bool:
    """Tell whether a folder is that of a training that was killed before its first checkpoint."""
    if not path.is_dir():
        return False
    names = names_in(path)
    if names <= _BEGUN:
        return True
    # Of a training by steps weights are worth keeping, even if somebody has removed the checkpoint.
    return LOCAL in names and names <= _BEGUN | _SOLVED and open_run(path).model_class.solved


def forget_begun(path: Path) -> None:
    """Clear away what such a training has left, so that it can begin again."""
    if is_begun(path):
        for name in (*_SOLVED, *_BEGUN):  # first the former, while the latter tell that they may go
            (path / name).unlink(missing_ok=True)
        remove_partials(path)


def recorded_values(path: Path) -> dict[str, Any]:
    """Read what made an unfinished run: the recipe's plain values, and the device.

    Raises:
        RunFolderError: the folder is no run, or does not say how it was trained.
    """
    config = open_run(path).config
    needed = set(field_kinds(Recipe)) - {"features"}  # which runs of version 0.1 may lack
    if not needed <= config.keys() or "dataset" not in config["data"]:
        raise RunFolderError(path / CONFIG, "does not say how the run was trained", "train again")
    values: dict[str, Any] = {name: config.get(name) for name in field_kinds(Recipe)}
    values["data"] = {name: value for name, value in config["data"].items() if name in field_kinds(DataSettings)}
    values["features"] = config.get("features") or {}
    recipe_from(values, path / CONFIG, RunFolderError)
    if (path / LOCAL).is_file():
        local = plain(_read_paths(path / LOCAL))
        values["data"] |= {name: value for name, value in local["data"].items() if value is not None}
        values["features"] = {**values["features"], **(local["features"] or {})}
        values["pretrained"] = local["pretrained"] or values["pretrained"]
        values["device"] = local["device"]
    return values


def _read_paths(path: Path) -> _Local:
    remedy = "remove it, and say where the videos are: --data.root DIR"
    return build(_Local, read_json(path, RunFolderError, remedy), path, RunFolderError, remedy)


def recorded_recipe(path: Path) -> tuple[Recipe, str | None]:
    """Read the same as a recipe, with the device.

    Raises:
        RunFolderError: as ``recorded_values``.
    """
    values = recorded_values(path)
    device = values.pop("device", None)
    return recipe_from(values, path / CONFIG, RunFolderError), device


def refuse_contradictions(
    recorded: Mapping[str, Any], now: Mapping[str, Any], path: Path, *, file: str = CONFIG
) -> None:
    """See that a run is gone on with as it was begun; versions of libraries may differ, and weights are the run's.

    Args:
        recorded: ``config.yaml`` of the run.
        now: what it would be if the run were begun now.
        path: of the run.
        file: in it, that holds what is recorded.

    Raises:
        RunFolderError: what is recorded makes no sense.
        SettingsError: a setting differs; all that do are named.
    """
    passing = {"versions", "git", "start", "rates", "flops"}
    recorded, now = _completed(recorded, path / file), _completed(now, path / file)
    before = {name: value for name, value in _flat(recorded) if name.split(".")[0] not in passing}
    after = {name: value for name, value in _flat(now) if name.split(".")[0] not in passing}
    differing = [
        f"{name} is {_short(before.get(name))} in the run and {_short(after.get(name))} now"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if differing:
        remedy = "leave it to the run, or train anew under another --out"
        raise SettingsError(path, f"is another training: {'; '.join(differing)}", remedy)


def _completed(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Add the defaults of settings that the run is older than, which it was trained by."""
    if missing := [name for name in ("model", "network", "training") if name not in values]:
        raise RunFolderError(path, f"has no {missing[0]}", "choose another --out")
    kinds = recipe_kinds(values["model"])
    sections = {name: plain(build(kinds[name], values[name], path, RunFolderError)) for name in ("network", "training")}
    return {**values, **sections}


def refuse_unknown_paths(run: RunFolder, data: DataSettings, features: FeatureSettings) -> None:
    """See that videos and, for a run that learns from them, cached features have a path on this machine.

    Raises:
        SettingsError: one of them has none.
    """
    if data.root is None:
        raise SettingsError("data.root", "is not known", "say where the videos of the run are: --data.root DIR")
    if run.config.get("features") and features.folder is None:
        remedy = "say where the features of the run are, or are to be computed: --features.folder DIR"
        raise SettingsError("features.folder", "is not known", remedy)


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _short(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return text if len(text) <= 60 else f"{text[:57]}..."
