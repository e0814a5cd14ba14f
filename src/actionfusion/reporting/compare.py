"""The command ``compare``: several models trained and tested on the same folds, in one table and on one page."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import Any

from rich.table import Table

from actionfusion.data.dataset import DataSettings, open_listing
from actionfusion.data.listing import Listing
from actionfusion.data.splits import default_split
from actionfusion.errors import ActionFusionError, DatasetError, OutputError, RunFolderError, printable
from actionfusion.evaluation.compared import ComparedModel, measure_cost, training_seconds, with_pairs
from actionfusion.evaluation.folds import ProtocolName, make_folds
from actionfusion.evaluation.protocol import refuse_other_recipe, run_protocol
from actionfusion.files import cannot_write, refuse_foreign, refuse_unwritable, write_atomically
from actionfusion.intervals import percent_range
from actionfusion.models import MODELS, model_class
from actionfusion.reporting.compare_page import render_compared
from actionfusion.reporting.rendering import NOTHING, plural, refuse_other_page, write_page
from actionfusion.run_folder import at_work, evaluation_path
from actionfusion.settings import EVALUATION_BYTES, read_json
from actionfusion.storage import PathLike
from actionfusion.terminal import Console, Text
from actionfusion.training.comparison import comparison_recipe, estimate
from actionfusion.training.features import FOLDER
from actionfusion.training.recipe import Recipe

TABLE, PAGE = "comparison.json", "comparison.html"
BASELINE = "probe"


@dataclass(frozen=True)
class Comparison:
    """What a comparison came to.

    Attributes:
        path: its folder.
        models: a row each.
    """

    path: Path
    models: tuple[ComparedModel, ...]

    @property
    def failed(self) -> bool:
        """Whether a model, or a fold of one, came to nothing."""
        return any(model.failure for model in self.models)


def compare(
    dataset: str,
    root: PathLike,
    *,
    models: str = "",
    protocol: ProtocolName | None = None,
    reference: str = "fusion",
    seeds: tuple[int, ...] = (0,),
    repeats: int = 1,
    config: str | None = None,
    store: PathLike | None = None,
    manifest: Path | None = None,
    group_pattern: str | None = None,
    out: Path = Path("comparison"),
    device: str | None = None,
) -> Comparison:
    """Train and test several models on the same folds; the same command goes on where it was stopped.

    Each model is trained by its recipe for comparisons: ``small``'s clips, start, budget and cached features with the
    model's own settings on a light backbone, or a recipe of its own where it has no such form.  Nothing is chosen on
    the test part.  A model that fails is a row with its reason, and the others go on.

    Args:
        dataset: layout of the videos: folder, ucf101, hmdb51, ucf11, ucfsports or csv.
        root: folder of the videos, or its address.
        models: names with commas between, with a variant as in lrcn:flow; none takes all models that there are.  The
            linear probe is always among them.
        protocol: as in the command protocol; none takes the official splits, the folder's own parts or column, else
            leave-one-group-out of at most ten groups, grouped-7:3, or stratified-7:3, whichever the videos have first.
        reference: the model that the others are compared with, video by video.
        seeds: of the trainings, such as [0,1,2].
        repeats: draws of a random split.
        config: the recipe in place of small, its name or a YAML file; its backbone is that of all models.
        store: folder of prepared clips, or its address.
        manifest: what check wrote of the videos.
        group_pattern: as data.group_pattern of a recipe.
        out: folder for a protocol of each model, the features that they share, comparison.json and comparison.html.
        device: as in train.

    Returns:
        The rows.

    Raises:
        SettingsError: no such model, settings of other trainings than those in the folder, or a table or page there
            that this command did not write.
        DatasetError: videos that do not make these splits.
        RunFolderError: the folder holds something else.
        OutputError: the folder cannot be written; what is finished stays, and the same command goes on.
    """
    recipes = {name: comparison_recipe(name, config) for name in _names(models, reference)}
    refuse_foreign(
        out / TABLE, lambda path: {"reference", "models"} <= read_json(path, largest=EVALUATION_BYTES).keys()
    )
    refuse_other_page(out / PAGE)
    refuse_unwritable(out / TABLE)
    data = DataSettings(
        root=root, dataset=dataset, store=store, manifest=manifest, group_pattern=group_pattern, validation="none"
    )
    listing = open_listing(data)
    _say(listing.describe())
    chosen = protocol or _default_protocol(listing)
    if protocol is None:
        _say(f"protocol: {chosen} (chosen; --protocol sets it)")
    folds = make_folds(listing, chosen, 0, repeats, seeds)
    data = replace(data, dataset=listing.dataset)
    recipes = {name: _on_these_videos(made, data, out) for name, made in recipes.items()}
    with at_work(out):
        for name, made in recipes.items():
            if (out / folder_of(name)).is_dir():  # a table that is there is not to be filled with failures
                refuse_other_recipe(out / folder_of(name), chosen, made)
        _say(f"{plural(len(recipes), 'model')}, {plural(len(folds), 'fold')} each")
        missing = {
            name: sum(not evaluation_path(out / folder_of(name) / fold.folder, "test").is_file() for fold in folds)
            for name in recipes
        }
        if any(missing.values()):
            wanted = [(recipes[name], count) for name, count in missing.items() if count]
            _say(estimate(wanted, listing).line(shutil.disk_usage(out).free))
        before = _in_table(out) & recipes.keys()
        rows: list[ComparedModel] = []
        compared: list[ComparedModel] = []
        for number, (name, made) in enumerate(recipes.items(), 1):
            _say(f"model {number} of {len(recipes)}: {name}")
            rows.append(_run(name, made, chosen, listing, out=out, seeds=seeds, repeats=repeats, device=device))
            if not before - {row.name for row in rows}:  # a table is not to lose rows that were not reached yet
                compared = with_pairs(rows, {row.name: out / folder_of(row.name) for row in rows}, reference)
                _write(out, compared, listing, chosen, reference)
    _print(compared, reference)
    _say(f"now open {out / PAGE} in a browser")
    return Comparison(out, tuple(compared))


def _in_table(out: Path) -> set[str]:
    if not (out / TABLE).is_file():
        return set()
    return {row["model"] for row in read_json(out / TABLE, largest=EVALUATION_BYTES)["models"]}


def _names(models: str, reference: str) -> list[str]:
    """List the rows, the reference first, and the probe last if it was not named."""
    asked = [name.strip() for name in models.split(",") if name.strip()] or list(MODELS)
    return list(dict.fromkeys((reference, *asked, BASELINE)))


def _default_protocol(listing: Listing) -> ProtocolName:
    split = default_split(listing)
    if split.startswith("official-"):
        return "official"
    if split == "grouped-7:3" and len(listing.groups) <= 10:
        return "leave-one-group-out"
    return split  # type: ignore[return-value]  # every other default split is a protocol of that name


def _on_these_videos(recipe: Recipe, data: DataSettings, out: Path) -> Recipe:
    """Let a recipe read these videos, and share the features where it keeps any."""
    features = recipe.features
    return recipe.changed(data=data, features=replace(features, folder=out / FOLDER) if features.cache else features)


def _run(
    name: str,
    recipe: Recipe,
    protocol: ProtocolName,
    listing: Listing,
    *,
    out: Path,
    seeds: tuple[int, ...],
    repeats: int,
    device: str | None,
) -> ComparedModel:
    row = ComparedModel(name, model_class(recipe.model).source, _describe(name, recipe))
    try:
        figures = run_protocol(
            protocol, recipe, listing, out=out / folder_of(name), repeats=repeats, seeds=seeds, device=device
        ).figures
        cost = measure_cost(out / folder_of(name), figures, recipe.data, device)
    except (OutputError, RunFolderError, DatasetError):
        raise  # the others would end in the same way
    except ActionFusionError as error:
        _say(f"{name} failed: {error}")
        return replace(row, failure=str(error))
    failed = figures["failed_folds"]
    failure = f"{len(failed)} of {figures['planned']} folds failed: {failed[0]['message']}" if failed else None
    seconds = training_seconds(out / folder_of(name), figures)
    return replace(row, figures=figures, failure=failure, cost=cost, seconds=seconds)


def folder_of(row: str) -> str:
    """Name the folder of a row; not every file system takes a colon."""
    return row.replace(":", "-")


def _describe(row: str, recipe: Recipe) -> str:
    """Describe what differs between the recipes of a comparison, with what a row sets of its model."""
    start, kind = recipe.pretrained_name or "random weights", model_class(recipe.model)
    backbone = getattr(recipe.network, "backbone", None)
    streams = " and ".join(kind.streams(recipe.network))
    of = f"{backbone} from {start}" if backbone else "solved" if kind.solved else f"from {start}"
    own = kind.variants.get(row.partition(":")[2], {})
    said = "".join(f", {name} {value}" for name, value in own.items() if name != "streams")
    return f"{of}; {streams}, {recipe.clip.frames} frames of {recipe.clip.frame_size} px{said}"


def _write(out: Path, rows: Sequence[ComparedModel], listing: Listing, protocol: ProtocolName, reference: str) -> None:
    about: dict[str, Any] = {"dataset": listing.dataset, "protocol": protocol, "reference": reference}
    figures = about | {"models": [row.as_json() for row in rows]}
    try:
        write_atomically(out / TABLE, dumps(figures, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise cannot_write(out / TABLE, error, "free some space; what is finished stays") from error
    write_page(out / PAGE, render_compared(rows, listing, protocol, reference))


def _print(rows: Sequence[ComparedModel], reference: str) -> None:
    table = Table(box=None, pad_edge=False)
    heads = ("model", "correct", "top-1", "95 % interval", f"less {reference}", "p", "parameters", "ms a clip")
    for head in heads:
        table.add_column(head, justify="left" if head == "model" else "right", overflow="fold")
    for row in sorted(rows, key=lambda row: -(row.pooled.get("top1") or 0)):
        pooled, pair = row.pooled, row.pair
        cells = [NOTHING] * 3
        if pooled:
            cells = [f"{pooled['correct']}/{pooled['count']}", f"{pooled['top1']:.1%}", percent_range(row.interval)]
        less = NOTHING if pair is None else f"{100 * pair.difference:+.1f}"
        p = NOTHING if row.p_value is None else f"{row.p_value:.2g}"
        cost = [NOTHING] * 2
        if row.cost is not None:
            count = row.cost.parameters
            cost = [NOTHING if count is None else f"{count:,}", f"{row.cost.milliseconds:.1f}"]
        table.add_row(Text(row.name), *cells, less, p, *cost)
    console = Console()
    console.print(table)
    for row in rows:
        for doubt in row.start_doubts[:1]:
            console.print(Text(f"note: {row.name}: {printable(doubt)}"), soft_wrap=True)
        if row.failure:
            console.print(Text(f"{row.name}: {printable(row.failure)}", style="red"), soft_wrap=True)
    console.print(Text("p: McNemar's on the first seed, corrected by Holm for the number of models"), soft_wrap=True)


def _say(line: str) -> None:
    Console(stderr=True).print(Text(line), soft_wrap=True)
