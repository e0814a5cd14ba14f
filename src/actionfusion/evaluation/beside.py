"""The linear probe beside a run: its figures, and what the network adds to it on the same videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from actionfusion.evaluation.metrics import Accuracy
from actionfusion.evaluation.pairs import PairedComparison, compare_pairs


@dataclass(frozen=True)
class ProbeFigures:
    """A linear probe and the network on the same features of the same videos.

    Attributes:
        top1: of the probe.
        comparison: the network (first) and the probe (second), video by video.
    """

    top1: Accuracy
    comparison: PairedComparison

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return self.top1.as_json() | {"network_minus_probe": self.comparison.as_json()}

    def __str__(self) -> str:
        """Write it in one line, such as ``91.7 % (88/96; …); network minus probe +2.1 points (-3.0 to 7.3)``."""
        interval = self.comparison.interval
        between = f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})" if interval else ""
        more = f"network minus probe {100 * self.comparison.difference:+.1f} points{between}"
        return f"{self.top1}; {more}, McNemar's exact test p = {self.comparison.p_value:.3g}"


def compare_probe(
    videos: Sequence[str],
    groups: Sequence[str | None],
    targets: npt.NDArray[np.int64],
    network: npt.NDArray[np.float64],
    probe: npt.NDArray[np.float64],
) -> ProbeFigures:
    """Compare the probabilities ``[N, K]`` of the network and the probe on N videos, one or more."""

    def rows(probabilities: npt.NDArray[np.float64]) -> dict[str, Any]:
        predicted = probabilities.argmax(1)
        each = zip(videos, groups, map(str, targets), map(str, predicted), strict=True)
        listed = [
            {"video": video, "group": group, "label": label, "predicted": guess} for video, group, label, guess in each
        ]
        return {"split": "", "videos": listed}

    comparison = compare_pairs(rows(network), rows(probe))
    return ProbeFigures(comparison.second, comparison)
