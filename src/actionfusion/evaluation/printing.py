"""An evaluation as people read it."""

from __future__ import annotations

from rich.table import Table

from actionfusion.data.listing import some
from actionfusion.errors import printable
from actionfusion.evaluation.metrics import ClassificationFigures
from actionfusion.evaluation.result import Evaluation
from actionfusion.intervals import percent_range
from actionfusion.terminal import Console, Text

NOTHING = "–"


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the figures, with what weakens them."""
    console = Console()
    figures = evaluation.figures
    note = (
        "; its training stages were ended by this same part, which flatters it" if evaluation.selected_on_part else ""
    )
    console.print(Text(f"top-1 {figures.top1}"), style="bold")
    console.print(
        Text(f"{evaluation.dataset}, {evaluation.split}, {evaluation.part} part, seed {evaluation.seed}{note}")
    )
    if evaluation.trained_on:
        line = "trained on: training has seen these very videos, so the figures say nothing about others"
        console.print(Text(line), style="red", soft_wrap=True)
    for line in (*_further(evaluation), *(f"note: {line}" for line in evaluation.notes)):
        console.print(Text(line), soft_wrap=True)
    if evaluation.failed:
        console.print(Text(f"{len(evaluation.failed)} videos could not be read and are not counted:"), style="red")
        for item in evaluation.failed:
            console.print(Text(f"  {item.message}"), soft_wrap=True)
    console.print(_class_table(figures))
    console.print("confusion: rows the truth, columns the prediction")
    console.print(_confusion_table(figures))


def _further(evaluation: Evaluation) -> list[str]:
    figures = evaluation.figures
    lines = []
    if evaluation.probe is not None:
        lines.append(f"linear probe {evaluation.probe}")
        if evaluation.probe.top1.correct > figures.top1.correct:
            lines.append("note: the linear probe on the same features is more accurate than the network")
    if interval := evaluation.group_interval:
        drawn = f"{evaluation.group_count} groups of videos, not single videos, taken as drawn"
        lines.append(f"top-1 with {drawn}: 95 % interval {percent_range(interval)}")
    elif evaluation.group_count == 1:
        lines.append("all videos are of one group, so nothing says how other groups would do")
    if figures.top5 is not None:
        lines.append(f"top-5 {figures.top5}")
    with_videos = len(figures.labels) - len(figures.missing_classes)
    lines.append(f"mean class accuracy {100 * figures.mean_class_accuracy:.1f} % over {with_videos} classes")
    if figures.missing_classes:
        missing = f"{len(figures.missing_classes)} classes have no video here, and nothing is said of them"
        lines.append(f"{missing}: {some(figures.missing_classes)}")
    lines += [*_calibration_lines(evaluation), *_views_lines(evaluation)]
    leaks = evaluation.leaks
    if leaks.found and not evaluation.trained_on and not any(leaks.describe() in note for note in evaluation.notes):
        lines.append(f"leakage: {leaks.describe()}")
    return lines


def _calibration_lines(evaluation: Evaluation) -> list[str]:
    plain, calibrated = evaluation.calibration, evaluation.calibrated
    if plain is None:
        return []
    error = f"calibration error {100 * plain.ece:.1f} %"
    lines = [f"{error}, negative log-likelihood {plain.nll:.3f}, Brier score {plain.brier:.3f}"]
    if calibrated is not None:
        after = f"calibration error {100 * calibrated.ece:.1f} %, negative log-likelihood {calibrated.nll:.3f}"
        lines.append(f"at temperature {evaluation.temperature:.3f}, fitted on the validation part: {after}")
    return lines


def _views_lines(evaluation: Evaluation) -> list[str]:
    if evaluation.single is None or not evaluation.videos:
        return []
    views, top1 = evaluation.views, evaluation.figures.top1
    mirrored = " and their mirror images" if views.flip else ""
    each = evaluation.clips / len(evaluation.videos)
    gain = 100 * (top1.share - evaluation.single.share)
    cost = f"{each:.1f} times the network's work of one clip a video"
    most = "up to " if each < views.clips else ""
    line = f"mean over {most}{views.temporal} samples of each video{mirrored}: {gain:+.1f} points to one clip alone"
    return [f"{line} (top-1 {100 * evaluation.single.share:.1f} %), for {cost}"]


def _class_table(figures: ClassificationFigures) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("class", "correct", "accuracy", "95 % interval", "precision", "F1"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for label, accuracy, more in zip(figures.labels, figures.per_class, figures.by_class, strict=True):
        low, high = accuracy.interval
        share = (f"{accuracy.share:.1%}", f"{low:.1%} to {high:.1%}") if accuracy.count else (NOTHING, NOTHING)
        further = [NOTHING if value is None else f"{value:.1%}" for value in (more.precision, more.f1)]
        table.add_row(Text(printable(label)), f"{accuracy.correct}/{accuracy.count}", *share, *further)
    return table


def _confusion_table(figures: ClassificationFigures) -> Table:
    # Class names do not fit above narrow columns, so columns carry the numbers that the rows name.
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for number in range(1, len(figures.labels) + 1):
        table.add_column(str(number), justify="right")
    for number, (label, row) in enumerate(zip(figures.labels, figures.confusion, strict=True), 1):
        cells = [Text(str(count) if count else "·", style="bold" if count else "dim") for count in row]
        table.add_row(Text(f"{number} {printable(label)}"), *cells)
    return table
