"""Support vector machines over described clips: one against the rest, linear or with a kernel between clips.

scikit-learn finds them from the kernel between all training clips, so that values may be far more than clips.  What is
chosen (the penalty, and the factor that makes probabilities of margins) is what gives held-out training videos the
highest likelihood.  No random number is drawn.

Sources: Vapnik 1995; the multi-channel chi-square kernel of Zhang, Marszalek, Lazebnik and Schmid 2007.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax
from torch import Tensor, nn

from actionfusion.models.solving import DescribedClips, SolveReport, folds_of

Numbers = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

STRENGTHS = (1.0, 10.0, 100.0)
UNTESTED_STRENGTH = 100.0  # of Wang et al. 2013
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_NEVER = -100.0  # the margin of a class that the clips do not hold


def choose(
    clips: DescribedClips,
    margins_of: Callable[[Integers, Integers, float], Numbers],
    strengths: Sequence[float],
    untested: float,
) -> tuple[float, SolveReport]:
    """Choose the strength of a classifier, and the factor between its margins and logits, over folds of the clips.

    Args:
        clips: to learn from.
        margins_of: learns from some clips, by number, with a strength, and gives margins ``[n, K]`` of others.
        strengths: to choose from.
        untested: the strength where there are too few clips to hold any out; the factor is then 1.

    Returns:
        The factor, and the report, which has the strength.

    Raises:
        DatasetError: the clips are all of one class.
    """
    targets, folds = clips.targets.cpu().numpy(), folds_of(clips)
    likelihood, correct = np.zeros((len(strengths), len(FACTORS))), np.zeros(len(strengths), np.int64)
    for learn, held in folds:
        for number, strength in enumerate(strengths):
            margins = margins_of(learn, held, strength)
            correct[number] += (margins.argmax(1) == targets[held]).sum()
            for column, factor in enumerate(FACTORS):
                scores = log_softmax(factor * margins, axis=1)
                likelihood[number, column] += np.maximum(scores[np.arange(len(held)), targets[held]], -35.0).sum()
    if not folds:
        return 1.0, SolveReport(untested, 0, 0, 0, by_group=clips.groups_known)
    best, factor = divmod(int(likelihood.argmax()), len(FACTORS))
    count = sum(len(held) for _, held in folds)
    return FACTORS[factor], SolveReport(
        strengths[best], int(correct[best]), count, len(folds), by_group=clips.groups_known
    )


def solve_machine(gram: Numbers, clips: DescribedClips, num_classes: int) -> tuple[Numbers, Numbers, SolveReport]:
    """Find a machine for each class from the kernel between all clips.

    Args:
        gram: ``[N, N]``.
        clips: their classes, videos and groups; the values are not read.
        num_classes: K.

    Returns:
        Weights ``[N, K]`` of the clips and bias ``[K]``, whose margins are logits; and how it was chosen.

    Raises:
        DatasetError: the clips are all of one class.
    """
    targets = clips.targets.cpu().numpy()

    def margins_of(learn: Integers, held: Integers, strength: float) -> Numbers:
        weights, bias = _fit(gram[np.ix_(learn, learn)], targets[learn], num_classes, strength)
        return gram[np.ix_(held, learn)] @ weights + bias

    factor, report = choose(clips, margins_of, STRENGTHS, UNTESTED_STRENGTH)
    weights, bias = _fit(gram, targets, num_classes, report.strength)
    return factor * weights, factor * bias, report


def _fit(gram: Numbers, targets: Integers, num_classes: int, strength: float) -> tuple[Numbers, Numbers]:
    from sklearn.svm import SVC  # noqa: PLC0415  It takes a second.

    weights, bias = np.zeros((len(targets), num_classes)), np.full(num_classes, _NEVER)
    for label in np.unique(targets):
        machine = SVC(C=strength, kernel="precomputed").fit(gram, targets == label)
        weights[machine.support_, label], bias[label] = machine.dual_coef_[0], machine.intercept_[0]
    return weights, bias


class LinearMachine(nn.Linear):
    """A linear machine for each class: values ``[B, F]`` to logits ``[B, K]``."""

    @torch.no_grad()
    def solve(self, values: Tensor, clips: DescribedClips) -> SolveReport:
        """Find the weights from values ``[N, F]`` of the clips.

        Raises:
            DatasetError: the clips are all of one class.
        """
        given = values.double().cpu()
        weights, bias, report = solve_machine((given @ given.T).numpy(), clips, self.out_features)
        self.weight.copy_(torch.from_numpy(weights).T @ given)
        self.bias.copy_(torch.from_numpy(bias))
        return report


class ChiSquareMachine(nn.Module):
    """A machine for each class with the kernel ``exp(-sum over channels of distance / mean distance)``.

    The distance is the chi-square distance of histograms.  It keeps all training clips: N x C x V numbers.

    Args:
        channels: C, histograms of a clip.
        width: V of each.
        num_classes: K; as many clips stand in for the training clips until it is solved.
    """

    exemplars: Tensor
    spread: Tensor
    ROWS = ("exemplars", "weight")
    """Tensors with a row for each training clip."""

    def __init__(self, channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("exemplars", torch.rand(num_classes, channels, width) / width)
        self.register_buffer("spread", torch.ones(channels))
        self.weight = nn.Parameter(torch.randn(num_classes, num_classes))
        self.bias = nn.Parameter(torch.randn(num_classes))

    def forward(self, histograms: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of histograms ``[B, C, V]``."""
        return (-(distances(histograms, self.exemplars) / self.spread).sum(-1)).exp() @ self.weight + self.bias

    @torch.no_grad()
    def solve(self, histograms: Tensor, clips: DescribedClips) -> SolveReport:
        """Find the weights from histograms ``[N, C, V]`` of the clips.

        Raises:
            DatasetError: the clips are all of one class.
        """
        apart = distances(histograms, histograms)
        self.exemplars = histograms.to(self.exemplars)
        self.spread.copy_(apart.mean((0, 1)).clamp(min=1e-6))
        gram = (-(apart / self.spread).sum(-1)).exp().double().cpu().numpy()
        weights, bias, report = solve_machine(gram, clips, len(self.bias))
        self.weight = nn.Parameter(torch.from_numpy(weights).to(self.bias))
        self.bias.copy_(torch.from_numpy(bias))
        return report


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Compute chi-square distances ``[B, N, C]`` of histograms ``[B, C, V]`` and ``[N, C, V]``."""
    sizes = second.abs()
    return torch.stack([((one - second).square() / (one.abs() + sizes).clamp(min=1e-12)).sum(-1) / 2 for one in first])
