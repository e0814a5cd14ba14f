"""Intervals of accuracies and of their differences, for single videos and for videos that come in groups."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95

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


def clustered_difference(differences: npt.ArrayLike, units: Sequence[str]) -> Interval | None:
    """Compute Student's interval of the mean of paired differences, with the variance between units.

    Where all units have one mean, no variance can be seen; then as many may be of another as could be in
    ``clustered_wilson`` where all predictions are wrong.

    A percentile bootstrap of units is too narrow where they are few.

    Args:
        differences: ``[N]`` first minus second of each prediction, -1 to 1.
        units: ``[N]`` what each is drawn with, see ``clusters``.

    Returns:
        The bounds, or None for fewer than two units.

    Source: Cochran 1977, section 6.3, the ratio of a sample's sums to its sizes.
    """
    sums, sizes = totals(differences, units)
    number, count = len(sums), float(sizes.sum())
    if number < 2:
        return None
    mean = float(sums.sum()) / count
    error = math.sqrt(number / (number - 1) * float(((sums - mean * sizes) ** 2).sum())) / count
    if math.isclose(error, 0, abs_tol=1e-12):
        _, other = clustered_wilson(np.zeros(len(units)), units) or (0.0, 1.0)
        return mean - other * (mean + 1), mean + other * (1 - mean)
    half = float(stdtrit(number - 1, (1 + CONFIDENCE) / 2)) * error
    return max(mean - half, -1.0), min(mean + half, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for how many there are; each that stays under 5 % holds with all others at 5 % together.

    Source: Holm 1979.
    """
    corrected, highest = [1.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected
