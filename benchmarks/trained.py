"""Networks trained and measured fold by fold, for the benchmarks of accuracy.  What is there is not made again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from actionfusion.data.dataset import DataSettings
from actionfusion.data.layouts import open_dataset
from actionfusion.data.recorded_split import reopen_data
from actionfusion.evaluation.evaluate import measure, write_evaluation
from actionfusion.evaluation.metrics import Accuracy
from actionfusion.run_folder import open_run
from actionfusion.training.recipe import Recipe
from actionfusion.training.train import train

RESAMPLES = 10_000


@dataclass(frozen=True)
class ClipSet:
    """Labelled clips and how they are split.

    Attributes:
        folder: in the folder of all data.
        dataset: layout.
        splits: a fold each.
        protocol: the folds in words.
        epochs: fixed before the first run; None takes the recipe's.
        group_pattern: where the layout knows no groups.
    """

    folder: str
    dataset: str
    splits: tuple[str, ...]
    protocol: str
    epochs: int | None
    group_pattern: str | None = None

    def groups(self, data: Path) -> dict[str, str]:
        """Each clip's group."""
        listing = open_dataset(self.dataset, data / self.folder, self.group_pattern)
        return {entry.path: str(entry.group) for entry in listing.entries}


@dataclass(frozen=True)
class Answers:
    """What one network, or one a fold, said of the test clips, sorted by name.

    Attributes:
        videos: paths.
        targets: ``[N]`` class numbers.
        probabilities: ``[N, K]``.
        probe: what the linear probes beside the networks reached, where there are any.
    """

    videos: tuple[str, ...]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    probe: Accuracy | None = None

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """``[N]`` whether the most probable class is the clip's."""
        return np.asarray(self.probabilities.argmax(1) == self.targets)

    @property
    def accuracy(self) -> Accuracy:
        """Right of all."""
        return Accuracy(int(self.right.sum()), len(self.right))

    def averaged(self, other: Answers) -> Answers:
        """The mean of both networks' probabilities."""
        assert self.videos == other.videos
        return replace(self, probabilities=(self.probabilities + other.probabilities) / 2, probe=None)


def train_and_measure(clip_set: ClipSet, data: Path, store: Path | None, runs: Path, recipe: Recipe) -> Answers:
    """Train a network for each fold and collect what they say of their test parts.

    Args:
        clip_set: the clips.
        data: the folder of all data.
        store: prepared clips; None reads the videos.
        runs: beginning of the run folders' names; the number of the fold follows where there are several.
        recipe: but for the data and the number of epochs.
    """
    if clip_set.epochs is not None:
        stage = replace(recipe.training.stages[0], max_epochs=clip_set.epochs)
        recipe = recipe.changed(training=replace(recipe.training, stages=(stage,)))
    root, rows, probes = data / clip_set.folder, [], list[tuple[int, int]]()
    for fold, split in enumerate(clip_set.splits):
        chosen = DataSettings(
            root=root,
            dataset=clip_set.dataset,
            split=split,
            group_pattern=clip_set.group_pattern,
            validation="none",
            store=store,
        )
        run = runs.with_name(f"{runs.name}_{fold}") if len(clip_set.splits) > 1 else runs
        if not (run / "evaluation_test.json").is_file():
            train(recipe, out=run, data=chosen, resume=(run / "checkpoint.safetensors").exists())
            folder = open_run(run)
            evaluation = measure(folder, reopen_data(folder, root, store), features=recipe.features.beside(run))
            write_evaluation(evaluation, run / "evaluation_test.json")
        measured = json.loads((run / "evaluation_test.json").read_text(encoding="utf-8"))
        if measured.get("probe"):
            probes.append((measured["probe"]["correct"], measured["probe"]["count"]))
        rows += [
            (row["video"], measured["labels"].index(row["label"]), row["probabilities"]) for row in measured["videos"]
        ]
    rows.sort()
    videos, targets, probabilities = zip(*rows, strict=True)
    probe = Accuracy(*map(sum, zip(*probes, strict=True))) if probes else None
    return Answers(videos, np.array(targets), np.array(probabilities), probe)


def group_interval(values: npt.NDArray[np.float64], groups: Sequence[str]) -> tuple[float, float]:
    """95 % percentile interval of the mean, whole groups drawn with replacement.

    Args:
        values: ``[N]`` a figure of each clip.
        groups: ``[N]`` what belongs together.
    """
    names, member = np.unique(list(groups), return_inverse=True)
    sums, counts = np.bincount(member, values), np.bincount(member)
    drawn = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)
