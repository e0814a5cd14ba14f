"""From a folder of clips to a recogniser: what ``actionfusion train FOLDER`` takes, and where the time goes.

    python benchmarks/first_run.py DATA [--work DIR] [--repetitions N]

DATA holds ``UCF-101`` and ``ucfTrainTestlist``; its training part has 192 clips.  One training by the recipe ``small``,
in a process of its own and an empty folder, features included.  Beside it, one clip at a time: decoding alone, decoding
with flow, and both backbones as they are trained, with batch norms folded, and with freed memory kept too; each of the
three in a process of its own, in turn.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from actionfusion.data.augment import Augmentation
from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.loading import ClipDataset
from actionfusion.files import write_atomically
from actionfusion.models import model_class
from actionfusion.training.recipe import load_recipe
from measuring import Neighbours, made_by, ratio, rounded, seconds_of, spread

RESULTS = Path(__file__).parent / "results" / "first_run.json"
BACKBONES = ("plain", "folded", "folded, memory kept")


def main() -> None:
    """Measure, or, as a child, one way of running the backbones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/first_run"))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--child", choices=BACKBONES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_backbones(arguments.child, arguments.repetitions)))
        return
    shutil.rmtree(arguments.work, ignore_errors=True)
    neighbours = Neighbours()
    whole = _whole(arguments.data / "UCF-101", arguments.work / "run")
    cutting = {flow: _cutting(arguments.data, flow, arguments.repetitions) for flow in (False, True)}
    ways: dict[str, list[float]] = {way: [] for way in BACKBONES}
    for _ in range(arguments.repetitions):
        for way in BACKBONES:
            ways[way] += _child(arguments.data, way, arguments.repetitions)
    result = {
        **made_by("python benchmarks/first_run.py DATA"),
        "other_processes": neighbours.share(),
        "whole": whole,
        "one_clip": {
            "decode_seconds": spread(cutting[False]),
            "decode_and_flow_seconds": spread(cutting[True]),
            "backbones_seconds": {way: spread(values) for way, values in ways.items()},
            "backbones_speed": {way: ratio(ways["plain"], values) for way, values in ways.items()},
        },
    }
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["whole"], indent=1))


def _whole(root: Path, out: Path) -> dict[str, Any]:
    """Train in a process of its own and read where its time went."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "actionfusion", "train", str(root), "--out", str(out)]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - started
    log = (out / "train.log").read_text(encoding="utf-8")
    found = re.search(r"features: (\d+) clips computed in (\d+) s", log)
    assert found is not None
    with (out / "metrics.csv").open(encoding="utf-8") as file:
        learning = sum(float(row["seconds"]) for row in csv.DictReader(file))
    return {
        "seconds": rounded(seconds),
        "features_seconds": int(found[2]),
        "features_clips": int(found[1]),
        "learning_seconds": rounded(learning),
        "rest_seconds": rounded(seconds - int(found[2]) - learning),
    }


def _cutting(data: Path, flow: bool, repetitions: int) -> list[float]:
    """Seconds a clip, on one thread at a time, of twelve clips over the classes."""
    recipe = load_recipe("small")
    videos = open_data(DataSettings(root=data / "UCF-101", dataset="ucf101", split="official-1", validation="none"))
    clip = recipe.clip if flow else replace(recipe.clip, streams=("rgb",))
    chosen = videos.split.train[:: len(videos.split.train) // 12]
    clips = ClipDataset(videos.sources(chosen, clip), clip, augmentation=Augmentation())

    def cut() -> None:
        for index in range(len(chosen)):
            clips[0, index]

    return [seconds / len(chosen) for seconds in seconds_of(cut, repetitions)]


def _child(data: Path, way: str, repetitions: int) -> list[float]:
    command = [sys.executable, __file__, str(data), "--child", way, "--repetitions", str(repetitions)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout)
    return found


def _backbones(way: str, repetitions: int) -> list[float]:
    """Seconds of both backbones on a clip."""
    recipe = load_recipe("small").fitted(8)
    network = model_class(recipe.model)(recipe.network).eval()
    clip = {
        stream: torch.randint(0, 256, (1, recipe.clip.frames, *recipe.network.shape_of(stream)), dtype=torch.uint8)
        for stream in network.reads
    }
    if way == "folded, memory kept":
        with network.evaluating():
            return seconds_of(lambda: network.features(clip), repetitions)
    if way == "folded":
        network.backbones = torch.nn.ModuleDict({name: each.folded() for name, each in network.all_backbones().items()})
    with torch.inference_mode():
        return seconds_of(lambda: network.features(clip), repetitions)


if __name__ == "__main__":
    main()
