"""DIS or TV-L1: the temporal stream alone, trained on the flow of each engine, on real clips.

python benchmarks/flow_engines.py DATA    # the folder that holds UCF-101/, ucfTrainTestlist/ and ut-interaction/

Everything but the engine is the same: recipe ``small`` with ``streams: flow``, seeds, order, augmentation, number of
epochs (fixed before the first run; no run chooses its weights by the test part).  UT-Interaction leaves two sequences
out at a time, so that each clip is tested once a seed.  The difference is paired clip by clip; its interval is a
bootstrap over the groups of clips, which share scene and actors.  Runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actionfusion.data.dataset import DataSettings
from actionfusion.data.layouts import open_dataset
from actionfusion.data.prepare_dataset import prepare
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.evaluation.metrics import Accuracy
from actionfusion.files import write_atomically
from actionfusion.training.recipe import load_recipe
from actionfusion.training.train import train
from actionfusion.version import __version__

RESULTS = Path(__file__).parent / "results" / "flow_engines.json"
ENGINES = ("dis", "tvl1")
RESAMPLES = 10_000
SETS: Mapping[str, Mapping[str, Any]] = {
    "ut-interaction": {
        "folder": "ut-interaction/set1",
        "dataset": "folder",
        "splits": [f"leave-groups-out:{first},{first + 1}" for first in (1, 3, 5, 7, 9)],
        "protocol": "5 folds, two sequences left out in each",
        "group_pattern": r"^\d+_(?P<group>\d+)_",
        "epochs": 48,
    },
    "ucf101": {
        "folder": "UCF-101",
        "dataset": "ucf101",
        "splits": ["official-1"],
        "protocol": "official list 1",
        "group_pattern": None,
        "epochs": 36,
    },
}


def main() -> None:
    """Run what is missing, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/flow_engines"))
    arguments = parser.parse_args()
    answers: dict[tuple[str, str, int], dict[str, bool]] = {}
    for name in arguments.sets:
        for seed in arguments.seeds:
            for engine in arguments.engines:
                found = dict(_run(name, engine, seed, arguments.data, arguments.work))
                answers[name, engine, seed] = found
                print(f"{name} {engine} seed {seed}: {Accuracy(sum(found.values()), len(found))}", flush=True)
    if set(arguments.engines) == set(ENGINES):
        _record([_compare(name, arguments.seeds, arguments.data, answers) for name in arguments.sets])


def _run(name: str, engine: str, seed: int, data: Path, work: Path) -> Iterator[tuple[str, bool]]:
    """Each test clip with whether the answer was right."""
    how, settings = SETS[name], load_recipe("small")
    clip = replace(settings["clip"], flow=replace(settings["clip"].flow, engine=engine))
    root, store = data / how["folder"], work / f"store_{name}_{engine}"
    prepare(how["dataset"], root, store=store, flow=clip.flow, workers=1)
    session = replace(settings["training"].sessions[0], max_epochs=how["epochs"])
    training = replace(settings["training"], sessions=(session,), workers=0)
    network = replace(settings["network"], streams="flow")
    for fold, split in enumerate(how["splits"]):
        chosen = DataSettings(
            root=root,
            dataset=how["dataset"],
            split=split,
            group_pattern=how["group_pattern"],
            validation="none",
            store=store,
        )
        run = work / f"{name}_{engine}_{seed}_{fold}"
        if not (run / "evaluation_test.json").is_file():
            own = {"out": run, "data": chosen, "clip": clip, "network": network, "training": training, "seed": seed}
            train(**settings | own)
            evaluate(run, root, store=store)
        for row in json.loads((run / "evaluation_test.json").read_text(encoding="utf-8"))["videos"]:
            yield row["video"], row["label"] == row["predicted"]


def _compare(
    name: str, seeds: list[int], data: Path, answers: Mapping[tuple[str, str, int], Mapping[str, bool]]
) -> dict[str, Any]:
    """TV-L1 less DIS, in accuracy."""
    how = SETS[name]
    listing = open_dataset(how["dataset"], data / how["folder"], how["group_pattern"])
    group_of = {entry.path: entry.group for entry in listing.entries}
    videos = sorted(answers[name, ENGINES[0], seeds[0]])
    right = np.array([[[answers[name, engine, seed][v] for v in videos] for seed in seeds] for engine in ENGINES])
    difference = right[1].astype(float).mean(0) - right[0].mean(0)
    low, high = _bootstrap(difference, [str(group_of[video]) for video in videos])
    return {
        "set": name,
        "protocol": how["protocol"],
        "epochs": how["epochs"],
        "seeds": seeds,
        "clips": len(videos),
        "groups": len({group_of[video] for video in videos}),
        "correct": {engine: right[place].sum(1).tolist() for place, engine in enumerate(ENGINES)},
        "accuracy": {engine: float(right[place].mean()) for place, engine in enumerate(ENGINES)},
        "difference_tvl1_minus_dis": float(difference.mean()),
        "difference_by_seed": (right[1].astype(float).mean(1) - right[0].mean(1)).tolist(),
        "interval_95_by_group": [low, high],
    }


def _bootstrap(values: npt.NDArray[np.float64], groups: list[str]) -> tuple[float, float]:
    """95 % percentile interval of the mean, whole groups drawn with replacement."""
    names, member = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(member, values), np.bincount(member)
    drawn = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


def _record(rows: list[dict[str, Any]]) -> None:
    result = {
        "command": "python benchmarks/flow_engines.py DATA",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {"actionfusion": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "recipe": "small, streams: flow, 96 px, T = 8, L = 4, from scratch",
        "resamples": RESAMPLES,
        "rows": rows,
    }
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
