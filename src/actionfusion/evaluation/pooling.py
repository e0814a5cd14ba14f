"""The folds of a protocol together: means, deviations, and all predictions in one count."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from actionfusion.evaluation.folds import Fold
from actionfusion.evaluation.metrics import Accuracy
from actionfusion.intervals import CONFIDENCE, clustered_wilson, clusters

PROTOCOL = "protocol.json"
KEPT = (
    "split", "counts", "count", "correct", "top1", "interval", "groups", "group_interval",
    "mean_class_accuracy", "missing_classes", "leaks", "trained_on", "selected_on_part", "views",
)  # fmt: skip


@dataclass(frozen=True)
class FinishedFold:
    """A fold with its figures.

    Attributes:
        fold: which.
        evaluation: what its ``evaluation_test.json`` holds.
        start_doubts: why the test part may not be new to what the training started from.
    """

    fold: Fold
    evaluation: Mapping[str, Any]
    start_doubts: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return its entry in ``protocol.json``."""
        return {
            "fold": self.fold.name,
            "run": self.fold.folder,
            "split_seed": self.fold.split_seed,
            "seed": self.fold.seed,
            **{name: self.evaluation[name] for name in KEPT},
            "failed": len(self.evaluation["failed"]),
            "start_doubts": list(self.start_doubts),
        }


@dataclass(frozen=True)
class FailedFold:
    """A fold that could not be trained or tested."""

    fold: Fold
    kind: str
    message: str


def summarize(
    finished: Sequence[FinishedFold], failed: Sequence[FailedFold], planned: Sequence[Fold]
) -> dict[str, Any]:
    """Compute the figures of a protocol, as far as it has come.

    Means are over top-1 accuracies, deviations those of a sample (n - 1).  A fold without one readable test video has
    no accuracy.  Over the splits, each split's accuracy is the mean over its seeds; over the seeds, each seed's is the
    mean over its splits.
    """
    measured = [item for item in finished if item.evaluation["count"]]
    by_split, by_seed = defaultdict(list), defaultdict(list)
    for item in measured:
        by_split[item.fold.split_name].append(float(item.evaluation["top1"]))
        by_seed[item.fold.seed].append(item.evaluation)
    seeds = {seed: _spread([float(each["top1"]) for each in found]) for seed, found in by_seed.items()}
    # Folds differ in size, so the mean over them says nothing of how many predictions were correct.
    counts = {
        seed: {"predictions": sum(each["count"] for each in found), "correct": sum(each["correct"] for each in found)}
        for seed, found in by_seed.items()
    }
    return {
        "complete": len(finished) == len(planned),
        "planned": len(planned),
        "confidence": CONFIDENCE,
        "folds": [item.as_json() for item in finished],
        "failed_folds": [
            {"fold": item.fold.name, "run": item.fold.folder, "kind": item.kind, "message": item.message}
            for item in failed
        ],
        "over_splits": _spread([fmean(values) for values in by_split.values()]),
        "over_seeds": _spread([spread["mean"] for spread in seeds.values()]),
        "by_seed": [{"seed": seed} | spread | counts[seed] for seed, spread in seeds.items()],
        "pooled": _pooled([item.evaluation for item in finished]),
        "leaks": {name: sum(int(item.evaluation["leaks"][name]) for item in finished) for name in ("group", "double")},
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "count": len(values),
        "mean": fmean(values) if values else None,
        "deviation": stdev(values) if len(values) > 1 else None,
    }


def _pooled(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count all predictions together.

    A video that several folds test is one unit with all its predictions, and so is a group: the interval by group is
    there where groups are known, or where videos come twice, so that Wilson's would count them as so many videos.
    """
    rows = [row for evaluation in evaluations for row in evaluation["videos"]]
    hits = [row["label"] == row["predicted"] for row in rows]
    names, groups = [row["video"] for row in rows], [row["group"] for row in rows]
    total = Accuracy(sum(hits), len(rows))
    known = {group for group in groups if group is not None}
    together = known or len(set(names)) < len(names)
    interval = clustered_wilson(hits, clusters(groups, names)) if together else None
    found, of = Counter[str](), Counter[str]()
    for row, good in zip(rows, hits, strict=True):
        of[row["label"]] += 1
        found[row["label"]] += good
    return {
        "count": total.count,
        "correct": total.correct,
        "top1": total.share,
        "interval": list(total.interval),
        "videos": len(set(names)),
        "groups": len(known) or None,
        "group_interval": None if interval is None else list(interval),
        "mean_class_accuracy": fmean(found[label] / of[label] for label in of) if of else None,
        "by_class": {label: {"correct": found[label], "count": of[label]} for label in sorted(of)},
        "failed": sum(len(evaluation["failed"]) for evaluation in evaluations),
    }
