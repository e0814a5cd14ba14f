"""Train from scratch on real clips, on the CPU: the fused network beside each stream alone and their average.

    python benchmarks/real_clips.py DATA [--sets ucf101 weizmann] [--seeds 0] [--epochs N] [--work DIR]

DATA holds ``UCF-101``, ``ucfTrainTestlist`` and ``weizmann``.  The recipe ``small`` runs all its
epochs and its last weights are measured once.  Each network is written down as soon as it is measured, and a second
call goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from actionfusion.data.dataset import DataSettings
from actionfusion.data.prepare_dataset import prepare
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.evaluation.metrics import classification_figures
from actionfusion.evaluation.result import Evaluation
from actionfusion.files import write_atomically
from actionfusion.training.recipe import load_recipe
from actionfusion.training.train import train
from actionfusion.version import __version__

RESULTS = Path(__file__).parent / "results" / "real_clips.json"
STREAMS = {"fused": "both", "rgb alone": "rgb", "flow alone": "flow"}
SETS: Mapping[str, Mapping[str, Any]] = {
    "ucf101": {"folder": "UCF-101", "dataset": "ucf101", "split": "official-1", "group_pattern": None, "epochs": 72},
    "weizmann": {
        "folder": "weizmann",
        "dataset": "folder",
        "split": "leave-groups-out:lyova,moshe,shahar",
        "group_pattern": r"(?P<group>[a-z]+)_",
        "epochs": 72,
    },
}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--networks", nargs="+", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--epochs", type=int, help="instead of each set's own number")
    parser.add_argument("--work", type=Path, default=Path("runs/real_clips"))
    arguments = parser.parse_args()
    for name in arguments.sets:
        for seed in arguments.seeds:
            epochs = arguments.epochs or SETS[name]["epochs"]
            _run_set(name, arguments.data, arguments.work, seed, arguments.networks, epochs)


def _run_set(name: str, data: Path, work: Path, seed: int, networks: Sequence[str], epochs: int) -> None:
    how, settings = SETS[name], load_recipe("small")
    chosen = DataSettings(
        root=data / how["folder"],
        dataset=how["dataset"],
        split=how["split"],
        group_pattern=how["group_pattern"],
        validation="none",
        store=work / f"store_{name}",
    )
    report = prepare(chosen.dataset, data / how["folder"], store=work / f"store_{name}", config="small")
    assert not report.failures, report.failures
    session = replace(settings["training"].sessions[0], max_epochs=epochs)
    training = replace(settings["training"], sessions=(session,))
    evaluations: dict[str, Evaluation] = {}
    for streams_name in networks:
        streams = STREAMS[streams_name]
        run = work / f"{name}_{streams}_{seed}_{epochs}"
        started = time.perf_counter()
        if not (run / "evaluation_test.json").is_file():
            network = replace(settings["network"], streams=streams)
            train(**settings | {"out": run, "data": chosen, "network": network, "training": training, "seed": seed})
        evaluations[streams_name] = evaluate(run, chosen.root, store=chosen.store)
        _record(name, streams_name, seed, epochs, evaluations[streams_name], time.perf_counter() - started)
    if {"rgb alone", "flow alone"} <= evaluations.keys():
        average = _average(evaluations["rgb alone"], evaluations["flow alone"])
        _record(name, "score average", seed, epochs, average, 0.0)


def _average(first: Evaluation, second: Evaluation) -> Evaluation:
    assert first.videos == second.videos
    probabilities = (first.probabilities + second.probabilities) / 2
    figures = classification_figures(first.figures.labels, first.targets, probabilities)
    return replace(first, probabilities=probabilities, figures=figures)


def _record(name: str, network: str, seed: int, epochs: int, evaluation: Evaluation, seconds: float) -> None:
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    key = {"set": name, "network": network, "seed": seed, "epochs": epochs}
    old = next((row for row in rows if key.items() <= row.items()), {})
    row = key | {
        "split": evaluation.split,
        **evaluation.figures.top1.as_json(),
        "per_class": [item.share for item in evaluation.figures.per_class],
        "training_seconds": max(round(seconds), old.get("training_seconds", 0)),
    }
    rows = [other for other in rows if not key.items() <= other.items()] + [row]
    result = {
        "command": "python benchmarks/real_clips.py DATA",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {"actionfusion": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "rows": rows,
    }
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
