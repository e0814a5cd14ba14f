"""What happens when in a video that is not cut to one action: overlapping windows become segments.

This module knows neither videos nor networks: moments, windows and probabilities come in, segments go out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from actionfusion.errors import SettingsError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

NO_LABEL = -1


@dataclass(frozen=True, eq=False)
class Window:
    """The network's answer to some consecutive samples.

    Attributes:
        first: number of the first sample, from 0.
        last: of the last one.
        probabilities: ``[K]``.
    """

    first: int
    last: int
    probabilities: npt.NDArray[np.floating]


@dataclass(frozen=True)
class TimelineRules:
    """How moments become segments.

    Args:
        threshold: a moment whose most probable class is under this has no label, 0 to 1.
        shortest: seconds; a segment under this goes to a neighbour.

    Raises:
        SettingsError: a threshold that is no probability, or a length under 0.
    """

    threshold: float = 0.0
    shortest: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise SettingsError("threshold", f"{self.threshold} is no probability", "take 0 to 1")
        if not 0 <= self.shortest < float("inf"):
            raise SettingsError("shortest", f"{self.shortest} s is no length", "take 0 or more")


@dataclass(frozen=True, eq=False)
class Span:
    """A part of the video with one label, or with none.

    Attributes:
        start: seconds from the start of the video.
        end: likewise; the next span starts there.
        label: number of the class, or None where no class reached the threshold.
        probabilities: ``[K]``, the mean over the span's moments.
    """

    start: float
    end: float
    label: int | None
    probabilities: FloatArray = field(repr=False)


def moment_probabilities(windows: Iterable[Window], count: int) -> FloatArray:
    """Compute each sample's probabilities ``[count, K]``: the mean over all windows that contain it.

    A window's answer holds for all its samples alike, so every window that contains a sample counts.  The other choice,
    the one window whose centre is nearest, lets a single odd window flip the label, and the first and last half window
    share one answer.  On joined clips of known labels (generated, UT-Interaction, UCF101) it gave one and a half to
    three times as many segments, and no more moments their correct label.

    Raises:
        ValueError: a sample that no window covers.
    """
    sums: FloatArray | None = None
    counts = np.zeros(count, np.int64)
    for window in windows:
        if sums is None:
            sums = np.zeros((count, len(window.probabilities)))
        sums[window.first : window.last + 1] += window.probabilities
        counts[window.first : window.last + 1] += 1
    if sums is None or not counts.all():
        raise ValueError(f"no window covers sample {int(counts.argmin())} of {count}")
    return sums / counts[:, None]


def moment_edges(times: Sequence[float], end: float) -> FloatArray:
    """Find where the moments around samples meet, ``[len(times) + 1]`` seconds: half-way between neighbours.

    The first moment begins with the video and the last ends with it, at ``end``.
    """
    inner = np.asarray(times, np.float64)
    return np.concatenate(([0.0], (inner[:-1] + inner[1:]) / 2, [end]))


def find_spans(edges: FloatArray, probabilities: FloatArray, rules: TimelineRules) -> list[Span]:
    """Join neighbouring moments of one label.

    Args:
        edges: ``[M + 1]`` seconds, ascending: where the moments meet.
        probabilities: ``[M, K]`` of the moments.
        rules: see there.  Of the segments that are too short the shortest goes first, the earliest of several alike,
            to the neighbour whose label it holds more probable itself, the earlier of two alike; a neighbour without a
            label comes after one with a label.  A short stretch without a label goes the same way.

    Returns:
        Spans in order, from the first edge to the last without gap or overlap; neighbours have different labels.
    """
    labels = probabilities.argmax(axis=1)
    labels[probabilities.max(axis=1) < rules.threshold] = NO_LABEL
    starts = _starts(labels)
    while len(starts) > 1:
        # To a microsecond: 1 s summed from 25ths of a second must count as 1 s, and equal lengths as equal.
        lengths = np.diff(edges[np.append(starts, len(labels))]).round(6)
        index = int(lengths.argmin())
        if lengths[index] >= rules.shortest - 1e-6:
            break
        first, stop = _run(starts, index, len(labels))
        neighbours = [labels[at] for at in (first - 1, stop) if 0 <= at < len(labels)]
        mean = probabilities[first:stop].mean(axis=0)
        labels[first:stop] = max(neighbours, key=lambda label: -1.0 if label == NO_LABEL else mean[label])
        starts = _starts(labels)
    spans = []
    for index in range(len(starts)):
        first, stop = _run(starts, index, len(labels))
        label = None if labels[first] == NO_LABEL else int(labels[first])
        mean = probabilities[first:stop].mean(axis=0)
        spans.append(Span(float(edges[first]), float(edges[stop]), label, mean))
    return spans


def _starts(labels: IntArray) -> IntArray:
    """Find the first moments of the runs of one label."""
    return np.flatnonzero(np.concatenate(([True], labels[1:] != labels[:-1])))


def _run(starts: IntArray, index: int, count: int) -> tuple[int, int]:
    """Return the first moment of a run, and the one after its last."""
    return int(starts[index]), int(starts[index + 1]) if index + 1 < len(starts) else count
