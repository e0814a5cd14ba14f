"""Two evaluations on the videos that both predict: how often each is right, and what the difference is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from actionfusion.data.listing import canonical, some
from actionfusion.errors import DatasetError
from actionfusion.evaluation.metrics import Accuracy
from actionfusion.intervals import CONFIDENCE, Interval, clustered_difference, clusters


@dataclass(frozen=True)
class PairedComparison:
    """Two runs on the videos that both predict.

    Attributes:
        both_right: predictions, one of each video (of protocols, one in each fold that tests it).
        only_first: videos that the first run alone predicts correctly.
        only_second: the second run alone.
        both_wrong: predictions.
        videos: that were predicted.
        p_value: of the exact test of McNemar that both are correct equally often, two-sided.  It takes each prediction
            as drawn by itself, so it sees one of each video, in the first fold that tests it.
        interval: 95 % of the difference of top-1 accuracies (first minus second), with the variance between groups, or
            between videos where groups are not known; None for a single one.
        groups: how many groups; None where they are not known.
        unmatched: videos that one of the runs alone predicts, by ``first`` and ``second``.
        notes: what weakens the comparison.
    """

    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    videos: int
    p_value: float
    interval: Interval | None
    groups: int | None
    unmatched: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def count(self) -> int:
        """Predictions of both."""
        return self.both_right + self.only_first + self.only_second + self.both_wrong

    @property
    def first(self) -> Accuracy:
        """Top-1 accuracy of the first run in these."""
        return Accuracy(self.both_right + self.only_first, self.count)

    @property
    def second(self) -> Accuracy:
        """Likewise of the second."""
        return Accuracy(self.both_right + self.only_second, self.count)

    @property
    def difference(self) -> float:
        """First minus second, -1 to 1."""
        return (self.only_first - self.only_second) / self.count

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {
            "interval": None if self.interval is None else list(self.interval),
            "unmatched": dict(self.unmatched),
            "notes": list(self.notes),
            "count": self.count,
            "confidence": CONFIDENCE,
            "first": self.first.as_json(),
            "second": self.second.as_json(),
            "difference": self.difference,
        }


def compare_pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> PairedComparison:
    """Compare two evaluations, given as plain values, video by video."""
    first, second = ({canonical(row.get("key", row["video"])): row for row in side["videos"]} for side in (one, other))
    names = [name for name in first if name in second]
    if not names:
        reason = f"of {len(first)} and {len(second)} videos they have none in common"
        raise DatasetError("the two evaluations", reason, "evaluate both runs on one split")
    if unlike := [name for name in names if canonical(first[name]["label"]) != canonical(second[name]["label"])]:
        reason = f"{len(unlike)} videos have another label in each: {some(unlike)}"
        raise DatasetError("the two evaluations", reason, "evaluate both runs on one data set")
    hits = np.array([[side[name]["label"] == side[name]["predicted"] for side in (first, second)] for name in names])
    differences = hits[:, 0].astype(int) - hits[:, 1]
    videos = [first[name]["video"] for name in names]
    once = differences[np.unique(videos, return_index=True)[1]]
    for_first, for_second = int((once > 0).sum()), int((once < 0).sum())
    # Evaluations of earlier versions name no groups; one that does is enough.
    groups = [first[name].get("group") or second[name].get("group") for name in names]
    return PairedComparison(
        both_right=int(hits.all(1).sum()),
        only_first=int((differences > 0).sum()),
        only_second=int((differences < 0).sum()),
        both_wrong=int((~hits.any(1)).sum()),
        videos=len(once),
        p_value=float(binomtest(for_first, for_first + for_second).pvalue) if for_first + for_second else 1.0,
        interval=clustered_difference(differences, clusters(groups, videos)),
        groups=len({group for group in groups if group is not None}) or None,
        unmatched={"first": len(first) - len(names), "second": len(second) - len(names)},
        notes=tuple(_notes(one, other)),
    )


def _notes(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    notes = []
    for name, side in (("first", one), ("second", other)):
        if side.get("trained_on"):
            notes.append(f"the {name} run was trained on these very videos")
        if side.get("selected_on_part"):
            notes.append(f"the {name} run's training stages were ended by these very videos, which flatters it")
    if one["split"] != other["split"]:
        notes.append(f"the splits are not one: {one['split']}, and {other['split']}")
    return notes
