"""The command ``report_comparison``: several runs on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from actionfusion.curves import Curves, EpochRow, Quantity
from actionfusion.data.listing import Part
from actionfusion.errors import SettingsError
from actionfusion.evaluation.result import check_evaluation
from actionfusion.files import refuse_unwritable
from actionfusion.reporting.figures import SERIES, overlay_svg
from actionfusion.reporting.findings import confidence, mean_class_accuracy, remarks
from actionfusion.reporting.model_facts import ModelFacts
from actionfusion.reporting.orders import by_name, by_value, orders
from actionfusion.reporting.rendering import decimal, environment, percent, plural, write_page
from actionfusion.reporting.run_report import evaluation_of, read_epochs
from actionfusion.reporting.several_runs import class_rows, paired, short_names, unlike
from actionfusion.reporting.tables import Bar, Evaluation, finite_interval, section
from actionfusion.run_folder import open_run
from actionfusion.terminal import Console, Text


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run as a comparison shows it.

    Args:
        name: unlike the others'.
        evaluation: what ``evaluate`` wrote.
        epochs: the rows of its ``metrics.csv``.
        model: which model it is.
    """

    name: str
    evaluation: Evaluation
    epochs: Sequence[EpochRow] = ()
    model: ModelFacts | None = None


def report_comparison(runs: Sequence[str | Path], *, part: Part = "test", out: Path = Path("comparison.html")) -> Path:
    """Write one HTML file about several runs: their figures, paired differences to the first, classes and curves.

    Args:
        runs: run folders that have been evaluated; the others are compared with the first.
        part: side of the split: test, val or train.
        out: the page.

    Returns:
        The page.

    Raises:
        RunFolderError: not a run folder, or one that was not evaluated.
        SettingsError: fewer than two runs, or one of them twice.
        OutputError: the page cannot be written.
    """
    if len(runs) < 2:
        raise SettingsError("runs", f"{plural(len(runs), 'run')} cannot be compared", "name two or more")
    refuse_unwritable(out)
    names = short_names([Path(run) for run in runs])
    compared = []
    for name, run in zip(names, runs, strict=True):
        folder = open_run(run)
        evaluation = evaluation_of(folder, part)
        compared.append(ComparedRun(name, evaluation, read_epochs(folder), ModelFacts.of(folder, evaluation)))
    write_page(out, render_comparison(compared))
    Console(stderr=True).print(Text(f"now open {out} in a browser"), soft_wrap=True)
    return out


def render_comparison(runs: Sequence[ComparedRun]) -> str:
    """Render the page.

    Args:
        runs: two or more; the others are compared with the first.

    Raises:
        SettingsError: an evaluation whose parts contradict each other.
        RunFolderError: epochs that cannot be read.
    """
    for run in runs:
        check_evaluation(run.evaluation)
    first, *others = runs
    classes = _classes(runs)
    training = _training(runs)
    sections = [("runs", "Runs"), ("pairs", "Video by video"), ("classes", "Classes")]
    template = environment().get_template("several_runs.html.j2")
    return template.render(
        title="Comparison of runs",
        summary=f"{plural(len(runs), 'run')}, each compared with {first.name}.",
        sections=sections + ([("training", "Training")] if training else []),
        unlike=unlike([run.evaluation for run in runs]),
        confidence=confidence(first.evaluation),
        first=first.name,
        runs=[_row(number, run) for number, run in enumerate(runs)],
        pairs=[
            (_series(number), paired(first.evaluation, run.evaluation, run.name))
            for number, run in enumerate(others, 1)
        ],
        classes=classes,
        training=training,
    )


def _series(number: int) -> str:
    return f"var(--s{number % SERIES + 1})"


def _row(number: int, run: ComparedRun) -> dict[str, Any]:
    evaluation = run.evaluation
    count = evaluation["count"]
    bar = Bar(
        run.name,
        evaluation["correct"],
        count,
        finite_interval(evaluation["interval"]) if count else None,
        1 / max(len(evaluation["labels"]), 1),
    )
    return {
        "bar": bar,
        "colour": _series(number),
        "evaluation": evaluation,
        "model": run.model,
        "group_interval": finite_interval(evaluation.get("group_interval")),
        "mean_class": mean_class_accuracy(evaluation),
        "top5": section(evaluation, "top5").get("accuracy"),
        "ece": section(evaluation, "calibration").get("ece"),
        "remarks": [remark for remark in remarks(evaluation) if remark.grave],
    }


def _classes(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    rows = class_rows([run.evaluation for run in runs])
    return {
        "rows": rows,
        "orders": orders(
            "as listed",
            len(rows),
            ("by name", by_name([row.label for row in rows])),
            ("largest difference first", by_value([row.largest for row in rows], falling=True)),
            *(
                (f"gains of {run.name} first", by_value([row.differences[number] for row in rows], falling=True))
                for number, run in enumerate(runs[1:])
            ),
        ),
    }


def _training(runs: Sequence[ComparedRun]) -> dict[str, Any] | None:
    known = [(number, run) for number, run in enumerate(runs) if run.epochs]
    if not known:
        return None
    curves = [Curves.from_rows(run.epochs) if run.epochs else None for run in runs]
    quantities: tuple[Quantity, Quantity] = ("loss", "accuracy")
    return {
        "without": [run.name for run in runs if not run.epochs],
        "validated": any(part is not None and part.has_validation for part in curves),
        "charts": [
            (name, Markup(overlay_svg(curves, name, _describe(runs, curves, name))))  # noqa: S704  # our own markup
            for name in quantities
        ],
        "colours": [(_series(number), run.name) for number, run in known],
    }


def _describe(runs: Sequence[ComparedRun], curves: Sequence[Curves | None], quantity: Quantity) -> str:
    parts, form = [], percent if quantity == "accuracy" else decimal
    for run, part in zip(runs, curves, strict=True):
        if part is None:
            continue
        train, validation = part.of(quantity)
        column = validation if np.isfinite(validation).any() else train
        finite = column[np.isfinite(column)]
        if len(finite):
            parts.append(f"{run.name} ends at {form(finite[-1])}")
    return f"{quantity} against epochs: {'; '.join(parts)}"
