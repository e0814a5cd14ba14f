"""Figures of a set of predictions, each with its count and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers.

    Attributes:
        correct: right answers.
        count: answers.
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
        if self.count == 0:
            return 0.0, 1.0
        bounds = binomtest(self.correct, self.count).proportion_ci(CONFIDENCE, method="wilson")
        return float(bounds.low), float(bounds.high)

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "count": self.count,
            "correct": self.correct,
            "accuracy": self.share,
            "interval": list(self.interval),
        }

    def __str__(self) -> str:
        """Such as ``62.5 % (60/96; 95 % interval 52.5 to 71.5 %)``."""
        low, high = self.interval
        return (
            f"{100 * self.share:.1f} % ({self.correct}/{self.count}; "
            f"95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        )


@dataclass(frozen=True)
class ClassificationFigures:
    """Top-1 accuracy over all, by class, and who is taken for whom.

    Attributes:
        labels: class names.
        top1: over all videos.
        per_class: in the order of ``labels``; a class without a video counts 0.
        confusion: ``[K, K]`` counts, rows the truth, columns the prediction.
    """

    labels: tuple[str, ...]
    top1: Accuracy
    per_class: tuple[Accuracy, ...]
    confusion: npt.NDArray[np.int64]


def classification_figures(
    labels: Sequence[str], targets: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating]
) -> ClassificationFigures:
    """Figures of N predictions.

    Args:
        labels: K class names.
        targets: ``[N]`` class numbers.
        probabilities: ``[N, K]``; the highest of a row is the answer.
    """
    answers = probabilities.argmax(1) if len(targets) else np.zeros(0, np.int64)
    if len(targets):
        confusion = np.asarray(confusion_matrix(targets, answers, labels=np.arange(len(labels))), np.int64)
    else:
        confusion = np.zeros((len(labels), len(labels)), np.int64)
    per_class = [Accuracy(int(confusion[row, row]), int(confusion[row].sum())) for row in range(len(labels))]
    return ClassificationFigures(
        tuple(labels), Accuracy(int(np.trace(confusion)), len(targets)), tuple(per_class), confusion
    )
