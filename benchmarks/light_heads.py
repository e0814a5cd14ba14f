"""What was tried for the recipe ``small``: heads on one light backbone's features, chosen on validation groups.

    python benchmarks/light_heads.py DATA [--only NAME ...] [--seeds 0 1] [--work DIR]

DATA holds ``UCF-101`` and ``ucfTrainTestlist``.  Official list 1's training part (192 clips, 12 groups a class) is
divided into six folds by group: a head is trained on the augmented views of five, and asked about the plain clips of
the sixth.  **The test part is not looked at.**  The linear probe is solved in the same folds.  The interval of a
difference is a bootstrap over groups.  Features that are there are not computed again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import GroupKFold
from torch import Tensor

from actionfusion.data.dataset import DataSettings
from actionfusion.data.loading import Batch, ClipDataset, Step
from actionfusion.evaluation.metrics import Accuracy
from actionfusion.files import write_atomically
from actionfusion.models.backbones import BACKBONES
from actionfusion.models.fusion_network import FusionNetwork
from actionfusion.models.probe import ProbeHead
from actionfusion.models.solving import DescribedClips
from actionfusion.streams import StreamName
from actionfusion.training.distributed import Processes
from actionfusion.training.features import feature_work, fill_features
from actionfusion.training.learner import Learner
from actionfusion.training.plan import make_plan
from actionfusion.training.recipe import Recipe, load_recipe
from light_parts import BACKBONES as PARTS
from light_parts import LastStageAndNormLearn, LastStageLearns, Mixed, differences
from measuring import made_by
from trained import RESAMPLES, group_interval

RESULTS = Path(__file__).parent / "results" / "light_heads.json"
CHOSEN = "small"
FOLDS = 6
_OF_FLOW = {"engine", "size"}
_OF_NETWORK = {"backbone", "streams"}


@dataclass(frozen=True)
class Trial:
    """What differs from the recipe: in the features, in the head, in its training.

    Attributes:
        kind: of network.
        with_changes: the features' change from frame to frame stands beside them.
        averaged: the scores are averaged with the recipe's own.
    """

    features: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    views: int = 3
    epochs: int = 60
    drop_stream: float = 0.0
    clips_a_class: int | None = None  # to learn from, drawn at random from those of a fold
    kind: Callable[..., FusionNetwork] = FusionNetwork
    with_changes: bool = False
    averaged: bool = False


_BEFORE_LAST: Mapping[str, Any] = {
    "features": {"backbone": "lite0_before_last"},
    "network": {"backbone": "efficientnet_lite0"},
    "training": {"backbone_rate_scale": 0.1},
    "epochs": 6,
}
_DIFFERENCES: Mapping[str, Any] = {"backbone": "lite0_of_differences", "streams": "rgb"}
_LSTM: Mapping[str, Any] = {"temporal_head": "lstm", "hidden": 64, "dropout_lstm": 0.25}
TRIALS: Mapping[str, Trial] = {
    CHOSEN: Trial(),
    "the streams not normalised": Trial(network={"norm_streams": False}),
    "the streams normalised together": Trial(network={"norm_streams": False, "norm_inputs": True}),
    "mean of a channel, not its largest value": Trial(network={"conv_reduce": "average"}),
    "LSTMs, not the mean over frames": Trial(network=_LSTM),
    "fc6 of 128 beside": Trial(network={"branches": "both", "fc6_width": 128}),
    "LSTMs, and fc6 of 128 beside": Trial(network={**_LSTM, "branches": "both", "fc6_width": 128}),
    "streams added": Trial(network={"fusion": "sum", "norm_streams": False, "norm_inputs": True}),
    "RGB alone": Trial(network={"streams": "rgb"}),
    "flow alone": Trial(network={"streams": "flow"}),
    "no dropout": Trial(network={"dropout_last": 0.0}),
    "dropout 0.5": Trial(network={"dropout_last": 0.5}),
    "no label smoothing": Trial(training={"label_smoothing": 0.0}),
    "a stream dropped in 30 % of the steps": Trial(drop_stream=0.3),
    "mixup": Trial(kind=Mixed),
    "24 epochs": Trial(epochs=24),
    "6 epochs": Trial(epochs=6),
    "one view": Trial(views=1),
    "changes from frame to frame beside": Trial(network={"backbone": "lite0_with_changes"}, with_changes=True),
    "the map of stride 16": Trial(features={"backbone": "lite0_stride16"}),
    "the last stage learns, 6 epochs": Trial(**_BEFORE_LAST, kind=LastStageLearns),
    "the last stage and its batch norm learn, 6 epochs": Trial(**_BEFORE_LAST, kind=LastStageAndNormLearn),
    "RGB difference alone": Trial(features=_DIFFERENCES),
    "RGB difference, scores averaged with small": Trial(features=_DIFFERENCES, averaged=True),
    "224 px": Trial(features={"size": 224}),
    "two flow frames around each frame, not four": Trial(features={"flow_frames": 2}),
    "the flow's first layer random": Trial(features={"flow_start": "random"}),
    **{f"{count} clips a class": Trial(clips_a_class=count) for count in (2, 4, 8, 16)},
    "flow by DIS, fast preset": Trial(features={"engine": "dis-fast"}),
    "flow by DIS, medium preset": Trial(features={"engine": "dis"}),
    "flow by TV-L1": Trial(features={"engine": "tvl1"}),
}


def main() -> None:
    """Run what is asked for, and write it down trial by trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--work", type=Path, default=Path("runs/light_heads"))
    arguments = parser.parse_args()
    cast("dict[str, str]", BACKBONES).update(PARTS)
    known: dict[str, Clips] = {}
    own: list[npt.NDArray[np.float64]] = []
    correct: dict[str, npt.NDArray[np.float64]] = {}
    rows: list[dict[str, Any]] = []
    for name in [CHOSEN, *(name for name in arguments.only if name != CHOSEN)]:
        trial = TRIALS[name]
        key = json.dumps(trial.features, sort_keys=True)
        if key not in known:
            known.clear()  # one set of features is in memory at a time
            known[key] = load_clips(arguments.data, trial, arguments.work)
        clips = known[key]
        runs = [cross_validate(trial, clips, seed) for seed in arguments.seeds]
        own = own or runs  # the recipe's are the first
        if trial.averaged:
            runs = [(run + beside) / 2 for run, beside in zip(runs, own, strict=True)]
        correct[name] = np.array([(run.argmax(1) == clips.targets.numpy()) for run in runs], np.float64)
        likelihood = [float(-np.log(run[np.arange(len(run)), clips.targets]).mean()) for run in runs]
        rows.append(_row(name, correct, clips, arguments.seeds) | {"log_loss": float(np.mean(likelihood))})
        print(f"{name}: {rows[-1]['accuracy']:.3f}, log loss {rows[-1]['log_loss']:.3f}", flush=True)
        if trial == Trial(features=trial.features, clips_a_class=trial.clips_a_class, views=trial.views):
            for changes in (False, True):
                beside = f"linear probe{' with changes' if changes else ''}, {name}"
                seeds = arguments.seeds if trial.clips_a_class else arguments.seeds[:1]
                correct[beside] = np.array([probe(trial, clips, seed, changes=changes) for seed in seeds], np.float64)
                rows.append(_row(beside, correct, clips, seeds))
                print(f"{beside}: {rows[-1]['accuracy']:.3f}", flush=True)
        _record(rows)


@dataclass(frozen=True)
class Clips:
    """Features in memory of the training part: by stream ``[V, N, T, D, h, w]``, the last view the plain clips."""

    recipe: Recipe
    features: Mapping[str, Tensor]
    targets: Tensor
    groups: tuple[str, ...]
    videos: tuple[str, ...]


def load_clips(data: Path, trial: Trial, work: Path) -> Clips:
    """Compute the features of the training part, augmented and plain, or read those that are there."""
    recipe = load_recipe("small")
    flow = replace(recipe.clip.flow, **{name: trial.features[name] for name in trial.features.keys() & _OF_FLOW})
    recipe = recipe.changed(
        data=DataSettings(root=data / "UCF-101", dataset="ucf101", split="official-1", validation="none"),
        clip=replace(recipe.clip, flow=flow, flow_frames=trial.features.get("flow_frames", recipe.clip.flow_frames)),
        network=replace(recipe.network, **{name: trial.features[name] for name in trial.features.keys() & _OF_NETWORK}),
        features=replace(recipe.features, cache=False, folder=work / "features"),
        flow_start=trial.features.get("flow_start", recipe.flow_start),
    )
    plan = make_plan(recipe, Processes("cpu"))
    network = plan.make_network()
    plan.start(network)
    learn, _ = plan.clips()
    plain = ClipDataset(learn.sources, learn.settings)
    work_wanted = feature_work(network, learn, plain, recipe.features, prepared=False)
    print(fill_features(network, work_wanted, work / "features", workers=1), flush=True)
    stores = work_wanted.stores(work / "features")
    files = {source.name: work_wanted.files[source.name] for source in learn.sources}
    features = {
        stream: torch.stack(
            [
                torch.stack([store.read(name, view, file.identity) for name, file in files.items()])
                for view in (*range(recipe.features.views), None)
            ]
        )
        for stream, store in stores.items()
    }
    group_of = {entry.path: str(entry.group) for entry in plan.videos.listing.entries}
    names = tuple(source.name for source in learn.sources)
    targets = torch.tensor([source.target for source in learn.sources])
    return Clips(plan.recipe, features, targets, tuple(group_of[name] for name in names), names)


def folds(clips: Clips) -> list[tuple[Tensor, Tensor]]:
    """Divide the clips by the number of their group, which a scene of each class has."""
    numbers = [group.rsplit("/", 1)[-1] for group in clips.groups]
    divided = GroupKFold(FOLDS).split(numbers, groups=numbers)
    return [(torch.from_numpy(learn), torch.from_numpy(held)) for learn, held in divided]


