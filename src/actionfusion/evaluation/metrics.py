"""Figures of a set of predictions, each with its count and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from actionfusion.intervals import CONFIDENCE, percent_range, wilson

__all__ = ["CONFIDENCE", "Accuracy", "ClassFigures", "ClassificationFigures", "classification_figures"]

TOP = 5


@dataclass(frozen=True)
class Accuracy:
    """A share of correct predictions.

    Attributes:
        correct: correct predictions.
        count: predictions.
    """

    correct: int
    count: int

    @property
    def share(self) -> float:
        """From 0 to 1; 0 where there is nothing to count."""
        return self.correct / self.count if self.count else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Wilson 1927; everything from 0 to 1 where there is nothing to count."""
        return wilson(self.correct, self.count)

    def as_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "count": self.count,
            "correct": self.correct,
            "accuracy": self.share,
            "interval": list(self.interval),
        }

    def __str__(self) -> str:
        """Write it such as ``62.5 % (60/96; 95 % interval 52.5 to 71.5 %)``."""
        return f"{100 * self.share:.1f} % ({self.correct}/{self.count}; 95 % interval {percent_range(self.interval)})"


@dataclass(frozen=True)
class ClassFigures:
    """How well one class is found and distinguished from the others.

    Attributes:
        precision: share of correct predictions among those that name it; None where none does.
        recall: share of its videos that are found; None where it has none.
        f1: harmonic mean of both; None where it has no video and no prediction names it.
    """

    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class ClassificationFigures:
    """Accuracy over all, by class, and the confusion of classes.

    Attributes:
        labels: class names.
        top1: over all videos.
        top5: the same, counting a prediction as correct if the class is among the five most probable; None for five
            classes or fewer, where it would always be.
        per_class: in the order of ``labels``; a class without a video counts 0.
        by_class: precision, recall and F1 in the same order.
        confusion: ``[K, K]`` counts, rows the truth, columns the prediction.
    """

    labels: tuple[str, ...]
    top1: Accuracy
    top5: Accuracy | None
    per_class: tuple[Accuracy, ...]
    by_class: tuple[ClassFigures, ...]
    confusion: npt.NDArray[np.int64]

    @property
    def missing_classes(self) -> tuple[str, ...]:
        """Classes without a video, of which nothing is known."""
        return tuple(label for label, part in zip(self.labels, self.per_class, strict=True) if not part.count)

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of the accuracies of the classes that have videos; 0 where none has."""
        shares = [part.share for part in self.per_class if part.count]
        return sum(shares) / len(shares) if shares else 0.0


def classification_figures(
    labels: Sequence[str], targets: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating]
) -> ClassificationFigures:
    """Compute the figures of N predictions.

    Args:
        labels: K class names.
        targets: ``[N]`` class numbers.
        probabilities: ``[N, K]``; the highest of a row is the prediction, the first of the highest if they are equal.
    """
    classes, count = len(labels), len(targets)
    if count:
        predicted = probabilities.argmax(1)
        confusion = np.asarray(confusion_matrix(targets, predicted, labels=np.arange(classes)), np.int64)
    else:
        confusion = np.zeros((classes, classes), np.int64)
    top5 = None
    if classes > TOP:
        # Ties in the order of the labels, as `predict` lists them.
        first = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
        top5 = Accuracy(int((first == targets[:, None]).any(1).sum()), count)
    return ClassificationFigures(
        tuple(labels),
        Accuracy(int(np.trace(confusion)), count),
        top5,
        tuple(Accuracy(int(confusion[row, row]), int(confusion[row].sum())) for row in range(classes)),
        _by_class(targets, probabilities),
        confusion,
    )


def _by_class(targets: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating]) -> tuple[ClassFigures, ...]:
    classes = int(probabilities.shape[1])
    if not len(targets):
        return (ClassFigures(None, None, None),) * classes
    columns = precision_recall_fscore_support(
        targets, probabilities.argmax(1), labels=np.arange(classes), average=None, zero_division=np.nan
    )[:3]
    figures = []
    for row in zip(*columns, strict=True):
        precision, recall, f1 = (None if np.isnan(value) else float(value) for value in row)
        figures.append(ClassFigures(precision, recall, f1))
    return tuple(figures)
