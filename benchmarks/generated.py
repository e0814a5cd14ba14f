"""Variants of the tiny network on the generated clips, group by group, for the benchmarks that compare them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actionfusion.data.prepare_dataset import prepare
from actionfusion.data.shapes import SHAPE_GROUPS
from actionfusion.data.shapes_files import make_shapes
from actionfusion.evaluation.metrics import Accuracy
from actionfusion.training.recipe import load_recipe
from actionfusion.version import __version__
from trained import Answers, ClipSet, group_interval, train_and_measure

TRAIN_PER_CLASS, TEST_PER_CLASS, CLIPS_SEED = 100, 25, 0
GROUPS = (*SHAPE_GROUPS, "all")


@dataclass(frozen=True)
class Generated:
    """The clips, and where what is made of them lies.

    Attributes:
        work: folder of clips, store and runs.
        epochs: of every training.
    """

    work: Path
    epochs: int

    def prepare(self) -> None:
        """Make what is missing of the clips and their store."""
        make_shapes(
            self.work / "clips",
            train_per_class=TRAIN_PER_CLASS,
            val_per_class=0,
            test_per_class=TEST_PER_CLASS,
            seed=CLIPS_SEED,
        )
        report = prepare("folder", self.work / "clips", store=self.work / "store", config="tiny")
        assert not report.failures, report.failures

    def run(self, changes: Mapping[str, Any], seed: int) -> Path:
        """The run folder of a variant; the same changes give the same, whichever benchmark asks."""
        words = [f"{name}={value}" for name, value in sorted(changes.items())] or ["whole"]
        return self.work / f"{'_'.join(words)}_{seed}"

    def train(self, changes: Mapping[str, Any], seed: int) -> Answers:
        """The tiny network with some settings changed, trained, on the test clips."""
        recipe = load_recipe("tiny")
        settings = recipe.changed(network=replace(recipe.network, **changes), seed=seed)
        clips = ClipSet("clips", "folder", ("folders",), "folders", self.epochs)
        runs = self.run(changes, seed)
        answers = train_and_measure(clips, self.work, self.work / "store", runs, settings)
        print(f"{runs.name}: {answers.accuracy}", flush=True)
        return answers


def by_group(answers: Answers) -> dict[str, Accuracy]:
    """Accuracy within each group of two classes, all eight being open to the network, and over all."""
    right = answers.right
    counts = {"all": answers.accuracy}
    for name in SHAPE_GROUPS:
        inside = np.array([group_of(video) == name for video in answers.videos])
        counts[name] = Accuracy(int(right[inside].sum()), int(inside.sum()))
    return counts


def variant_row(name: str, seeds: Sequence[int], runs: Sequence[Answers]) -> dict[str, Any]:
    """A row of a results file: each group's counts seed by seed, the mean, and its interval.

    The interval is a bootstrap over pairs of twins, of the mean over seeds.
    """
    videos, right = np.array(runs[0].videos), np.mean([run.right for run in runs], 0)
    row: dict[str, Any] = {"variant": name, "seeds": list(seeds)}
    for group in GROUPS:
        inside = np.array([group in ("all", group_of(video)) for video in videos])
        row[group] = {
            "correct": [by_group(run)[group].correct for run in runs],
            "count": int(inside.sum()),
            "accuracy": float(right[inside].mean()),
            "interval_95": list(pair_interval(right[inside], list(videos[inside]))),
        }
    return row


def pair_interval(values: npt.NDArray[np.float64], videos: Sequence[str]) -> tuple[float, float]:
    """95 % interval of the mean of a figure of each clip, pairs of twins drawn together."""
    return group_interval(values, [f"{group_of(video)} {Path(video).stem.rpartition('_')[2]}" for video in videos])


def group_of(video: str) -> str:
    """The group of classes that a clip is of."""
    label = Path(video).parent.name
    return next(name for name, labels in SHAPE_GROUPS.items() if label in labels)


def header(command: str, epochs: int) -> dict[str, Any]:
    """How a result came about."""
    return {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {"actionfusion": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "recipe": f"tiny, {epochs} epochs of {8 * TRAIN_PER_CLASS} generated clips (seed {CLIPS_SEED})",
        "test_clips": 8 * TEST_PER_CLASS,
    }