def _drawn(trial: Trial, clips: Clips, learn: Tensor, seed: int) -> Tensor:
    """Leave so many clips of each class as the trial learns from."""
    if trial.clips_a_class is None:
        return learn
    order = torch.from_numpy(np.random.default_rng(seed).permutation(learn.numpy()))
    of_class = [order[clips.targets[order] == target] for target in range(8)]
    return torch.cat([each[: trial.clips_a_class] for each in of_class])


def cross_validate(trial: Trial, clips: Clips, seed: int) -> npt.NDArray[np.float64]:
    """Train a head for each fold; give the probabilities ``[N, K]`` of the clips that it has not seen."""
    answers = np.zeros((len(clips.targets), 8))
    for learn, held in folds(clips):
        answers[held] = _trained(trial, clips, _drawn(trial, clips, learn, seed), held, seed)
    return answers


def _trained(trial: Trial, clips: Clips, learn: Tensor, held: Tensor, seed: int) -> npt.NDArray[np.float64]:
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network = trial.kind(replace(clips.recipe.network, **trial.network))
    network.freeze_backbones("all")
    training = replace(clips.recipe.training, **trial.training)
    learner, size = Learner(network, training), training.batch_size
    steps = trial.epochs * -(-len(learn) // size)
    done = 0
    for epoch in range(trial.epochs):
        for chosen in torch.from_numpy(random.permutation(learn.numpy())).split(size):
            inputs = _of(clips, network.reads, epoch % trial.views, chosen, with_changes=trial.with_changes)
            if random.random() < trial.drop_stream:
                inputs = inputs | {(dropped := random.choice(list(inputs))): torch.zeros_like(inputs[dropped])}
            batch = Batch(inputs, clips.targets[chosen], tuple(clips.videos[int(each)] for each in chosen), cached=True)
            learner.step(Step((batch,), len(chosen)), training.stages[0].rate_at(done / steps))
            done += 1
    network.eval()
    with torch.inference_mode():
        logits = network(features=_of(clips, network.reads, -1, held, with_changes=trial.with_changes))
    return np.asarray(network.scores(logits).double().numpy())


def _of(
    clips: Clips, streams: tuple[str, ...], view: int, chosen: Tensor, *, with_changes: bool = False
) -> dict[StreamName, Tensor]:
    found = {cast("StreamName", stream): clips.features[stream][view, chosen].float() for stream in streams}
    if with_changes:
        found = {stream: torch.cat((maps, differences(maps).abs()), 2) for stream, maps in found.items()}
    return found


def probe(trial: Trial, clips: Clips, seed: int, *, changes: bool) -> npt.NDArray[np.bool_]:
    """Solve the linear probe in each fold, on the same views; tell which held-out clips are correct."""
    channels = {stream: features.shape[3] for stream, features in clips.features.items()}
    head = ProbeHead(channels, 8, changes=changes)  # type: ignore[arg-type]
    everything = torch.arange(len(clips.targets))
    described = [head.describe(_of(clips, tuple(channels), view, everything)) for view in (*range(trial.views), -1)]
    correct = np.zeros(len(clips.targets), bool)
    for whole, held in folds(clips):
        learn = _drawn(trial, clips, whole, seed)
        given = DescribedClips(
            torch.cat([values[learn] for values in described[:-1]]),
            clips.targets[learn].repeat(trial.views),
            tuple(clips.videos[int(each)] for each in learn) * trial.views,
            tuple(clips.groups[int(each)] for each in learn) * trial.views,
        )
        head.solve(given)
        with torch.inference_mode():
            answers = head.answer_described(described[-1][held]).argmax(1)
        correct[held] = (answers == clips.targets[held]).numpy()
    return correct


def _row(name: str, correct: Mapping[str, npt.NDArray[np.float64]], clips: Clips, seeds: list[int]) -> dict[str, Any]:
    own = correct[name]
    difference = own.mean(0) - correct[CHOSEN].mean(0)
    return {
        "trial": name,
        "seeds": [
            {"seed": seed} | Accuracy(int(run.sum()), len(run)).as_json() for seed, run in zip(seeds, own, strict=True)
        ],
        "accuracy": float(own.mean()),
        "less_small": float(difference.mean()),
        "difference_interval_95_by_group": list(group_interval(difference, clips.groups)),
    }


def _record(rows: list[dict[str, Any]]) -> None:
    before = json.loads(RESULTS.read_text(encoding="utf-8"))["trials"] if RESULTS.is_file() else []
    here = {row["trial"] for row in rows}
    result = {
        **made_by("python benchmarks/light_heads.py DATA"),
        "clips": "UCF101, 8 classes, training part of official list 1, 6 folds by group",
        "resamples": RESAMPLES,
        "trials": [row for row in before if row["trial"] not in here] + rows,
    }
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
