"""The command ``protocol``: train and evaluate every split of a protocol, and go on where that was stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import Any

import yaml

from actionfusion.data.dataset import DataSettings, open_listing, refuse_single_class, split_listing
from actionfusion.data.listing import Listing
from actionfusion.data.recorded_split import reopen_data
from actionfusion.errors import DatasetError, RunFolderError, SettingsError, TrainingError, VideoError, WeightsError
from actionfusion.evaluation.evaluate import measure, write_evaluation
from actionfusion.evaluation.folds import Fold, ProtocolName, make_folds
from actionfusion.evaluation.pooling import KEPT, PROTOCOL, FailedFold, FinishedFold, summarize
from actionfusion.evaluation.protocol_printing import print_protocol
from actionfusion.evaluation.result import read_evaluation
from actionfusion.files import write_atomically
from actionfusion.models.model_settings import ModelSettings
from actionfusion.run_folder import CHECKPOINT, CONFIG, WEIGHTS, at_work, evaluation_path, open_run, refuse_taken
from actionfusion.settings import field_kinds, plain, read_yaml
from actionfusion.terminal import Console, Text
from actionfusion.training.chosen import chosen_recipe
from actionfusion.training.recipe import Recipe
from actionfusion.training.resume import is_begun, refuse_contradictions
from actionfusion.training.start import start_doubts
from actionfusion.training.train import train
from actionfusion.upgrade import FORMAT, upgraded

RECIPE = "protocol.yaml"
_PLACES_AND_SPLIT = {"root", "store", "manifest", "split"}


@dataclass(frozen=True)
class ProtocolResult:
    """What a protocol came to.

    Attributes:
        path: its folder.
        figures: what ``protocol.json`` holds.
    """

    path: Path
    figures: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether a fold could not be trained or tested."""
        return bool(self.figures["failed_folds"])


def protocol(
    name: ProtocolName,
    recipe: Recipe | None = None,
    *,
    out: Path = Path("protocol"),
    repeats: int = 1,
    seeds: tuple[int, ...] = (),
    device: str | None = None,
    **changes: Any,
) -> ProtocolResult:
    """Train and evaluate every split of a protocol, fold by fold; the same command goes on where it was stopped.

    A fold that is finished is never done again, and one that was interrupted goes on from its checkpoint.  A fold that
    fails, by a video that cannot be read or a loss that is no number, is counted and named; the others are done, and
    the same command tries it again.

    Args:
        name: official (all official splits that are there), random-7:3 (the paper's), stratified-7:3, grouped-7:3,
            leave-one-group-out, leave-one-out, column (of a table) or folders (the folder's own parts).
        recipe: as in train; the protocol says how the videos are split.
        out: folder for a run folder of each fold, protocol.json with all figures, and protocol.yaml with the recipe.
        repeats: draws of a random split, with ``data.seed`` and the numbers after it.
        seeds: of the trainings, such as [0,1,2], each over all splits; none takes the recipe's alone.
        device: as in train.
        changes: fields of the recipe to replace, as in train.

    Returns:
        The folder with its figures.

    Raises:
        SettingsError: settings that make no sense, or another recipe than that which the folder was begun with.
        DatasetError: the data set does not make these splits, or has changed since the folder was begun.
        RunFolderError: the folder holds something else, or cannot be written.
    """
    given, chosen = chosen_recipe(recipe, changes)
    listing = open_listing(given.data)
    for line in (*chosen, *listing.describe_choice()):
        _say(line)
    result = run_protocol(name, given, listing, out=out, repeats=repeats, seeds=seeds, device=device)
    print_protocol(result.figures)
    _say(f"written to {out / PROTOCOL}")
    return result


