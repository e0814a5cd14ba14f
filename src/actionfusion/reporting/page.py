"""The report page: one HTML file that needs nothing but itself.

No network, no font of its own: pictures are data URIs, charts are inline SVG or plain HTML, and a content security
policy in the page forbids everything else but one script of ours, named by its hash, without which all is there and
nothing sorts.  Every text from outside is escaped by the template engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from actionfusion.curves import Curves, EpochRow, Quantity, Stage
from actionfusion.errors import SettingsError
from actionfusion.evaluation.result import check_evaluation
from actionfusion.intervals import Interval
from actionfusion.plain_progress import duration
from actionfusion.reporting.figures import curves_svg, reliability_bins, reliability_svg
from actionfusion.reporting.filmstrip import (
    FilmStrip,
    Picture,
    common_scale,
    flow_pictures,
    flow_wheel,
    frame_pictures,
    heat_pictures,
)
from actionfusion.reporting.findings import Headline, confidence, remarks
from actionfusion.reporting.model_facts import ModelFacts
from actionfusion.reporting.rendering import decimal, environment, percent
from actionfusion.reporting.tables import (
    MOST_LISTED_MISTAKES,
    Bar,
    Evaluation,
    class_bars,
    confusion_table,
    mistakes,
    section,
)

MOST_LISTED_PREDICTIONS = 5


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy within a group of classes, such as those that only motion distinguishes.

    Args:
        name: of the group.
        description: what distinguishes its classes.
        count: clips of the group.
        correct: of these, clips that were predicted correctly.
        interval: confidence interval of the accuracy; not shown where there is no clip.
        chance: the accuracy of guessing within the group, 0..1.

    Raises:
        SettingsError: more correct clips than clips, or an impossible chance.
    """

    name: str
    description: str
    count: int
    correct: int
    interval: Interval
    chance: float

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.count:
            raise SettingsError(self.name, f"{self.correct} correct of {self.count} clips", "count them again")
        if not 0 <= self.chance <= 1:
            raise SettingsError(self.name, f"{self.chance} is no chance", "give 0 to 1")


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that one page shows.  What is left out leaves no empty section behind.

    Args:
        title: of the page.
        summary: a few sentences under the title.
        headline: the figures at the top.
        evaluation: what ``evaluation.json`` holds.
        epochs: the rows of a run's ``metrics.csv``, text or numbers.
        groups: accuracy by group of classes.
        strips: clips with their predictions.
        commands: shell commands, in order, that reproduce the result.
        versions: of what the result depends on, by name.
        no_strips: why there is no film strip, or not every one.
        recipe: settings as YAML, from which the commands train.
        model: which model was measured, and the figures published for it.
    """

    title: str
    summary: str = ""
    headline: Sequence[Headline | tuple[str, str, str]] = ()
    evaluation: Evaluation | None = None
    epochs: Sequence[EpochRow] = ()
    groups: Sequence[GroupAccuracy] = ()
    strips: Sequence[FilmStrip] = ()
    commands: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    no_strips: str = ""
    recipe: str = ""
    model: ModelFacts | None = None


def render_report(report: Report) -> str:
    """Render the page; the same report gives the same text.

    Raises:
        SettingsError: an evaluation whose parts contradict each other.
        RunFolderError: epochs that cannot be read.
    """
    film, training, result = _film(report.strips), _training(report.epochs), _result(report.evaluation)
    repeat = bool(report.commands or report.versions or report.recipe)
    sections = [
        ("model", "Model", report.model),
        ("groups", "Groups", report.groups),
        ("clips", "Clips", film or report.no_strips),
        ("training", "Training", training),
        ("confusion", "Confusion", result),
        ("classes", "Classes", result),
        ("calibration", "Calibration", result and result["calibration"]),
        ("mistakes", "Mistakes", result and result["mistakes"]),
        ("repeat", "Reproduce", repeat),
    ]
    template = environment().get_template("report.html.j2")
    return template.render(
        report=report,
        title=report.title,
        summary=report.summary,
        sections=[(anchor, name) for anchor, name, content in sections if content],
        headline=[Headline(*item) for item in report.headline],
        remarks=[] if report.evaluation is None else remarks(report.evaluation),
        model=report.model,
        groups=[_group_bar(group) for group in report.groups],
        film=film,
        training=training,
        result=result,
        repeat=repeat,
    )


def _group_bar(group: GroupAccuracy) -> Bar:
    return Bar(
        group.name,
        group.correct,
        group.count,
        group.interval if group.count else None,
        group.chance,
        group.description,
    )


@dataclass(frozen=True)
class _Strip:
    strip: FilmStrip
    frames: Sequence[Picture]
    flows: Sequence[Picture]
    heats: Sequence[Picture]
    ranking: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class _Film:
    scale: float
    wheel: Picture | None
    strips: Sequence[_Strip]

    @property
    def heated(self) -> bool:
        return any(shown.heats for shown in self.strips)


def _film(strips: Sequence[FilmStrip]) -> _Film | None:
    if not strips:
        return None
    scale = common_scale([strip.clip for strip in strips])
    shown = [
        _Strip(
            strip,
            frame_pictures(strip.clip),
            flow_pictures(strip.clip, scale),
            heat_pictures(strip),
            strip.ranking[:MOST_LISTED_PREDICTIONS],
        )
        for strip in strips
    ]
    return _Film(scale, flow_wheel(scale) if any(each.flows for each in shown) else None, shown)


def _training(rows: Sequence[EpochRow]) -> dict[str, Any] | None:
    if not rows:
        return None
    curves = Curves.from_rows(rows)
    columns = (curves.train_loss, curves.train_accuracy, curves.val_loss, curves.val_accuracy)
    heads = zip(curves.epochs.tolist(), curves.stages.tolist(), strict=True)
    best = curves.best
    quantities: tuple[Quantity, Quantity] = ("loss", "accuracy")
    trained = float(sum(seconds for seconds in curves.seconds if math.isfinite(seconds)))
    return {
        "curves": curves,
        "charts": [
            (name, Markup(curves_svg(curves, name, _describe(curves, name))))  # noqa: S704  # matplotlib's own markup
            for name in quantities
        ],
        "stages": [(stage, _rates(stage)) for stage in curves.stage_list()],
        "best": None if best is None else (int(curves.epochs[best]), float(curves.val_accuracy[best])),
        "duration": duration(trained) if round(trained) else "",
        "rows": list(zip(heads, zip(*(column.tolist() for column in columns), strict=True), strict=True)),
    }


def _result(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    check_evaluation(evaluation)
    wrong = mistakes(evaluation)
    return {
        "evaluation": evaluation,
        "confidence": confidence(evaluation),
        "calibration": _calibration(evaluation),
        "confusion": confusion_table(evaluation),
        "classes": class_bars(evaluation),
        "mistakes": wrong[:MOST_LISTED_MISTAKES],
        "other_mistakes": max(len(wrong) - MOST_LISTED_MISTAKES, 0),
    }


def _calibration(evaluation: Evaluation) -> dict[str, Any] | None:
    figures = section(evaluation, "calibration")
    bins = reliability_bins(figures.get("bins"))
    if not bins:
        return None
    filled = [part for part in bins if part.count]
    description = "share of correct predictions against their probability: " + "; ".join(
        f"{percent(part.confidence)} sure, {percent(part.accuracy)} correct" for part in filled
    )
    return {
        "figures": figures,
        "bins": bins,
        "chart": Markup(reliability_svg(bins, description)),  # noqa: S704  # matplotlib's own markup
    }


def _describe(curves: Curves, quantity: Quantity) -> str:
    train, validation = curves.of(quantity)
    form = percent if quantity == "accuracy" else decimal
    text = f"{quantity} against epochs: training from {form(train[0])} to {form(train[-1])}"
    known = validation[np.isfinite(validation)]
    return f"{text}, validation from {form(known[0])} to {form(known[-1])}" if len(known) else text


def _rates(stage: Stage) -> str:
    first, last = stage.rates
    if not math.isfinite(first):
        return ""
    return f"{first:g}" if first == last or not math.isfinite(last) else f"{first:g} to {last:g}"
