"""Several runs side by side: which videos one predicts correctly and another does not, and each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actionfusion.errors import SettingsError
from actionfusion.evaluation.pairs import PairedComparison, compare_pairs
from actionfusion.reporting.tables import Evaluation


@dataclass(frozen=True)
class Pair:
    """Two runs on the videos that both predicted.

    Attributes:
        name: of the run that is compared with the first.
        counts: the other run (as ``first`` there) against the first on the videos of both; None without one.
        left_out: videos that only one of the two predicted.
        contradicted: videos whose true label differs between the two; they are not counted.
    """

    name: str
    counts: PairedComparison | None
    left_out: int
    contradicted: int


@dataclass(frozen=True)
class ClassRow:
    """A class in every run.

    Attributes:
        label: of the class.
        accuracies: 0..1, a number a run; None where a run has no clip of it.
        differences: from the first run, -1..1, beginning with the second; None where one of both has no clip of it.
    """

    label: str
    accuracies: Sequence[float | None]
    differences: Sequence[float | None]

    @property
    def largest(self) -> float | None:
        """Largest absolute difference; None where there is none."""
        return max((abs(value) for value in self.differences if value is not None), default=None)


def paired(first: Evaluation, other: Evaluation, name: str) -> Pair:
    """Compare an evaluation with the first, video by video.

    Args:
        first: an evaluation.
        other: another.
        name: of the other.

    Raises:
        SettingsError: a video is in one of them twice.
    """
    mine, theirs = _by_video(first), _by_video(other)
    common = mine.keys() & theirs.keys()
    agreed = {video for video in common if mine[video]["label"] == theirs[video]["label"]}
    held = ({**side, "videos": [of[video] for video in agreed]} for side, of in ((other, theirs), (first, mine)))
    return Pair(
        name,
        compare_pairs(next(held), next(held)) if agreed else None,
        left_out=len(mine.keys() ^ theirs.keys()),
        contradicted=len(common) - len(agreed),
    )


def class_rows(evaluations: Sequence[Evaluation]) -> list[ClassRow]:
    """List every class of any evaluation, in the order in which they come up first."""
    tables = [
        {
            entry["label"]: entry["correct"] / entry["count"] if entry["count"] else None
            for entry in evaluation["per_class"]
        }
        for evaluation in evaluations
    ]
    rows = []
    for label in dict.fromkeys(label for table in tables for label in table):
        first, *others = accuracies = [table.get(label) for table in tables]
        differences = [None if first is None or other is None else other - first for other in others]
        rows.append(ClassRow(label, accuracies, differences))
    return rows


def short_names(paths: Sequence[Path]) -> list[str]:
    """Find the shortest endings of paths that distinguish them.

    Raises:
        SettingsError: a path is given twice.
    """
    whole = [path.resolve() for path in paths]
    twice = [path for path, times in Counter(whole).items() if times > 1]
    if twice:
        raise SettingsError(twice[0], "is given twice", "name each run once")
    names = []
    for path in whole:
        for length in range(1, len(path.parts) + 1):
            ending = path.parts[-length:]
            if sum(other.parts[-length:] == ending for other in whole) == 1:
                names.append("/".join(ending))
                break
        else:
            names.append(str(path))
    return names


def unlike(evaluations: Sequence[Evaluation]) -> list[str]:
    """List what the evaluations do not have in common, each as a sentence: such runs cannot be compared."""
    found = []
    for name, what in (
        ("dataset", "data sets"),
        ("split", "splits"),
        ("part", "parts"),
        ("confidence", "levels of confidence"),
        ("views", "views at test time"),
    ):
        values = list(dict.fromkeys(_plain(evaluation.get(name)) for evaluation in evaluations))
        if len(values) > 1:
            found.append(f"The runs were measured on different {what}: {', '.join(values)}.")
    if len({frozenset(evaluation["labels"]) for evaluation in evaluations}) > 1:
        found.append("The runs do not know the same classes.")
    return found


def _plain(value: object) -> str:
    if isinstance(value, Mapping):  # of the views, what was asked for; the rest is what the run found by them
        return f"{value.get('temporal')}{' and their mirror images' if value.get('flip') else ''}"
    return str(value)


def _by_video(evaluation: Evaluation) -> dict[str, Mapping[str, Any]]:
    predictions = {entry["video"]: entry for entry in evaluation["videos"]}
    if len(predictions) != len(evaluation["videos"]):
        raise SettingsError("evaluation", "a video is in it twice", "evaluate the run again")
    return predictions
