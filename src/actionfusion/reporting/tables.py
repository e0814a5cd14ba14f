"""What the page shows of an evaluation: the confusion matrix, the classes one by one, and the mistakes.

An evaluation is the plain mapping that ``evaluation.json`` holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actionfusion.intervals import Interval
from actionfusion.reporting.orders import Order, by_name, by_similarity, by_value, orders
from actionfusion.reporting.rendering import known

Evaluation = Mapping[str, Any]
Density = Literal["roomy", "close", "dense"]

MOST_ROOMY_CLASSES = 16
MOST_CLOSE_CLASSES = 40
MOST_LISTED_PAIRS = 10
MOST_LISTED_MISTAKES = 20
MOST_CLASSES_IN_ORDER = 24


@dataclass(frozen=True)
class Bar:
    """One bar of an accuracy chart.

    Attributes:
        name: what is measured.
        correct: clips that were predicted correctly.
        count: clips in all.
        interval: ends of the confidence interval, or None where there is no clip.
        chance: the accuracy of guessing.
        description: a sentence about it, or an empty text.
        precision: share of the clips with this prediction that are correct, 0..1; None where no clip has it.
        f1: harmonic mean of precision and accuracy (which is the recall of a class), 0..1; None without either.
    """

    name: str
    correct: int
    count: int
    interval: Interval | None
    chance: float
    description: str = ""
    precision: float | None = None
    f1: float | None = None

    @property
    def accuracy(self) -> float:
        """Share of correct clips, 0..1; NaN where there is no clip."""
        return self.correct / self.count if self.count else math.nan

    @property
    def verdict(self) -> str:
        """Position of the interval to chance; empty where it is above, as it should be."""
        if not self.count:
            return "no clips"
        if self.interval is None:
            return "no interval"
        if self.interval[1] < self.chance:
            return "below chance"
        return "" if self.interval[0] > self.chance else "not distinguishable from chance"


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix that is not empty.

    Attributes:
        count: clips.
        share: of the clips of its true class, 0..1.
        correct: whether it is on the diagonal.
        title: the cell in words.
    """

    count: int
    share: float
    correct: bool
    title: str

    @property
    def strength(self) -> float:
        """Strength of the cell's colour, 0..1: never so faint that a single clip is overlooked."""
        return 0.2 + 0.8 * (self.share if self.correct else math.sqrt(self.share))


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix as a page shows it.

    Attributes:
        labels: of rows and columns.
        rows: a row for each true class, a cell for each predicted one; None where no clip fell.
        density: how much room a class has.
        pairs: the cells off the diagonal with most clips: true label, predicted label, the cell.
        other_pairs: how many more there are.
        orders: in which rows and columns can be read, the first as they are given.
    """

    labels: Sequence[str]
    rows: Sequence[Sequence[Cell | None]]
    density: Density
    pairs: Sequence[tuple[str, str, Cell]]
    other_pairs: int
    orders: Sequence[Order]


@dataclass(frozen=True)
class Mistake:
    """A clip with a wrong prediction, and its probability."""

    video: str
    truth: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class ClassBars:
    """Classes one by one; ``worst_first`` where there are too many to keep the label list's order."""

    bars: Sequence[Bar]
    worst_first: bool
    orders: Sequence[Order]


def confusion_table(evaluation: Evaluation) -> Confusion:
    """Build the confusion matrix, rows true and columns predicted."""
    labels: list[str] = list(evaluation["labels"])
    rows = [_row(labels, index, counts) for index, counts in enumerate(evaluation["confusion"])]
    wrong = [
        (labels[truth], labels[predicted], cell)
        for truth, row in enumerate(rows)
        for predicted, cell in enumerate(row)
        if cell is not None and not cell.correct
    ]
    wrong.sort(key=lambda pair: (-pair[2].count, -pair[2].share))
    accuracies = [
        counts[index] / sum(counts) if sum(counts) else None for index, counts in enumerate(evaluation["confusion"])
    ]
    return Confusion(
        labels,
        rows,
        "roomy" if len(labels) <= MOST_ROOMY_CLASSES else "close" if len(labels) <= MOST_CLOSE_CLASSES else "dense",
        wrong[:MOST_LISTED_PAIRS],
        max(len(wrong) - MOST_LISTED_PAIRS, 0),
        orders(
            "as listed",
            len(labels),
            ("by name", by_name(labels)),
            ("worst first", by_value(accuracies)),
            ("alike side by side", by_similarity(evaluation["confusion"])),
        ),
    )


def class_bars(evaluation: Evaluation) -> ClassBars:
    """List accuracy, precision and F1 of each class, beside the chance of guessing one of them."""
    chance = 1 / max(len(evaluation["labels"]), 1)
    column_of = {label: index for index, label in enumerate(evaluation["labels"])}
    predicted = [sum(column) for column in zip(*evaluation["confusion"], strict=True)]
    bars = []
    for entry in evaluation["per_class"]:
        count, correct, times = entry["count"], entry["correct"], predicted[column_of[entry["label"]]]
        bars.append(
            Bar(
                entry["label"],
                correct,
                count,
                finite_interval(entry["interval"]) if count else None,
                chance,
                precision=correct / times if times else None,
                f1=2 * correct / (count + times) if count + times else None,
            )
        )
    worst_first = len(bars) > MOST_CLASSES_IN_ORDER
    if worst_first:
        # A class without a clip says nothing and goes last.
        bars = [bars[row] for row in by_value([bar.accuracy for bar in bars])]
    return ClassBars(
        bars,
        worst_first,
        orders(
            "worst first" if worst_first else "as listed",
            len(bars),
            ("by name", by_name([bar.name for bar in bars])),
            ("worst first", by_value([bar.accuracy for bar in bars])),
            ("best first", by_value([bar.accuracy for bar in bars], falling=True)),
            ("least precise first", by_value([bar.precision for bar in bars])),
        ),
    )


def mistakes(evaluation: Evaluation) -> list[Mistake]:
    """List every clip with a wrong prediction, the most confident first."""
    column_of = {label: index for index, label in enumerate(evaluation["labels"])}
    wrong = [
        Mistake(
            entry["video"],
            entry["label"],
            entry["predicted"],
            float(entry["probabilities"][column_of[entry["predicted"]]]),
        )
        for entry in evaluation["videos"]
        if entry["predicted"] != entry["label"]
    ]
    return [wrong[row] for row in by_value([mistake.probability for mistake in wrong], falling=True)]


def _row(labels: Sequence[str], truth: int, counts: Sequence[int]) -> list[Cell | None]:
    total = sum(counts)
    return [
        Cell(
            count,
            count / total,
            predicted == truth,
            f"{count} of {total} {labels[truth]}"
            + (" correctly predicted" if predicted == truth else f" predicted as {labels[predicted]}"),
        )
        if count
        else None
        for predicted, count in enumerate(counts)
    ]


def section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part that is a mapping; an empty one where it is missing or something else."""
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}


def finite_interval(ends: Sequence[float] | None) -> Interval | None:
    """Return both ends, or None where one of them is missing or not finite."""
    if ends is None or len(ends) != 2 or not all(map(known, ends)):
        return None
    return float(ends[0]), float(ends[1])
