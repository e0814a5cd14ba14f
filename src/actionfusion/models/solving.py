"""Solve a linear classifier of clips at once: logistic regression, its strength chosen on groups that it has not seen.

No random number is drawn, so the same clips give the same weights.

Sources: Alain and Bengio 2016 (linear classifier probes); scikit-learn's `LogisticRegression` (L2, L-BFGS) and
`StratifiedGroupKFold`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from torch import Tensor

from actionfusion.errors import DatasetError

Numbers = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

STRENGTHS = (0.01, 0.1, 1.0, 10.0)
UNTESTED_STRENGTH = 1.0  # the best on 192 clips of UCF101
MOST_FOLDS = 5
_ITERATIONS = 1000
_NEVER = -30.0  # the logit of a class that the clips do not hold
_LEAST_LOG = -35.0


@dataclass(frozen=True)
class DescribedClips:
    """What solving needs of N clips; a video may have several, its plain or first one before the others.

    Attributes:
        values: ``[N, F]``, of each clip.
        targets: ``[N]`` class numbers.
        videos: the video of each clip.
        groups: the group of each clip's video; None where it is not known.
    """

    values: Tensor
    targets: Tensor
    videos: tuple[str, ...]
    groups: tuple[str | None, ...]

    @property
    def groups_known(self) -> bool:
        """Whether each clip's group is known."""
        return all(group is not None for group in self.groups)


@dataclass(frozen=True)
class SolveReport:
    """How well a solved classifier does on training videos that were held out from it, and how it was chosen.

    Attributes:
        strength: C, the inverse of the penalty on the weights, that gave held-out videos the highest likelihood.
        correct: held-out videos that were classified correctly, each by its first clip.
        count: held-out videos; 0 where there were too few to hold any out, and ``strength`` was taken untested.
        folds: that the training videos were divided into.
        by_group: whether whole groups were held out; if not, videos were, since their groups are not known.
    """

    strength: float
    correct: int
    count: int
    folds: int
    by_group: bool


class LinearSolution(NamedTuple):
    """A linear classifier of standardised values: ``weight @ ((values - mean) / scale) + bias`` are logits.

    Attributes:
        mean: ``[F]`` of the values.
        scale: ``[F]`` their standard deviation; 1 where it is 0.
        weight: ``[K, F]``.
        bias: ``[K]``.
    """

    mean: Numbers
    scale: Numbers
    weight: Numbers
    bias: Numbers

    def log_scores(self, values: Numbers) -> Numbers:
        """Compute log-probabilities ``[N, K]`` of values ``[N, F]``."""
        scores: Numbers = log_softmax((values - self.mean) / self.scale @ self.weight.T + self.bias, axis=1)
        return scores


def solve_logistic(clips: DescribedClips, num_classes: int) -> tuple[LinearSolution, SolveReport]:
    """Fit multinomial logistic regression to standardised values.

    Its strength is the one of ``STRENGTHS`` that gives held-out videos the highest likelihood, over folds of whole
    groups with like shares of the classes; a video without a group is a group of its own.

    Args:
        clips: to learn from.
        num_classes: K.

    Raises:
        DatasetError: the clips are all of one class.
    """
    values, targets = clips.values.double().cpu().numpy(), clips.targets.cpu().numpy()
    folds = folds_of(clips)
    strength, correct, count = UNTESTED_STRENGTH, 0, 0
    if folds:
        # Of clips held out, by strength: the sum of log-likelihoods, and how many are right.
        sums = np.zeros((len(STRENGTHS), 2))
        for learn, held in folds:
            for number, solution in enumerate(_path(values[learn], targets[learn], num_classes)):
                scores = solution.log_scores(values[held])
                own = scores[np.arange(len(held)), targets[held]]
                sums[number] += np.maximum(own, _LEAST_LOG).sum(), (scores.argmax(1) == targets[held]).sum()
            count += len(held)
        best = int(sums[:, 0].argmax())
        strength, correct = STRENGTHS[best], int(sums[best, 1])
    (solution,) = _path(values, targets, num_classes, (strength,))
    return solution, SolveReport(strength, correct, count, len(folds), by_group=clips.groups_known)


def folds_of(clips: DescribedClips) -> list[tuple[Integers, Integers]]:
    """Divide clips as `split_folds` does, by groups; a video without a group is a group of its own.

    Raises:
        DatasetError: the clips are all of one class.
    """
    from actionfusion.intervals import clusters  # noqa: PLC0415  It takes half a second.

    targets = clips.targets.cpu().numpy()
    if len(np.unique(targets)) < 2:
        raise DatasetError("the training part", "has videos of one class alone", "give videos of two classes or more")
    first = np.zeros(len(targets), bool)
    first[np.unique(np.asarray(clips.videos, object).astype(str), return_index=True)[1]] = True
    return split_folds(targets, clusters(clips.groups, clips.videos), first)


def split_folds(
    targets: Integers, units: Sequence[str], first: npt.NDArray[np.bool_]
) -> list[tuple[Integers, Integers]]:
    """Divide clips into folds that keep units whole: of each, the clips to learn from and those that are held out.

    Args:
        targets: ``[N]`` class numbers.
        units: ``[N]`` what may not be on both sides.
        first: ``[N]`` the clips that are counted when they are held out.

    Returns:
        At most ``MOST_FOLDS``; none where there are too few units, or a fold would leave one class to learn from.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415  It takes a second.

    number = min(MOST_FOLDS, len(set(units)), *np.unique(targets, return_counts=True)[1])
    if number < 2:
        return []
    folds = []
    for learn, held in StratifiedGroupKFold(number).split(targets, targets, units):
        if len(np.unique(targets[learn])) < 2:
            return []
        if len(counted := held[first[held]]):
            folds.append((learn, counted))
    return folds


def _path(
    values: Numbers, targets: Integers, num_classes: int, strengths: Sequence[float] = STRENGTHS
) -> Iterator[LinearSolution]:
    """Solve for each strength, from the solution of the one before."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    mean, scale = values.mean(0), values.std(0)
    scale[scale < 1e-12] = 1.0
    standard = (values - mean) / scale
    model: Any = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    for strength in strengths:
        with warnings.catch_warnings():
            # What a thousand iterations leave undone does not show in the held-out videos.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=strength).fit(standard, targets)
        weight, bias = np.zeros((num_classes, values.shape[1])), np.full(num_classes, _NEVER)
        # Of two classes one row of weights is given, the log-odds of the second.
        two = len(model.classes_) == 2
        weight[model.classes_] = np.stack((-model.coef_[0], model.coef_[0])) / 2 if two else model.coef_
        bias[model.classes_] = np.stack((-model.intercept_[0], model.intercept_[0])) / 2 if two else model.intercept_
        yield LinearSolution(mean, scale, weight, bias)
