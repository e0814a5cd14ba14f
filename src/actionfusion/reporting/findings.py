"""The top of a page about an evaluation: its figures with their intervals, and what qualifies them.

An evaluation of an earlier version leaves some figures out; then the page does too.
"""

from __future__ import annotations

from typing import NamedTuple

from actionfusion.reporting.rendering import NOTHING, decimal, known, percent, plural, range_text
from actionfusion.reporting.tables import Evaluation, finite_interval, section

MOST_NAMED_CLASSES = 6


class Headline(NamedTuple):
    """A figure at the top of the page: what it is, its value as text, and a few words more."""

    name: str
    value: str
    note: str = ""


class Remark(NamedTuple):
    """A sentence about an evaluation; a ``grave`` one says that its figures are too good."""

    text: str
    grave: bool = False


NO_LEAK = Remark("No tested clip has a clip of its group or a near-duplicate in training.")


def confidence(evaluation: Evaluation) -> str:
    """Write the confidence of the intervals, such as ``95 %``."""
    return f"{100 * evaluation['confidence']:g}\N{NO-BREAK SPACE}%"


def accuracy_headline(evaluation: Evaluation) -> Headline:
    """Write the top-1 accuracy with its count and its intervals: Wilson's, and by groups where they are known."""
    note = f"{evaluation['correct']:,} of {evaluation['count']:,} {evaluation['part']} clips"
    if not evaluation["count"]:
        return Headline("Top-1 accuracy", NOTHING, note)
    interval = f"{confidence(evaluation)} interval {range_text(evaluation['interval'])}"
    by_group = finite_interval(evaluation.get("group_interval"))
    if by_group is not None:
        interval += f"; with whole groups drawn ({evaluation.get('groups') or NOTHING}) {range_text(by_group)}"
    return Headline("Top-1 accuracy", percent(evaluation["top1"]), f"{note}; {interval}")


def headlines(evaluation: Evaluation) -> list[Headline]:
    """Write top-1, top-5, mean class accuracy and the calibration error, as far as they are known."""
    found = [accuracy_headline(evaluation), *_probe_headline(evaluation)]
    top5 = section(evaluation, "top5")
    if top5.get("count") and known(top5.get("correct")):
        share, interval = top5["correct"] / top5["count"], finite_interval(top5.get("interval"))
        note = f"{top5['correct']:,} of {top5['count']:,}; {confidence(evaluation)} interval {range_text(interval)}"
        found.append(Headline("Top-5 accuracy", percent(share), note))
    tested, classes = sum(entry["count"] > 0 for entry in evaluation["per_class"]), len(evaluation["per_class"])
    note = f"over {tested} classes" if tested == classes else f"over the {tested} of {classes} with a clip"
    found.append(Headline("Mean class accuracy", percent(mean_class_accuracy(evaluation)), note))
    calibration = section(evaluation, "calibration")
    if known(calibration.get("ece")):
        note = "how far the probabilities are from the share of correct predictions; 0 is best"
        if known(calibration.get("ece_calibrated")):
            note += (
                f"; {percent(calibration['ece_calibrated'])} at a temperature of "
                f"{decimal(calibration.get('temperature'))}"
            )
        found.append(Headline("Calibration error", percent(calibration["ece"]), note))
    return found


def _probe_headline(evaluation: Evaluation) -> list[Headline]:
    """Write the accuracy of the linear probe beside the run, with what the network adds to it, if there is one."""
    probe = section(evaluation, "probe")
    if not probe.get("count") or not all(known(probe.get(name)) for name in ("count", "correct")):
        return []
    difference = section(probe, "network_minus_probe")
    note = f"on the same features; {probe['correct']:,} of {probe['count']:,}"
    if known(difference.get("difference")):
        ends = finite_interval(difference.get("interval"))
        between = f" ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})" if ends else ""
        note += f"; network minus probe {100 * difference['difference']:+.1f} points{between}"
    return [Headline("Linear probe", percent(probe["correct"] / probe["count"]), note)]


def mean_class_accuracy(evaluation: Evaluation) -> float | None:
    """Compute the mean over the classes with a clip; None without any."""
    shares = [entry["correct"] / entry["count"] for entry in evaluation["per_class"] if entry["count"]]
    return sum(shares) / len(shares) if shares else None


def remarks(evaluation: Evaluation) -> list[Remark]:
    """List what a reader must know about the figures, the gravest first."""
    found = []
    if evaluation.get("trained_on"):
        text = "The run was trained on these clips: the figures show what it remembers, not what it recognises."
        found.append(Remark(text, grave=True))
    if evaluation.get("selected_on_part"):
        text = "Training was stopped by the accuracy on these same clips, so the figures here flatter the run."
        found.append(Remark(text, grave=True))
    probe = section(evaluation, "probe").get("correct")
    if known(probe) and probe > evaluation["correct"]:
        text = "A linear probe on the same frozen features is more accurate than this network."
        found.append(Remark(text))
    found += _leaks(evaluation)
    notes = evaluation.get("notes")
    if isinstance(notes, list | tuple):
        found += [Remark(f"About the split: {str(note).rstrip('.')}.") for note in notes]
    missing = [entry["label"] for entry in evaluation["per_class"] if not entry["count"]]
    if missing and evaluation["count"]:
        shown = ", ".join(missing[:MOST_NAMED_CLASSES])
        more = f" and {len(missing) - MOST_NAMED_CLASSES} more" if len(missing) > MOST_NAMED_CLASSES else ""
        found.append(Remark(f"Tested without a clip of: {shown}{more}."))
    views = section(evaluation, "views")
    temporal = _count(views.get("temporal")) if views else 1
    if views and (temporal > 1 or views.get("flip")):
        samples = plural(max(temporal, 1), "temporal sample")
        mirrored = ", each mirrored too" if views.get("flip") else ""
        found.append(Remark(f"Each prediction is the mean over {samples}{mirrored}."))
    return found


def _leaks(evaluation: Evaluation) -> list[Remark]:
    leaks = section(evaluation, "leaks")
    if not leaks:
        return []
    group, duplicates = (_count(leaks.get(name)) for name in ("group", "double"))
    if not group and not duplicates:
        return [NO_LEAK]
    text = (
        f"The split leaks: of {plural(evaluation['count'], 'clip')}, {group:,} have a clip of their group in training, "
        f"and {duplicates:,} have a near-duplicate there."
    )
    return [Remark(text, grave=True)]


def _count(found: object) -> int:
    if isinstance(found, list | tuple | dict):
        return len(found)
    return int(found) if isinstance(found, int) else 0
