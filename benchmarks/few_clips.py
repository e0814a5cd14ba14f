"""Ask what the recipe ``small`` owes to the number of clips and to the start of its flow, beside the linear probe.

    python benchmarks/few_clips.py DATA [--seeds 0 1 2] [--work DIR]

DATA holds ``UCF-101`` and ``ucfTrainTestlist``.  Each row is small with one change, or the probe with the same, trained
on the training part of the official list 1 or on so many of its clips of each class, and tested on the whole test part.
The clips are drawn by the seed; fewer are among more.  The interval of a mean over seeds, and of a difference, is a
bootstrap over the groups of clips.  Runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.files import write_atomically
from actionfusion.training.recipe import load_recipe
from measuring import made_by
from trained import RESAMPLES, Answers, ClipSet, group_interval, train_and_measure

RESULTS = Path(__file__).parent / "results" / "few_clips.json"
MODELS = ("small", "probe")
CLIPS = ClipSet("UCF-101", "ucf101", ("official-1",), "official list 1", None)
QUESTIONS: Mapping[str, tuple[int | None, Literal["mean", "random"]]] = {
    "2 of each class": (2, "mean"),
    "4 of each class": (4, "mean"),
    "8 of each class": (8, "mean"),
    "16 of each class": (16, "mean"),
    "all": (None, "mean"),
    "all, the flow's first layer random": (None, "random"),
}
"""Clips of each class to learn from, None for all, and the start of the flow's first layer."""


def main() -> None:
    """Run what is missing, and write it down question by question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/few_clips"))
    arguments = parser.parse_args()
    groups = {Path(path).name: group for path, group in CLIPS.groups(arguments.data).items()}
    rows: dict[str, Any] = {}
    for title, (count, flow_start) in QUESTIONS.items():
        answers: dict[str, list[Answers]] = {model: [] for model in MODELS}
        for model in MODELS:
            for seed in arguments.seeds:
                recipe = load_recipe(model)
                features = replace(recipe.features, cache=False, folder=arguments.work / "features")
                recipe = recipe.changed(features=features, flow_start=flow_start, seed=seed)
                runs = arguments.work / f"{title.replace(' ', '_').replace(',', '')}_{model}_{seed}"
                clips = CLIPS if count is None else _few(count, seed, arguments.data, arguments.work)
                answers[model].append(train_and_measure(clips, arguments.data, None, runs, recipe))
                print(f"{title}, {model}, seed {seed}: {answers[model][-1].accuracy}", flush=True)
        rows[title] = _row(answers, groups, arguments.seeds)
        result = {
            **made_by("python benchmarks/few_clips.py DATA"),
            "clips": "UCF101, 8 classes, official list 1",
            "resamples": RESAMPLES,
            "rows": rows,
        }
        write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


def _few(count: int, seed: int, data: Path, work: Path) -> ClipSet:
    """Give a table of so many of the official list's training clips of each class, with its test part."""
    root = (data / CLIPS.folder).absolute()
    videos = open_data(DataSettings(root=root, dataset=CLIPS.dataset, split=CLIPS.splits[0], validation="none"))
    entries, of_class = videos.listing.entries, defaultdict(list)
    for index in videos.split.train:
        of_class[entries[index].label].append(index)
    draw = random.Random(seed)
    kept = [index for label in sorted(of_class) for index in draw.sample(of_class[label], len(of_class[label]))[:count]]
    table = work / f"clips_{count}_{seed}.csv"
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
    groups = [group_of[Path(video).name] for video in answers["small"][0].videos]
    right = {model: np.mean([run.right for run in runs], axis=0) for model, runs in answers.items()}
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
