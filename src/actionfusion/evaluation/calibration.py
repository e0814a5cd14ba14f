"""Compare how sure a network is with how often it is correct, and fit a temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

BINS = 15
COOLEST, HOTTEST = 0.02, 50.0
# The smallest normal number of the network's own precision, in place of a probability of 0.
_LEAST = float(np.finfo(np.float32).tiny)

Probabilities = npt.NDArray[np.floating]
Targets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose probability is above ``low`` and at most ``high``.

    Attributes:
        low: lower edge.
        high: upper edge.
        count: predictions.
        confidence: their mean probability; None where there is none.
        accuracy: share of them that is correct; None likewise.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Figures of N rows of probabilities.

    Attributes:
        ece: expected calibration error, 0 to 1: mean distance between confidence and accuracy over the bins, each by
            its predictions.
        nll: mean negative log-likelihood of the true class, in nats.
        brier: mean over the videos of the squared distance between probabilities and truth, 0 to 2.
        bins: equal in width, from 0 to 1.
    """

    ece: float
    nll: float
    brier: float
    bins: tuple[ReliabilityBin, ...]


def calibration(targets: Targets, probabilities: Probabilities, bins: int = BINS) -> Calibration | None:
    """Measure how well probabilities fit the truth; None for no videos.

    Args:
        targets: ``[N]`` class numbers.
        probabilities: ``[N, K]``, rows that add up to 1.
        bins: how many.

    Sources: Guo et al. 2017, section 2 (bins and error); Brier 1950.
    """
    if not len(targets):
        return None
    rows = _float64(probabilities)
    filled = _reliability_bins(targets, rows, bins)
    gaps = [part.count * abs((part.confidence or 0.0) - (part.accuracy or 0.0)) for part in filled]
    truth = np.zeros_like(rows)
    truth[np.arange(len(rows)), targets] = 1
    return Calibration(
        ece=sum(gaps) / len(rows),
        nll=_nll(targets, np.log(np.maximum(rows, _LEAST))),
        brier=float(((rows - truth) ** 2).sum(1).mean()),
        bins=filled,
    )


def _reliability_bins(targets: Targets, rows: npt.NDArray[np.float64], bins: int) -> tuple[ReliabilityBin, ...]:
    edges = np.linspace(0, 1, bins + 1)
    confidence, correct = rows.max(1), rows.argmax(1) == targets
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found = []
    for number in range(bins):
        inside = bin_of == number
        count = int(inside.sum())
        means = (float(confidence[inside].mean()), float(correct[inside].mean())) if count else (None, None)
        found.append(ReliabilityBin(float(edges[number]), float(edges[number + 1]), count, *means))
    return tuple(found)


def fit_temperature(targets: Targets, probabilities: Probabilities) -> float:
    """Fit the temperature that makes the true classes likeliest, between ``COOLEST`` and ``HOTTEST``.

    The likelihood has one peak in it, so a search along the line finds it.  If all predictions are correct there is
    none, and the result is ``COOLEST``.

    Args:
        targets: ``[N]`` class numbers, N at least 1, of videos that the result is not judged by.
        probabilities: ``[N, K]``.

    Source: Guo et al. 2017, section 4.2.
    """
    logs = np.log(np.maximum(_float64(probabilities), _LEAST))

    def loss(logarithm: float) -> float:
        return _nll(targets, log_softmax(logs / np.exp(logarithm), axis=1))

    limits = (float(np.log(COOLEST)), float(np.log(HOTTEST)))
    best = minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-6})
    ends = (COOLEST, float(np.exp(best.x)), HOTTEST)
    return min(ends, key=lambda temperature: loss(float(np.log(temperature))))


def tempered(probabilities: Probabilities, temperature: float) -> npt.NDArray[np.float64]:
    """Apply a temperature to probabilities ``[N, K]``: above 1 less sure, below 1 surer, the same predictions."""
    logs = np.log(np.maximum(_float64(probabilities), _LEAST))
    result: npt.NDArray[np.float64] = softmax(logs / temperature, axis=1)
    return result


def _nll(targets: Targets, logs: npt.NDArray[np.float64]) -> float:
    return -float(logs[np.arange(len(targets)), targets].mean())


def _float64(probabilities: Probabilities) -> npt.NDArray[np.float64]:
    # Rows of single precision add up to 1 but for its rounding, which temperatures would carry on.
    rows = np.asarray(probabilities, np.float64)
    return np.asarray(rows / rows.sum(1, keepdims=True), np.float64)
