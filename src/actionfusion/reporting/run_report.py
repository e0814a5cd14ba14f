"""The command ``report``: everything known about a run on one page."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml

from actionfusion.data.listing import Part
from actionfusion.errors import RunFolderError
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.evaluation.result import read_evaluation
from actionfusion.files import refuse_unwritable
from actionfusion.hub import open_named_run
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models.average import AverageSettings
from actionfusion.reporting.chosen_clips import choose_clips, film_strips
from actionfusion.reporting.findings import Headline, headlines
from actionfusion.reporting.model_facts import ModelFacts
from actionfusion.reporting.page import Report, render_report
from actionfusion.reporting.rendering import plural, refuse_other_page, write_page
from actionfusion.reporting.tables import Evaluation, section
from actionfusion.run_folder import METRICS, RunFolder, evaluation_path, report_path
from actionfusion.storage import PathLike
from actionfusion.terminal import Console, Text
from actionfusion.training.resume import recorded_values
from actionfusion.training.start import start_line


def report(
    run: Path,
    root: PathLike | None = None,
    *,
    part: Part = "test",
    store: PathLike | None = None,
    out: Path | None = None,
    heat: bool = True,
    device: str | None = None,
) -> Path:
    """Write one HTML file about a run: figures, curves, confusion, classes, mistakes, and how to reproduce it.

    It reads what ``evaluate`` wrote; where that is missing and the videos are given, the run is evaluated first.

    Args:
        run: the run folder that ``train`` wrote.
        root: folder of the data set that the run was trained on, or its address; without it there are no film strips.
        part: side of the split: test, val or train.
        store: folder of prepared clips, or its address; none reads the videos themselves.
        out: the page; none writes ``report_<part>.html`` into the run folder.
        heat: show on the film strips where the model saw what speaks for its prediction (Grad-CAM).
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.

    Returns:
        The page.

    Raises:
        RunFolderError: not a run folder, not evaluated, or with the evaluation of another run.
        DatasetError: as ``evaluate``.
        WeightsError: heat maps are asked for, and the weights are missing, damaged, or of another network.
        OutputError: the page cannot be written.
    """
    folder = open_named_run(run)
    target = out or report_path(folder.path, part)
    refuse_other_page(target)
    path = evaluation_path(folder.path, part)
    refuse_unwritable(target)
    if not path.is_file():
        if root is None:
            remedy = f"give --root DIR, or run: actionfusion evaluate {shlex.quote(str(run))} --root DIR"
            raise RunFolderError(path, "the run has not been evaluated", f"{remedy} --part {part}")
        evaluate(run, root, part=part, store=store, device=device)
    evaluation = evaluation_of(folder, part)
    recognizer = Recognizer.load(folder, runtime="torch", device=device) if heat and root is not None else None
    strips, without = film_strips(folder, choose_clips(evaluation), root, store, recognizer)
    contents = Report(
        title=folder.path.resolve().name,
        summary=_summary(evaluation),
        headline=[*headlines(evaluation), *_training_headline(folder)],
        evaluation=evaluation,
        model=ModelFacts.of(folder, evaluation),
        epochs=read_epochs(folder),
        strips=strips,
        commands=_commands(folder, part),
        versions=_versions(folder),
        no_strips=without,
        recipe=_recipe(folder),
    )
    write_page(target, render_report(contents))
    for line in filter(None, (without, f"now open {target} in a browser")):
        Console(stderr=True).print(Text(line), soft_wrap=True)
    return target


def evaluation_of(folder: RunFolder, part: Part) -> Evaluation:
    """Read what ``evaluate`` wrote about a run.

    Raises:
        RunFolderError: it is missing, cannot be read, or is about other classes or another part.
    """
    path = evaluation_path(folder.path, part)
    evaluation = read_evaluation(path)
    if tuple(evaluation["labels"]) != folder.labels:
        raise RunFolderError(path, "is about other classes than the run's", "evaluate the run again")
    if evaluation["part"] != part:
        raise RunFolderError(path, f"is about the {evaluation['part']} part", "evaluate the run again")
    return evaluation


def read_epochs(folder: RunFolder) -> list[dict[str, float | None]]:
    """Read the rows of a run's ``metrics.csv``; none if no epoch has ended.

    Raises:
        RunFolderError: it cannot be read.
    """
    try:
        return folder.read_metrics()
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(folder.path / METRICS, f"cannot be read ({error})", "copy the whole run folder") from error


def _summary(evaluation: Evaluation) -> str:
    return (
        f"Measured on {plural(evaluation['count'], 'clip')} of {plural(len(evaluation['labels']), 'label')}: "
        f"the {evaluation['part']} part of {evaluation['dataset']}, split {evaluation['split']}, "
        f"seed {evaluation['seed']}."
    )


def _training_headline(folder: RunFolder) -> list[Headline]:
    counts = section(section(folder.config, "data"), "counts")
    if not isinstance(counts.get("train"), int):
        return []
    held_out = counts.get("val")
    note = f"{plural(held_out, 'other clip')} for validation" if isinstance(held_out, int) and held_out else ""
    return [Headline("Seen in training", plural(counts["train"], "clip"), note)]


def _recipe(folder: RunFolder) -> str:
    try:
        values = recorded_values(folder.path)
    except RunFolderError:
        return ""
    # What names a place on the machine of the training stays out of a page that travels.
    values.pop("device", None)
    values["data"] = {
        name: value for name, value in values["data"].items() if name not in {"root", "store", "manifest"}
    }
    if values["features"]:
        values["features"] = {name: value for name, value in values["features"].items() if name != "folder"}
        values["features"]["cache"] = True
    return yaml.safe_dump(
        {name: value for name, value in values.items() if value != {}}, sort_keys=False, allow_unicode=True
    )


def _commands(folder: RunFolder, part: Part) -> list[str]:
    again = shlex.quote(f"runs/{folder.path.resolve().name}")
    of_part = "" if part == "test" else f" --part {part}"
    made = f"actionfusion train --config recipe.yaml --data.root DATA --out {again}"
    if isinstance(folder.network, AverageSettings):
        weights = ",".join(f"{member['weight']:g}" for member in folder.network.members)
        made = f"actionfusion average {'RUN ' * len(folder.network.members)}--weights [{weights}] --out {again}"
    return [
        made,
        f"actionfusion evaluate {again} --root DATA{of_part}",
        f"actionfusion report {again} --root DATA{of_part}",
    ]


def _versions(folder: RunFolder) -> dict[str, str]:
    config = folder.config
    versions = {str(name): str(value) for name, value in section(config, "versions").items()}
    git = section(config, "git")
    if git.get("commit"):
        versions["git commit"] = f"{git['commit']}{', with changes' if git.get('changed') else ''}"
    start = start_line(folder) or config.get("pretrained")
    for name, value in (("seed", config.get("seed")), ("start", start)):
        if value is not None:
            versions[name] = str(value)
    if digest := section(config, "data").get("digest"):
        versions["digest of the split"] = str(digest)
    return versions
