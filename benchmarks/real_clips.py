"""Train from scratch on real clips, on the CPU: the fused network beside each stream alone and their average.

    python benchmarks/real_clips.py DATA [--sets ucf101 ...] [--seeds 0 1 2] [--work DIR] [--train_only]

DATA holds ``UCF-101``, ``ucfTrainTestlist``, ``ut-interaction`` and ``weizmann``.  The recipe ``scratch`` with flow by
TV-L1, in bfloat16, runs all its epochs, whose number was fixed before the first run, and its last weights are measured
once.  The interval of a mean over seeds, and of a difference, is a bootstrap over the groups of clips, which share
scene and actors.  Runs that are there are not made again; a set is written down when all its runs are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actionfusion.data.prepare_dataset import prepare
from actionfusion.files import write_atomically
from actionfusion.training.recipe import load_recipe
from measuring import made_by
from trained import RESAMPLES, Answers, ClipSet, group_interval, train_and_measure

RESULTS = Path(__file__).parent / "results" / "real_clips.json"
STREAMS = {"fused": "both", "rgb alone": "rgb", "flow alone": "flow"}
AVERAGE = "score average"
PERSONS = ("daria", "denis", "eli", "ido", "ira", "lena", "lyova", "moshe", "shahar")
SETS: Mapping[str, ClipSet] = {
    "ucf101": ClipSet("UCF-101", "ucf101", ("official-1",), "official list 1", 36),
    "ut-interaction": ClipSet(
        "ut-interaction/set1",
        "folder",
        tuple(f"leave-groups-out:{sequence}" for sequence in range(1, 11)),
        "leave one sequence out",
        36,
        r"^\d+_(?P<group>\d+)_",
    ),
    "weizmann": ClipSet(
        "weizmann",
        "folder",
        tuple(f"leave-groups-out:{person}" for person in PERSONS),
        "leave one person out",
        36,
        r"(?P<group>[a-z]+)_",
    ),
}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--work", type=Path, default=Path("runs/real_clips"))
    parser.add_argument("--train_only", action="store_true", help="write nothing down, for several calls side by side")
    arguments = parser.parse_args()
    for name in arguments.sets:
        answers = _run_set(name, arguments.data, arguments.work, arguments.seeds, arguments.networks)
        if not arguments.train_only:
            _record(name, _summary(SETS[name], arguments.data, arguments.seeds, answers))


def _run_set(
    name: str, data: Path, work: Path, seeds: Sequence[int], networks: Sequence[str]
) -> dict[str, list[Answers]]:
    """Of each network what it answered, a seed each."""
    clip_set, recipe = SETS[name], load_recipe("scratch")
    clip = replace(recipe.clip, flow=replace(recipe.clip.flow, engine="tvl1"))
    training = replace(recipe.training, precision="bfloat16", workers=0)
    store = work / f"store_{name}_tvl1"
    report = prepare(clip_set.dataset, data / clip_set.folder, store=store, flow=clip.flow)
    assert not report.failures, report.failures
    answers: dict[str, list[Answers]] = {network: [] for network in networks}
    for seed in seeds:
        for network in networks:
            settings = recipe.changed(
                clip=clip, training=training, network=replace(recipe.network, streams=STREAMS[network]), seed=seed
            )
            runs = work / f"{name}_{STREAMS[network]}_{seed}"
            answers[network].append(train_and_measure(clip_set, data, store, runs, settings))
            print(f"{name}, {network}, seed {seed}: {answers[network][-1].accuracy}", flush=True)
    if {"rgb alone", "flow alone"} <= answers.keys():
        pairs = zip(answers["rgb alone"], answers["flow alone"], strict=True)
        answers[AVERAGE] = [rgb.averaged(flow) for rgb, flow in pairs]
    return answers


def _summary(
    clip_set: ClipSet, data: Path, seeds: Sequence[int], answers: Mapping[str, Sequence[Answers]]
) -> list[dict[str, Any]]:
    """A row for each network: each seed's count, the mean, and how far the fused network is from it."""
    group_of = clip_set.groups(data)
    right = {network: np.array([each.right for each in runs], np.float64) for network, runs in answers.items()}
    rows = []
    for network, runs in answers.items():
        groups = [group_of[video] for video in runs[0].videos]
        row: dict[str, Any] = {
            "network": network,
            "protocol": clip_set.protocol,
            "folds": len(clip_set.splits),
            "epochs": clip_set.epochs,
            "groups": len(set(groups)),
            "seeds": [{"seed": seed} | run.accuracy.as_json() for seed, run in zip(seeds, runs, strict=True)],
            "accuracy": float(right[network].mean()),
            "interval_95_by_group": list(group_interval(right[network].mean(0), groups)),
            "right": ["".join("01"[int(value)] for value in run.right) for run in runs],
        }
        if network != "fused" and "fused" in right:
            difference = (right["fused"] - right[network]).mean(0)
            row["fused_less_this"] = float(difference.mean())
            row["difference_interval_95_by_group"] = list(group_interval(difference, groups))
        rows.append(row)
    return rows


def _record(name: str, rows: list[dict[str, Any]]) -> None:
    sets = json.loads(RESULTS.read_text(encoding="utf-8")).get("sets", {}) if RESULTS.is_file() else {}
    result = {
        **made_by("python benchmarks/real_clips.py DATA"),
        "recipe": "scratch, flow by TV-L1, bfloat16, 96 px, T = 8, L = 4, from scratch",
        "resamples": RESAMPLES,
        "sets": sets | {name: rows},
    }
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
