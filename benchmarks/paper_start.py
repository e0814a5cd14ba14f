"""The paper's network at full size with the paper's start, and how much of an accuracy can be the split.

    python benchmarks/paper_start.py DATA --weights VGG16 [--networks ...] [--splits ...] [--work DIR]

DATA holds ``UCF-101`` and ``ucfTrainTestlist``; VGG16 is a file of ImageNet's convolutions.  VGG-16 at 224 px, T = 17,
L = 4.  So that a CPU can do it, flow is by DIS (TV-L1 takes 25 s a clip on 2 cores), the backbones are frozen, and each
video's plain clip is read, without augmentation; a frozen first layer of flow cannot start at random, so both networks
take ``flow_start mean``.  fc6 starts at random.  The epochs were fixed before the first run.

The linear probe on the same features, and on those of the recipe ``small``, is solved on the official list, on many
draws of random 7:3 with whole groups on one side, and on as many of the paper's random 7:3.  The difference is what the
split gives away, since clips of one group, which share scene and actors, then fall on both sides.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actionfusion.data.dataset import DataSettings
from actionfusion.data.loading import ClipDataset, EpochLoader
from actionfusion.data.splits import make_split
from actionfusion.evaluation.metrics import Accuracy
from actionfusion.files import write_atomically
from actionfusion.models import FusionNetworkSettings
from actionfusion.models.probe import ProbeHead
from actionfusion.models.solving import DescribedClips
from actionfusion.training.distributed import Processes
from actionfusion.training.features import FeatureSettings, train_from_features
from actionfusion.training.plan import make_plan
from actionfusion.training.recipe import Recipe, load_recipe
from actionfusion.training.stages import Stage
from measuring import made_by
from trained import RESAMPLES, ClipSet, group_interval, train_and_measure

RESULTS = Path(__file__).parent / "results" / "paper_start.json"
SPLITS = ("official-1", "random-7:3")
NETWORKS = ("practical", "faithful")
EPOCHS, RATE, DRAWS = 4, 1e-4, 20


def main() -> None:
    """Run what is missing, and write it down network by network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, help="without them the probe of small's features alone is solved")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--work", type=Path, default=Path("runs/paper_start"))
    arguments = parser.parse_args()
    small = load_recipe("small")
    small = small.changed(features=FeatureSettings(arguments.work / "features", views=0))
    _record("linear probe, small", _probes(small, arguments.data))
    if arguments.weights is None:
        return
    recipe = _recipe("practical", arguments.weights, arguments.work)
    _record("linear probe", _probes(recipe, arguments.data))
    for split in arguments.splits:
        for network in arguments.networks:
            recipe = _recipe(network, arguments.weights, arguments.work)
            clip_set = ClipSet("UCF-101", "ucf101", (split,), split, None)
            runs = arguments.work / f"{network}_{split.replace(':', '_')}"
            answers = train_and_measure(clip_set, arguments.data, None, runs, recipe)
            group_of = clip_set.groups(arguments.data)
            interval = group_interval(answers.right.astype(float), [group_of[video] for video in answers.videos])
            _record(network, [{"split": split, **answers.accuracy.as_json(), "interval_95_by_group": list(interval)}])


def _recipe(network: str, weights: Path, work: Path) -> Recipe:
    recipe = load_recipe(f"ucf101-{network}")
    assert isinstance(recipe.network, FusionNetworkSettings)
    stages = (Stage(RATE, EPOCHS, None),)
    return recipe.changed(
        clip=replace(recipe.clip, flow=replace(recipe.clip.flow, engine="dis")),
        pretrained=str(weights),
        pretrained_fc6="random",
        flow_start="mean",
        features=FeatureSettings(work / "features", views=0),
        training=replace(recipe.training, stages=stages, precision="float32", batch_size=8, accumulate=1),
    )


def _probes(recipe: Recipe, data: Path) -> list[dict[str, Any]]:
    """Solve the probe on each split, and tell how often it is right."""
    settings = DataSettings(root=data / "UCF-101", dataset="ucf101", split="official-1", validation="none")
    plan = make_plan(recipe.changed(data=settings), Processes("cpu"))
    network, entries = plan.make_network(), plan.videos.listing.entries
    plan.start(network)
    clips = ClipDataset(plan.videos.sources(range(len(entries)), plan.recipe.clip), plan.recipe.clip)
    cached, _, report = train_from_features(
        network, clips, None, plan.recipe.features, prepared=plan.prepared, workers=0
    )
    print(report, flush=True)
    channels = {stream: store.recipe.shape[1] for stream, store in cached.stores.items()}
    head = ProbeHead(channels, len(plan.videos.listing.labels))
    batches = EpochLoader(cached, batch_size=16, shuffle=False, workers=0).epoch(0)
    described = torch.cat(
        [head.describe({stream: maps.float() for stream, maps in batch.inputs.items()}) for batch in batches]
    )
    targets = torch.tensor([source.target for source in clips.sources])
    names, groups = [entry.path for entry in entries], [str(entry.group) for entry in entries]

    def solved(train: Sequence[int], test: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        head.solve(
            DescribedClips(
                described[list(train)],
                targets[list(train)],
                tuple(names[index] for index in train),
                tuple(groups[index] for index in train),
            )
        )
        with torch.inference_mode():
            return np.asarray((head.answer_described(described[list(test)]).argmax(1) == targets[list(test)]).numpy())

    rows = []
    for split in ("official-1", "grouped-7:3", "random-7:3"):
        draws = range(DRAWS if split.endswith("7:3") else 1)
        made = [make_split(plan.videos.listing, split, seed=seed) for seed in draws]
        right = [solved(each.train, each.test) for each in made]
        row: dict[str, Any] = {"split": split, "draws": [Accuracy(int(r.sum()), len(r)).as_json() for r in right]}
        row["accuracy"] = float(np.mean([each.mean() for each in right]))
        if len(right) == 1:
            of_test = [groups[index] for index in made[0].test]
            row["interval_95_by_group"] = list(group_interval(right[0].astype(float), of_test))
        rows.append(row)
        print(f"probe, {split}: {row['accuracy']:.3f}", flush=True)
    return rows


def _record(network: str, rows: list[dict[str, Any]]) -> None:
    before = json.loads(RESULTS.read_text(encoding="utf-8"))["networks"] if RESULTS.is_file() else {}
    kept = [row for row in before.get(network, []) if row["split"] not in {each["split"] for each in rows}]
    result = {
        **made_by("python benchmarks/paper_start.py DATA --weights VGG16"),
        "clips": "UCF101, 8 classes, plain clips, frozen backbones",
        "backbones": "VGG-16 at 224 px, T = 17, L = 4, DIS; of the linear probe, small: those of the recipe small",
        "epochs": EPOCHS,
        "rate": RATE,
        "resamples": RESAMPLES,
        "networks": before | {network: kept + rows},
    }
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