def run_protocol(
    name: ProtocolName,
    given: Recipe,
    listing: Listing,
    *,
    out: Path,
    repeats: int = 1,
    seeds: tuple[int, ...] = (),
    device: str | None = None,
) -> ProtocolResult:
    """Do what the command does, of videos that were listed, and print no figures; arguments and errors are its own."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise SettingsError("protocol", "runs in one process", "leave out torchrun")
    refuse_single_class(listing)
    given = given.changed(data=replace(given.data, dataset=listing.dataset))
    folds = make_folds(listing, name, given.data.seed, repeats, seeds or (given.seed,))
    with at_work(out):
        return _train_folds(given, listing, folds, name=name, out=out, device=device)


def _train_folds(
    given: Recipe,
    listing: Listing,
    folds: Sequence[Fold],
    *,
    name: ProtocolName,
    out: Path,
    device: str | None,
) -> ProtocolResult:
    common = refuse_other_recipe(out, name, given)
    _check(out, listing, given.data, folds)
    with _writing(out):
        write_atomically(out / RECIPE, yaml.safe_dump(common, sort_keys=False, allow_unicode=True))
    record = _Record(out, name, listing.dataset, folds)
    if record.finished:
        _say(f"{len(record.finished)} of {len(folds)} folds are done already")
    figures = record.write()
    for number, fold in enumerate(folds, 1):
        if fold in record.finished:
            continue
        _say(f"fold {number} of {len(folds)}: {fold.name}")
        try:
            _train_and_measure(out / fold.folder, fold, given, device)
        except (VideoError, DatasetError, TrainingError, WeightsError) as error:
            record.failed.append(FailedFold(fold, error.kind, str(error)))
            _say(f"fold {fold.name} failed: {error}")
        figures = record.write()
    return ProtocolResult(out, figures)


class _Record:
    """What is done of a protocol, as its folder says."""

    def __init__(self, out: Path, name: ProtocolName, dataset: str, folds: Sequence[Fold]) -> None:
        self.out = out
        self.folds = folds
        self.about = {"protocol": name, "dataset": dataset, "seeds": sorted({fold.seed for fold in folds})}
        self.finished: dict[Fold, FinishedFold] = {}
        self.failed: list[FailedFold] = []
        self._look()

    def _look(self) -> None:
        for fold in self.folds:
            path = self.out / fold.folder
            if fold not in self.finished and evaluation_path(path, "test").is_file():
                self.finished[fold] = _finished(fold, evaluation_path(path, "test"))

    def write(self) -> dict[str, Any]:
        """Put the figures of all that is finished into ``protocol.json``."""
        self._look()
        finished = [self.finished[fold] for fold in self.folds if fold in self.finished]
        figures = self.about | summarize(finished, self.failed, self.folds)
        with _writing(self.out / PROTOCOL):
            write_atomically(self.out / PROTOCOL, dumps(figures, indent=1, ensure_ascii=False) + "\n")
        return figures


def _finished(fold: Fold, path: Path) -> FinishedFold:
    evaluation = read_evaluation(path)
    if missing := [name for name in (*KEPT, "failed") if name not in evaluation]:
        remedy = "remove that file and the fold is tested again"
        raise RunFolderError(path, f"was written by another version: it has no {missing[0]}", remedy)
    views = evaluation["views"]
    if not isinstance(views, dict) or views.get("temporal") != 1 or views.get("flip"):
        remedy = "remove that file and the fold is tested again, as the others are"
        raise RunFolderError(path, "is of several views of each video, by another command", remedy)
    return FinishedFold(fold, evaluation, start_doubts(open_run(path.parent)))


def _recipe(name: ProtocolName, given: Recipe) -> dict[str, Any]:
    """Collect what all folds have in common, without a path of this machine; seeds and repeats may grow."""
    data = {key: value for key, value in plain(given.data).items() if key not in _PLACES_AND_SPLIT}
    return _without_resolved(
        {
            "format": FORMAT,
            "protocol": name,
            "model": given.model,
            "data": data,
            "clip": plain(given.clip),
            "network": plain(given.network),
            "augmentation": plain(given.augmentation),
            "training": plain(given.training),
            "features": given.features.recorded(),
            "pretrained": given.pretrained_name,
            "pretrained_fc6": given.pretrained_fc6,
            "flow_start": given.flow_start,
        }
    )


def _without_resolved(recipe: dict[str, Any]) -> dict[str, Any]:
    """Take out of the recipe what each fold's data and model decide."""
    resolved = {"clip": {"streams"}, "network": set(field_kinds(ModelSettings))}
    parts = {
        part: {key: value for key, value in recipe[part].items() if key not in names}
        for part, names in resolved.items()
        if isinstance(recipe.get(part), dict)
    }
    return recipe | parts


def refuse_other_recipe(out: Path, name: ProtocolName, given: Recipe) -> dict[str, Any]:
    """See that a folder in which a fold was begun is that of this protocol and recipe, and any other one is free.

    Returns:
        What the folder keeps of them.

    Raises:
        SettingsError: it was begun with another recipe; all settings that differ are named.
        RunFolderError: it holds something else.
    """
    path, recipe = out / RECIPE, _recipe(name, given)
    if not path.is_file():
        refuse_taken(out)
    elif any(out.glob(f"fold-*/{CONFIG}")):
        try:
            recorded = read_yaml(path)
        except SettingsError as error:
            raise RunFolderError(
                path, f"is no recipe of a protocol ({error.reason})", "choose another --out"
            ) from error
        refuse_contradictions(_without_resolved(upgraded(recorded)), recipe, out, file=RECIPE)
    return recipe


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise RunFolderError(path, reason, "free some space or choose another --out; finished folds stay") from error


def _check(out: Path, listing: Listing, data: DataSettings, folds: Sequence[Fold]) -> None:
    """Make every split before the first training, and see that those that were begun are still the same."""
    for fold in {(fold.split, fold.split_seed): fold for fold in folds}.values():
        videos = split_listing(listing, fold.data(data))
        if not videos.split.test:
            raise DatasetError(listing.root, f"split {videos.split.name!r} has no test part", "choose another protocol")
        for begun in (out / other.folder for other in folds if other.split_name == fold.split_name):
            if (begun / CONFIG).is_file() and open_run(begun).config["data"]["digest"] != videos.digest():
                reason = f"is no longer split as {begun.name} was: videos came, went or changed their parts"
                raise DatasetError(listing.root, reason, "bring back the data set, or choose another --out")


def _train_and_measure(path: Path, fold: Fold, given: Recipe, device: str | None) -> None:
    data = fold.data(given.data)
    train(given.changed(data=data, seed=fold.seed), out=path, device=device, resume=_goes_on(path))
    run = open_run(path)
    # A fold whose videos all have duplicates in training, as leave-one-out makes them, is marked; it stops nothing.
    videos = reopen_data(run, data.root, data.store)
    evaluation = measure(run, videos, force=True, device=device, features=given.features.beside(path))
    write_evaluation(evaluation, evaluation_path(path, "test"))


def _goes_on(path: Path) -> bool:
    """Tell whether there is a checkpoint; clear away what was stopped before its first one."""
    if (path / CHECKPOINT).is_file():
        return True
    if (path / WEIGHTS).is_file() and not is_begun(path):
        remedy = "remove the folder to train the fold again"
        raise RunFolderError(path, f"has weights, but neither {CHECKPOINT} nor figures", remedy)
    shutil.rmtree(path, ignore_errors=True)
    return False


def _say(line: str) -> None:
    Console(stderr=True).print(Text(line), soft_wrap=True)
