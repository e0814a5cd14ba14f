"""Ask what the recipe ``small`` owes to its start, its backbone and the number of clips, beside the linear probe.

    python benchmarks/questions.py DATA [--weights VGG16] [--seeds 0 1 2] [--work DIR]

DATA holds ``UCF-101`` and ``ucfTrainTestlist``; VGG16 is a file of ImageNet's convolutions, without which its rows are
left out.  Each row is small with one change, or the probe with the same, trained on the training part of the official
list 1 or on so many of its clips of each class, and tested on the whole test part.  The clips are drawn by the seed;
fewer are among more.  VGG-16 reads 144 px, whose last maps are as large as small's.  The interval of a mean over seeds,
and of a difference, is a bootstrap over the groups of clips.  Runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.files import write_atomically
from actionfusion.training.recipe import Recipe, load_recipe
from measuring import made_by
from real_clips import SETS
from trained import RESAMPLES, Answers, ClipSet, group_interval, train_and_measure

RESULTS = Path(__file__).parent / "results" / "questions.json"
MODELS = ("small", "probe")
CLIPS = ClipSet("UCF-101", "ucf101", ("official-1",), "official list 1", None)
VGG16 = {"backbone": "vgg16"}


@dataclass(frozen=True)
class Question:
    """A change of both models, or of their training clips.

    Attributes:
        network: settings of the network that are other than the recipe's.
        flow_start: of the flow's first layer.
        size: pixels of a side; None as the recipe.
        clips: of each class; None takes all.
    """

    network: Mapping[str, Any] | None = None
    flow_start: str = "mean"
    size: int | None = None
    clips: int | None = None


QUESTIONS = {
    "as it is": Question(),
    "2 clips of each class": Question(clips=2),
    "4 clips of each class": Question(clips=4),
    "8 clips of each class": Question(clips=8),
    "16 clips of each class": Question(clips=16),
    "the flow's first layer random": Question(flow_start="random"),
    "VGG-16, 144 px": Question(VGG16, size=144),
}


def main() -> None:
    """Run what is missing, and write it down question by question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/questions"))
    arguments = parser.parse_args()
    groups = SETS["ucf101"].groups(arguments.data)
    rows: dict[str, Any] = {}
    for title, question in QUESTIONS.items():
        if question.network == VGG16 and arguments.weights is None:
            continue
        answers: dict[str, list[Answers]] = {model: [] for model in MODELS}
        for model in MODELS:
            for seed in arguments.seeds:
                recipe = _recipe(model, question, arguments.weights, arguments.work / "features", seed)
                clips = _clips(question, seed, arguments.data, arguments.work)
                runs = arguments.work / f"{title.replace(' ', '_').replace(',', '')}_{model}_{seed}"
                answers[model].append(train_and_measure(clips, arguments.data, None, runs, recipe))
                print(f"{title}, {model}, seed {seed}: {answers[model][-1].accuracy}", flush=True)
        rows[title] = _row(answers, groups, arguments.seeds)
        result = {
            **made_by("python benchmarks/questions.py DATA --weights VGG16"),
            "clips": "UCF101, 8 classes, official list 1",
            "resamples": RESAMPLES,
            "rows": rows,
        }
        write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


def _recipe(model: str, question: Question, weights: Path | None, features: Path, seed: int) -> Recipe:
    recipe = load_recipe(model)
    changes: dict[str, Any] = {"flow_start": question.flow_start, "seed": seed}
    if question.network is not None:
        changes |= {"network": replace(recipe.network, **question.network), "pretrained": str(weights)}
    if question.size is not None:
        changes["clip"] = replace(recipe.clip, flow=replace(recipe.clip.flow, size=question.size))
    return recipe.changed(features=replace(recipe.features, cache=False, folder=features), **changes)


def _clips(question: Question, seed: int, data: Path, work: Path) -> ClipSet:
    """Give the official list, or a table of so many of its training clips of each class with its test part."""
    if question.clips is None:
        return CLIPS
    root = (data / CLIPS.folder).absolute()
    videos = open_data(DataSettings(root=root, dataset=CLIPS.dataset, split=CLIPS.splits[0], validation="none"))
    entries, of_class = videos.listing.entries, defaultdict(list)
    for index in videos.split.train:
        of_class[entries[index].label].append(index)
    draw = random.Random(seed)
    kept = [
        index
        for label in sorted(of_class)
        for index in draw.sample(of_class[label], len(of_class[label]))[: question.clips]
    ]
    table = work / f"clips_{question.clips}_{seed}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "group", "split"))
        for part, chosen in (("train", kept), ("test", videos.split.test)):
            for entry in (entries[index] for index in chosen):
                writer.writerow((root / entry.path, entry.label, entry.group, part))
    return replace(CLIPS, folder=str(table.absolute()), dataset="csv", splits=("column",))


def _row(answers: Mapping[str, list[Answers]], group_of: Mapping[str, str], seeds: list[int]) -> dict[str, Any]:
    """Collect what both models reached, and the paired difference."""
    groups = [group_of[video] for video in answers["small"][0].videos]
    right = {
        model: reduce(np.add, (run.right.astype(np.float64) for run in runs)) / len(runs)
        for model, runs in answers.items()
    }
    difference = right["small"] - right["probe"]
    return {
        model: {
            "seeds": [{"seed": seed} | run.accuracy.as_json() for seed, run in zip(seeds, runs, strict=True)],
            "accuracy": float(right[model].mean()),
            "interval_95_by_group": list(group_interval(right[model], groups)),
        }
        for model, runs in answers.items()
    } | {
        "small_less_probe": float(difference.mean()),
        "difference_interval_95_by_group": list(group_interval(difference, groups)),
    }


if __name__ == "__main__":
    main()
