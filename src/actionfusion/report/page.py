"""The report page: one HTML file that needs nothing but itself.

No script, no network, no font of its own: pictures are data URIs, charts are inline SVG or plain HTML, and a content
security policy in the page forbids everything else.  Every text from outside is escaped by the template engine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from actionfusion.curves import Curves, EpochRow, Quantity, Session
from actionfusion.errors import SettingsError
from actionfusion.files import write_atomically
from actionfusion.report.figures import curves_svg
from actionfusion.report.filmstrip import FilmStrip, Picture, common_scale, flow_wheel, strip_pictures
from actionfusion.report.tables import (
    MOST_LISTED_MISTAKES,
    Bar,
    Evaluation,
    Interval,
    check_evaluation,
    class_bars,
    confusion_table,
    mistakes,
)

MOST_LISTED_PREDICTIONS = 5
NOTHING = "–"


class Headline(NamedTuple):
    """A figure that stands at the top of the page: what it is, its value as text, and a few words more."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy within a group of classes, such as those that motion alone tells apart.

    Args:
        name: of the group.
        description: what tells its classes apart.
        count: clips of the group.
        correct: of these, clips with the right answer.
        interval: confidence interval of the accuracy; not shown where there is no clip.
        chance: the accuracy of guessing within the group, 0..1.

    Raises:
        SettingsError: more right clips than clips, or an impossible chance.
    """

    name: str
    description: str
    count: int
    correct: int
    interval: Interval
    chance: float

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.count:
            raise SettingsError(self.name, f"{self.correct} right of {self.count} clips", "count them again")
        if not 0 <= self.chance <= 1:
            raise SettingsError(self.name, f"{self.chance} is no chance", "give 0 to 1")

    @property
    def accuracy(self) -> float:
        """From 0 to 1; NaN where there is no clip."""
        return self.correct / self.count if self.count else math.nan


@dataclass(frozen=True, eq=False)
class Report:
    """All that one page shows.  What is left out leaves no empty section behind.

    Args:
        title: of the page.
        summary: a few sentences under the title.
        headline: the figures at the top.
        evaluation: what ``evaluation.json`` holds.
        epochs: the rows of a run's ``metrics.csv``, text or numbers.
        groups: accuracy by group of classes.
        strips: clips with their predictions.
        commands: shell commands, in order, that give this result again.
        versions: of what the result depends on, by name.
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


def accuracy_headline(evaluation: Evaluation) -> Headline:
    """Top-1 accuracy with its count and interval."""
    note = f"{evaluation['correct']:,} of {evaluation['count']:,} {evaluation['part']} clips"
    if not evaluation["count"]:
        return Headline("Top-1 accuracy", NOTHING, note)
    interval = f"{_confidence(evaluation)} interval {_range(evaluation['interval'])}"
    return Headline("Top-1 accuracy", _percent(evaluation["top1"]), f"{note}; {interval}")


def write_report(path: str | os.PathLike[str], report: Report) -> None:
    """Write the page, whole or not at all; the same report gives the same bytes.

    Raises:
        SettingsError: an evaluation whose parts contradict each other.
        RunFolderError: epochs that cannot be read.
        OSError: the file cannot be written.
    """
    write_atomically(Path(path), render_report(report))


def render_report(report: Report) -> str:
    """The page as text.

    Raises:
        SettingsError: an evaluation whose parts contradict each other.
        RunFolderError: epochs that cannot be read.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, range=_range, decimal=_decimal, plural=_plural, share=_share)
    film, training, result = _film(report.strips), _training(report.epochs), _result(report.evaluation)
    repeat = bool(report.commands or report.versions)
    sections = [
        ("groups", "Groups", report.groups),
        ("clips", "Clips", film),
        ("training", "Training", training),
        ("confusion", "Confusion", result),
        ("classes", "Classes", result),
        ("mistakes", "Mistakes", result and result["mistakes"]),
        ("repeat", "How to repeat", repeat),
    ]
    return environment.get_template("report.html.j2").render(
        report=report,
        sections=[(anchor, name) for anchor, name, content in sections if content],
        headline=[Headline(*item) for item in report.headline],
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
        group.accuracy,
        group.interval if group.count else None,
        group.chance,
        group.description,
    )


@dataclass(frozen=True)
class _Strip:
    strip: FilmStrip
    frames: Sequence[Picture]
    flows: Sequence[Picture]
    ranking: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class _Film:
    scale: float
    wheel: Picture
    strips: Sequence[_Strip]


def _film(strips: Sequence[FilmStrip]) -> _Film | None:
    if not strips:
        return None
    scale = common_scale([strip.clip for strip in strips])
    shown = [
        _Strip(strip, *strip_pictures(strip, scale), ranking=strip.ranking[:MOST_LISTED_PREDICTIONS])
        for strip in strips
    ]
    return _Film(scale, flow_wheel(scale), shown)


def _training(rows: Sequence[EpochRow]) -> dict[str, Any] | None:
    if not rows:
        return None
    curves = Curves.from_rows(rows)
    columns = (curves.train_loss, curves.train_accuracy, curves.val_loss, curves.val_accuracy)
    heads = zip(curves.epochs.tolist(), curves.sessions.tolist(), strict=True)
    best = curves.best
    quantities: tuple[Quantity, Quantity] = ("loss", "accuracy")
    return {
        "curves": curves,
        "charts": [
            (name, Markup(curves_svg(curves, name, _describe(curves, name))))  # noqa: S704  # matplotlib's own markup
            for name in quantities
        ],
        "sessions": [(session, _rates(session)) for session in curves.session_list()],
        "best": None if best is None else (int(curves.epochs[best]), float(curves.val_accuracy[best])),
        "duration": _duration(float(sum(seconds for seconds in curves.seconds if math.isfinite(seconds)))),
        "rows": list(zip(heads, zip(*(column.tolist() for column in columns), strict=True), strict=True)),
    }


def _result(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    check_evaluation(evaluation)
    wrong = mistakes(evaluation)
    return {
        "evaluation": evaluation,
        "confidence": _confidence(evaluation),
        "confusion": confusion_table(evaluation),
        "classes": class_bars(evaluation),
        "mistakes": wrong[:MOST_LISTED_MISTAKES],
        "other_mistakes": max(len(wrong) - MOST_LISTED_MISTAKES, 0),
        "selected_on_part": bool(evaluation.get("selected_on_part", False)),
    }


def _describe(curves: Curves, quantity: Quantity) -> str:
    train, validation = curves.of(quantity)
    form = _percent if quantity == "accuracy" else _decimal
    text = f"{quantity} against epochs: training from {form(train[0])} to {form(train[-1])}"
    known = validation[np.isfinite(validation)]
    return f"{text}, validation from {form(known[0])} to {form(known[-1])}" if len(known) else text


def _rates(session: Session) -> str:
    first, last = session.rates
    if not math.isfinite(first):
        return ""
    return f"{first:g}" if first == last or not math.isfinite(last) else f"{first:g} to {last:g}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 1:
        return ""
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _known(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _percent(value: float | None) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%" if value is not None and _known(value) else NOTHING


def _range(interval: Interval | None) -> str:
    if interval is None or not all(map(_known, interval)):
        return NOTHING
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}\N{NO-BREAK SPACE}%"


def _decimal(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and _known(value) else NOTHING


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _share(value: float) -> str:
    """A length in a style attribute, never beyond its track."""
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"


def _confidence(evaluation: Evaluation) -> str:
    return f"{100 * evaluation['confidence']:g}\N{NO-BREAK SPACE}%"
