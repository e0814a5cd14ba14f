"""DIS or TV-L1: the temporal stream alone, trained on the flow of each engine, on real clips.

python benchmarks/flow_engines.py DATA    # the folder that holds UCF-101/, ucfTrainTestlist/ and ut-interaction/

Everything but the engine is the same: recipe ``scratch`` with ``streams: flow``, seeds, order, augmentation, number of
epochs (fixed before the first run; no run chooses its weights by the test part).  UT-Interaction leaves two sequences
out at a time, so that each clip is tested once a seed.  The difference is paired clip by clip; its interval is a
bootstrap over the groups of clips, which share scene and actors.  Runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actionfusion.data.prepare_dataset import prepare
from actionfusion.files import write_atomically
from actionfusion.training.recipe import load_recipe
from actionfusion.video.flow import EngineName
from measuring import made_by
from trained import RESAMPLES, Answers, ClipSet, group_interval, train_and_measure

RESULTS = Path(__file__).parent / "results" / "flow_engines.json"
ENGINES = ("dis", "tvl1")
SETS: Mapping[str, ClipSet] = {
    "ut-interaction": ClipSet(
        "ut-interaction/set1",
        "folder",
        tuple(f"leave-groups-out:{first},{first + 1}" for first in (1, 3, 5, 7, 9)),
        "5 folds, two sequences left out in each",
        48,
        r"^\d+_(?P<group>\d+)_",
    ),
    "ucf101": ClipSet("UCF-101", "ucf101", ("official-1",), "official list 1", 36),
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
    answers: dict[tuple[str, str], list[Answers]] = {}
    for name in arguments.sets:
        for engine in arguments.engines:
            answers[name, engine] = [
                _run(name, engine, seed, arguments.data, arguments.work) for seed in arguments.seeds
            ]
    if set(arguments.engines) == set(ENGINES):
        _record([_compare(name, arguments.seeds, arguments.data, answers) for name in arguments.sets])


def _run(name: str, engine: EngineName, seed: int, data: Path, work: Path) -> Answers:
    """What the temporal stream says of each test clip."""
    recipe = load_recipe("scratch")
    clip = replace(recipe.clip, flow=replace(recipe.clip.flow, engine=engine))
    store = work / f"store_{name}_{engine}"
    prepare(SETS[name].dataset, data / SETS[name].folder, store=store, flow=clip.flow, workers=1)
    training, network = replace(recipe.training, workers=0), replace(recipe.network, streams="flow")
    settings = recipe.changed(clip=clip, training=training, network=network, seed=seed)
    answers = train_and_measure(SETS[name], data, store, work / f"{name}_{engine}_{seed}", settings)
    print(f"{name} {engine} seed {seed}: {answers.accuracy}", flush=True)
    return answers


def _compare(
    name: str, seeds: list[int], data: Path, answers: Mapping[tuple[str, str], list[Answers]]
) -> dict[str, Any]:
    """TV-L1 less DIS, in accuracy."""
    group_of = SETS[name].groups(data)
    videos = answers[name, ENGINES[0]][0].videos
    assert all(run.videos == videos for engine in ENGINES for run in answers[name, engine])
    right = np.array([[run.right for run in answers[name, engine]] for engine in ENGINES])
    difference = right[1].astype(float).mean(0) - right[0].mean(0)
    low, high = group_interval(difference, [group_of[video] for video in videos])
    return {
        "set": name,
        "protocol": SETS[name].protocol,
        "epochs": SETS[name].epochs,
        "seeds": seeds,
        "clips": len(videos),
        "groups": len({group_of[video] for video in videos}),
        "correct": {engine: right[place].sum(1).tolist() for place, engine in enumerate(ENGINES)},
        "accuracy": {engine: float(right[place].mean()) for place, engine in enumerate(ENGINES)},
        "difference_tvl1_minus_dis": float(difference.mean()),
        "difference_by_seed": (right[1].astype(float).mean(1) - right[0].mean(1)).tolist(),
        "interval_95_by_group": [low, high],
    }


def _record(rows: list[dict[str, Any]]) -> None:
    result = {
        **made_by("python benchmarks/flow_engines.py DATA"),
        "recipe": "scratch, streams: flow, 96 px, T = 8, L = 4, from scratch",
        "resamples": RESAMPLES,
        "rows": rows,
    }
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
