"""Intervals of accuracies, for single videos and for videos that come in groups."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95
DRAWS = 2000
_DRAWS_AT_ONCE = 100

Interval = tuple[float, float]


def percent_range(interval: Interval) -> str:
    """Write an interval such as ``52.5 to 71.5 %``."""
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def wilson(correct: float, count: float, z: float | None = None) -> Interval:
    """Compute the score interval of Wilson 1927; everything from 0 to 1 where there is nothing to count.

    Args:
        correct: correct predictions, 0 to ``count``.
        count: predictions; an effective sample size need not be whole.
        z: normal deviate; none takes that of ``CONFIDENCE``.
    """
    if count <= 0:
        return 0.0, 1.0
    z = float(ndtri((1 + CONFIDENCE) / 2)) if z is None else z
    share, squared = correct / count, z * z / count
    centre = (share + squared / 2) / (1 + squared)
    half = math.sqrt(squared * share * (1 - share) + squared * squared / 4) / (1 + squared)
    # At 0 and 1 the bound is exactly that, which rounding would miss.
    low = 0.0 if correct == 0 else max(centre - half, 0.0)
    return low, 1.0 if correct == count else min(centre + half, 1.0)


def clusters(groups: Sequence[str | None], names: Sequence[str]) -> tuple[str, ...]:
    """Name the sampling unit of each video: its group, or the video by itself where its group is not known.

    Args:
        groups: of the videos.
        names: of the videos; one that is there several times is one unit.
    """
    return tuple(
        f"video\0{name}" if group is None else f"group\0{group}" for group, name in zip(groups, names, strict=True)
    )


def totals(values: npt.ArrayLike, units: Sequence[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sum and count the values of each unit, ``[G]`` both, in the order of the units' names."""
    _, number = np.unique(np.asarray(units, object).astype(str), return_inverse=True)
    sums = np.bincount(number, np.asarray(values, np.float64))
    return sums.astype(np.float64), np.bincount(number).astype(np.float64)


def clustered_wilson(hits: npt.ArrayLike, units: Sequence[str], confidence: float = CONFIDENCE) -> Interval | None:
    """Compute Wilson's interval with the effective sample size of videos in groups; never narrower than Wilson's.

    The sample size is divided by the design effect (variance of the share between groups over that of as many
    independent videos, taken as at least 1) and multiplied by (z / t)^2 with t of G - 1 degrees of freedom, since the
    variance is that of G groups alone.  Where all predictions are correct, or all wrong, no variance can be seen; the
    groups then count as wholly alike inside: n^2 / sum of n_g^2.

    A percentile bootstrap of groups has no width at all in that case, and covers too little with few groups.

    Args:
        hits: ``[N]`` whether each prediction is correct.
        units: ``[N]`` what each video is drawn with, see ``clusters``.
        confidence: that the interval holds the share of all videos, above 0 and below 1.

    Returns:
        The bounds, or None for fewer than two units, between which nothing can be compared.

    Sources: Korn and Graubard 1998 (effective size, degrees of freedom); Franco, Little, Louis and Slud 2019 (with
    Wilson's interval).
    """
    correct, sizes = totals(hits, units)
    count, number = float(sizes.sum()), len(sizes)
    if number < 2:
        return None
    share = float(correct.sum()) / count
    if share in {0.0, 1.0}:
        effective = count**2 / float((sizes**2).sum())
    else:
        between = number / (number - 1) * float(((correct - share * sizes) ** 2).sum()) / count**2
        effective = count / max(between / (share * (1 - share) / (count - 1)), 1.0)
    quantile = (1 + confidence) / 2
    z = float(ndtri(quantile))
    effective *= float((z / stdtrit(number - 1, quantile)) ** 2)
    return wilson(share * effective if share < 1 else effective, effective, z)


def bootstrap_mean(values: npt.ArrayLike, units: Sequence[str], seed: int = 0) -> Interval | None:
    """Estimate the percentile interval of the mean of values whose units are resampled, whole and with replacement.

    Args:
        values: ``[N]``.
        units: ``[N]`` what each value is drawn with.
        seed: of the ``DRAWS`` resamplings.

    Returns:
        The bounds, or None for fewer than two units.

    Source: Efron and Tibshirani 1993, chapter 13; of whole clusters, Davison and Hinkley 1997, section 3.8.
    """
    sums, sizes = totals(values, units)
    number = len(sums)
    if number < 2:
        return None
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(DRAWS // _DRAWS_AT_ONCE):
        chosen = generator.integers(0, number, (_DRAWS_AT_ONCE, number))
        means.append(sums[chosen].sum(1) / sizes[chosen].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for how many there are; each that stays under 5 % holds with all others at 5 % together.

    Source: Holm 1979.
    """
    corrected, highest = [1.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected
