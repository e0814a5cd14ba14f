"""What an evaluation found, and how it is written as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from actionfusion.data.listing import Leaks, Part
from actionfusion.errors import RunFolderError, SettingsError
from actionfusion.evaluation.calibration import Calibration, calibration, tempered
from actionfusion.evaluation.metrics import CONFIDENCE, Accuracy, ClassificationFigures
from actionfusion.evaluation.predictions import FailedVideo
from actionfusion.evaluation.views import Views
from actionfusion.intervals import Interval, clustered_wilson, clusters
from actionfusion.settings import EVALUATION_BYTES, read_json

if TYPE_CHECKING:
    from actionfusion.evaluation.beside import ProbeFigures

_REMEDY = "evaluate the run again"
_PARTS: dict[str, Any] = {
    **dict.fromkeys(("dataset", "split", "part"), str),
    **dict.fromkeys(("seed", "count", "correct"), int),
    **dict.fromkeys(("top1", "confidence"), int | float),
    **dict.fromkeys(("interval", "labels", "confusion", "per_class", "failed", "videos"), list),
}
_OF_LATER_VERSIONS: dict[str, Any] = {"group": str | None}
_ENTRIES: dict[str, dict[str, Any]] = {
    "per_class": {"label": str, "count": int, "correct": int, "interval": list},
    "failed": {"video": str, "kind": str, "message": str},
    "videos": {"video": str, "label": str, "predicted": str, "probabilities": list},
}


@dataclass(frozen=True)
class Evaluation:
    """Figures of one run on one side of its split.

    Attributes:
        dataset: layout.
        split: the split's full name.
        part: train, val or test.
        seed: of the run.
        split_seed: of a random split, and of the validation part.
        counts: videos of the split by part.
        notes: what there is to know about the split, such as its leakage.
        selected_on_part: whether the accuracy on this same part ended the run's training stages, which flatters it.
        leaks: leakage of training into this part.
        seen_in_training: how many of the part's videos the training saw, or duplicates of them.
        figures: over the videos that could be read.
        videos: paths of these videos.
        groups: of these videos; none where a group is not known.
        targets: ``[N]`` their class numbers.
        probabilities: ``[N, K]``, the mean over each video's clips.
        failed: the videos that could not be read; they count neither as correct nor as wrong.
        views: the clips of each video.
        clips: how many the network saw in all.
        single: top-1 of the one clip that ``predict`` takes, where more were averaged.
        temperature: fitted on the validation part, where that was asked for.
        probe: the linear probe beside the run, and what the network adds to it; None without one.
        weights: SHA-256 of the run's weights.
        root_digest: of the address of other videos than the run's, so that two folders of one name are told apart.
    """

    dataset: str
    split: str
    part: Part
    seed: int
    split_seed: int
    counts: Mapping[str, int]
    notes: tuple[str, ...]
    selected_on_part: bool
    leaks: Leaks
    seen_in_training: int
    figures: ClassificationFigures
    videos: tuple[str, ...]
    groups: tuple[str | None, ...]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    failed: tuple[FailedVideo, ...]
    views: Views = Views()
    clips: int = 0
    single: Accuracy | None = None
    temperature: float | None = None
    probe: ProbeFigures | None = None
    weights: str | None = None
    root_digest: str | None = None

    @property
    def trained_on(self) -> bool:
        """Whether the run was trained on these very videos, so that the figures say nothing about others."""
        return is_trained_on(self.seen_in_training, len(self.videos) + len(self.failed))

    @property
    def group_count(self) -> int | None:
        """How many groups the videos come from; None where no group is known."""
        return len({group for group in self.groups if group is not None}) or None

    @property
    def group_interval(self) -> Interval | None:
        """The 95 % interval of the top-1 accuracy for other groups; None where it cannot be computed."""
        if self.group_count is None:
            return None
        hits = self.probabilities.argmax(1) == self.targets
        return clustered_wilson(hits, clusters(self.groups, self.videos))

    @property
    def calibration(self) -> Calibration | None:
        """Of the probabilities as they are; None for no videos."""
        return calibration(self.targets, self.probabilities)

    @property
    def calibrated(self) -> Calibration | None:
        """Of the probabilities at the fitted temperature."""
        if self.temperature is None or not self.videos:
            return None
        return calibration(self.targets, tempered(self.probabilities, self.temperature))

    def as_json(self) -> dict[str, Any]:
        """Return what ``evaluation_<part>.json`` holds."""
        top1, group = self.figures.top1, self.group_interval
        return {
            "dataset": self.dataset,
            "root_digest": self.root_digest,
            "weights": self.weights,
            "split": self.split,
            "part": self.part,
            "seed": self.seed,
            "split_seed": self.split_seed,
            "counts": dict(self.counts),
            "notes": list(self.notes),
            "selected_on_part": self.selected_on_part,
            "trained_on": self.trained_on,
            "leaks": {"group": self.leaks.test_videos, "double": len(self.leaks.duplicates)},
            "views": asdict(self.views)
            | {"clips": self.clips, "single": None if self.single is None else self.single.as_json()},
            "count": top1.count,
            "correct": top1.correct,
            "top1": top1.share,
            "interval": list(top1.interval),
            "confidence": CONFIDENCE,
            "groups": self.group_count,
            "group_interval": None if group is None else list(group),
            "top5": None if self.figures.top5 is None else self.figures.top5.as_json(),
            "mean_class_accuracy": self.figures.mean_class_accuracy,
            "missing_classes": list(self.figures.missing_classes),
            "calibration": self._calibration_json(),
            "probe": self.probe and self.probe.as_json(),
            "labels": list(self.figures.labels),
            "per_class": [
                {"label": label} | accuracy.as_json() | asdict(figures)
                for label, accuracy, figures in zip(
                    self.figures.labels, self.figures.per_class, self.figures.by_class, strict=True
                )
            ],
            "confusion": self.figures.confusion.tolist(),
            "failed": [asdict(item) for item in self.failed],
            "videos": self._videos_json(),
        }

    def _calibration_json(self) -> Mapping[str, Any]:
        plain, calibrated = self.calibration, self.calibrated
        return {
            "ece": plain and plain.ece,
            "nll": plain and plain.nll,
            "brier": plain and plain.brier,
            "bins": [asdict(item) for item in plain.bins] if plain else [],
            "temperature": self.temperature,
            "ece_calibrated": calibrated and calibrated.ece,
            "nll_calibrated": calibrated and calibrated.nll,
        }

    def _videos_json(self) -> list[dict[str, Any]]:
        labels = self.figures.labels
        return [
            {
                "video": video,
                "label": labels[target],
                "group": group,
                "predicted": labels[int(row.argmax())],
                "probabilities": [round(float(value), 6) for value in row],
            }
            for video, group, target, row in zip(
                self.videos, self.groups, self.targets, self.probabilities, strict=True
            )
        ]


def is_trained_on(seen_in_training: int, count: int) -> bool:
    """Say whether training has seen every video of a part."""
    return 0 < count <= seen_in_training


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read what `Evaluation.as_json` gave, of this version or an earlier one.

    Args:
        path: the JSON file.

    Raises:
        RunFolderError: no such file, or one that is no evaluation; the part that is wrong is named.
    """
    if not path.exists():
        raise RunFolderError(path, "is not there", "evaluate the run first")
    found = read_json(path, RunFolderError, _REMEDY, largest=EVALUATION_BYTES, finite=False)
    try:
        check_evaluation(found)
    except SettingsError as error:
        raise RunFolderError(path, error.reason, error.remedy) from error
    # A protocol sums the leaks of such files; a page leaves out those that it cannot read.
    if not isinstance(leaks := found.get("leaks", {}), dict):
        raise RunFolderError(path, f"leaks is {leaks!r:.40}", _REMEDY)
    return found


def check_evaluation(evaluation: Mapping[str, Any]) -> None:
    """Refuse plain values that are no evaluation, or whose counts contradict each other.

    Raises:
        SettingsError: a part is missing or of another type, or counts, labels and confusion matrix do not fit.
    """
    _refuse_other_types(evaluation, _PARTS, "")
    for name, parts in _ENTRIES.items():
        for number, entry in enumerate(evaluation[name], 1):
            _refuse_other_types(entry, parts, f" in entry {number} of {name}")
    labels = evaluation["labels"]
    if not all(isinstance(label, str) for label in labels):
        raise SettingsError("evaluation", "not every label is a text", _REMEDY)
    if len({*labels}) < len(labels) or not all(map(str.strip, labels)):
        raise SettingsError("evaluation", "a label is empty or is there twice", _REMEDY)
    _refuse_other_counts(evaluation)
    if [entry["label"] for entry in evaluation["per_class"]] != labels:
        raise SettingsError("evaluation", "its classes one by one are not its labels", _REMEDY)
    known = set(labels)
    for entry in evaluation["videos"]:
        if not {entry["label"], entry["predicted"]} <= known:
            raise SettingsError("evaluation", f"{entry['video']!r} has a label that is not listed", _REMEDY)
        row = entry["probabilities"]
        if len(row) != len(labels) or not all(isinstance(value, int | float) for value in row):
            raise SettingsError("evaluation", f"{entry['video']!r} has not one number a label", _REMEDY)


def _refuse_other_counts(evaluation: Mapping[str, Any]) -> None:
    classes, confusion = len(evaluation["labels"]), evaluation["confusion"]
    cells: list[Any] = [cell for row in confusion for cell in (row if isinstance(row, list) else [None])]
    if not all(isinstance(cell, int) and cell >= 0 for cell in cells):
        raise SettingsError("evaluation", "its confusion matrix holds something else than counts", _REMEDY)
    if len(confusion) != classes or any(len(row) != classes for row in confusion):
        raise SettingsError("evaluation", f"the confusion matrix does not fit {classes} labels", _REMEDY)
    count, correct = sum(cells), sum(row[index] for index, row in enumerate(confusion))
    if (count, correct) != (evaluation["count"], evaluation["correct"]):
        said = f"{evaluation['correct']} of {evaluation['count']}"
        raise SettingsError("evaluation", f"says {said}, but its confusion matrix {correct} of {count}", _REMEDY)
    if len(evaluation["videos"]) != count:
        raise SettingsError("evaluation", f"says {count}, but it names {len(evaluation['videos'])} videos", _REMEDY)


def _refuse_other_types(values: object, wanted: dict[str, Any], where: str) -> None:
    if not isinstance(values, Mapping):
        raise SettingsError("evaluation", f"holds {values!r:.40}{where}", _REMEDY)
    for name, kind in (wanted | _OF_LATER_VERSIONS).items():
        if name in wanted and name not in values:
            raise SettingsError("evaluation", f"has no {name}{where}", _REMEDY)
        if name in values and not isinstance(values[name], kind):
            raise SettingsError("evaluation", f"{name}{where} is {values[name]!r:.40}", _REMEDY)
