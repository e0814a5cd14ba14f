"""Train on real clips from ImageNet's weights by the recipe ``small``: the fused network beside others and the probe.

    python benchmarks/pretrained.py DATA [--sets ucf101 ...] [--networks fused ...] [--seeds 0 1 2] [--work DIR]

DATA holds ``UCF-101``, ``ucfTrainTestlist``, ``ut-interaction`` and ``weizmann``.  The recipe was chosen on validation
groups within UCF101's training part (``light_heads.py``); its last weights are measured on the test part, which was
looked at twice: before and after the dense layer was made to begin near zero.  The probe is solved on the same
features.  The interval of a mean over seeds, and of a difference, is a bootstrap over the groups of clips, which share
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

from actionfusion.evaluation.metrics import Accuracy
from actionfusion.files import write_atomically
from actionfusion.models import FusionNetworkSettings
from actionfusion.training.recipe import Recipe, load_recipe
from measuring import made_by
from real_clips import AVERAGE, SETS
from trained import RESAMPLES, Answers, group_interval, train_and_measure

RESULTS = Path(__file__).parent / "results" / "pretrained.json"
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "fused": {},
    "rgb alone": {"streams": "rgb"},
    "flow alone": {"streams": "flow"},
    "fused, LSTMs": {"temporal_head": "lstm", "hidden": 64, "dropout_lstm": 0.25},
}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/pretrained"))
    arguments = parser.parse_args()
    for name in arguments.sets:
        rows = _rows(name, arguments.data, arguments.work, arguments.networks, arguments.seeds)
        _record(name, rows)


def _recipe(network: str, seed: int, folder: Path) -> Recipe:
    recipe = load_recipe("small")
    assert isinstance(recipe.network, FusionNetworkSettings)
    return recipe.changed(
        network=replace(recipe.network, **NETWORKS[network]),
        features=replace(recipe.features, cache=False, folder=folder),
        seed=seed,
    )


def _rows(name: str, data: Path, work: Path, networks: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Make a row for each network, the average of the streams' scores, and the probe."""
    clip_set = replace(SETS[name], epochs=None)
    answers: dict[str, list[Answers]] = {network: [] for network in networks}
    probe: Accuracy | None = None
    for network in networks:
        for seed in seeds:
            runs = work / f"{name}_{network.replace(', ', '_').replace(' ', '_')}_{seed}"
            found = train_and_measure(clip_set, data, None, runs, _recipe(network, seed, work / "features"))
            answers[network].append(found)
            probe = found.probe if network == "fused" else probe  # that of each seed is the same
            print(f"{name}, {network}, seed {seed}: {found.accuracy}; probe {found.probe}", flush=True)
    if {"rgb alone", "flow alone"} <= answers.keys():
        pairs = zip(answers["rgb alone"], answers["flow alone"], strict=True)
        answers[AVERAGE] = [rgb.averaged(flow) for rgb, flow in pairs]
    group_of = clip_set.groups(data)
    groups = [group_of[video] for video in answers["fused"][0].videos]
    correct = {network: np.array([each.right for each in runs], np.float64) for network, runs in answers.items()}
    rows = []
    for network, runs in answers.items():
        row: dict[str, Any] = {
            "network": network,
            "protocol": clip_set.protocol,
            "folds": len(clip_set.splits),
            "groups": len(set(groups)),
            "seeds": [{"seed": seed} | run.accuracy.as_json() for seed, run in zip(seeds, runs, strict=True)],
            "accuracy": float(correct[network].mean()),
            "interval_95_by_group": list(group_interval(correct[network].mean(0), groups)),
            "confusion": _confusion(runs),
        }
        if network != "fused":
            difference = (correct["fused"] - correct[network]).mean(0)
            row["fused_less_this"] = float(difference.mean())
            row["difference_interval_95_by_group"] = list(group_interval(difference, groups))
        rows.append(row)
    if probe is not None:
        rows.append({"network": "linear probe", "protocol": clip_set.protocol, **probe.as_json()})
    return rows


def _record(name: str, rows: list[dict[str, Any]]) -> None:
    sets = json.loads(RESULTS.read_text(encoding="utf-8")).get("sets", {}) if RESULTS.is_file() else {}
    result = {
        **made_by("python benchmarks/pretrained.py DATA"),
        "recipe": "small",
        "resamples": RESAMPLES,
        "sets": sets | {name: rows},
    }
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


def _confusion(runs: Sequence[Answers]) -> list[list[int]]:
    """Count predictions (columns) of each class (rows) over all seeds."""
    classes = runs[0].probabilities.shape[1]
    table = np.zeros((classes, classes), np.int64)
    for run in runs:
        np.add.at(table, (run.targets, run.probabilities.argmax(1)), 1)
    return [[int(value) for value in row] for row in table]


if __name__ == "__main__":
    main()
