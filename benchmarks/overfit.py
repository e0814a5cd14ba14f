"""Can the full-size network learn eight real clips by heart, and at which learning rate?

    python benchmarks/overfit.py DATA/UCF-101 [--learning_rates 1e-5 1e-4] [--steps N] [--work DIR] [--quick]

The faithful network of 101 outputs (188.8 million parameters) with the literal head and the paper's dropout; the first
clip of each of the first eight class folders, cut by eqs 13-14; one step of plain Adam is all eight clips.  The
backbones are frozen at a random start, since no pretrained weights are at hand, and their features are computed once:
fusion, fc6 and the three LSTMs learn.  Each learning rate starts from the same weights and ends when all eight clips
are right in evaluation mode three times running, or after so many steps.  Each is written down after every evaluation.

``--quick`` takes the tiny network, to see the script run.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from actionfusion.data.loading import Batch, ClipDataset, EpochLoader, LabelledSource
from actionfusion.files import write_atomically
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.models.heads import literal_loss_floor
from actionfusion.training.features import FeatureSettings, train_from_features
from actionfusion.version import __version__
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.video_source import VideoSource

RESULTS = Path(__file__).parent / "results" / "overfit.json"
CLIPS = 8
HOLDS = 3  # evaluations running with all clips right
SEED = 0


def main() -> None:
    """Run the learning rates one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--learning_rates", nargs="+", type=float, default=[1e-4, 1e-5])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=2, help="steps between evaluations")
    parser.add_argument("--work", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    network, clip = _network(quick=arguments.quick)
    batch, seconds = _features(network, clip, arguments.data, arguments.work / ("quick" if arguments.quick else "full"))
    results = arguments.work / "overfit_quick.json" if arguments.quick else RESULTS
    start = copy.deepcopy(
        {name: value for name, value in network.state_dict().items() if not name.startswith("backbones.")}
    )
    for rate in arguments.learning_rates:
        network.load_state_dict(start, strict=False)
        for row in _learn(network, batch, rate, arguments.steps, arguments.every):
            _record(results, network, clip, batch, seconds, row)


def _network(*, quick: bool) -> tuple[FusionNetwork, ClipSettings]:
    torch.manual_seed(SEED)
    settings = FusionNetworkSettings.faithful()
    if quick:
        settings = replace(settings, backbone="narrow", image_size=64, fc6_width=64, hidden=32)
    # DIS in place of TV-L1, which takes many times as long; the paper names no engine.
    clip = ClipSettings(flow=FlowRecipe(engine="dis", bound=20.0, size=settings.image_size))
    return FusionNetwork(settings), clip


def _features(network: FusionNetwork, clip: ClipSettings, data: Path, folder: Path) -> tuple[Batch, float]:
    """The features of the eight clips, and the seconds that the backbones took for those that were not there."""
    classes = sorted(item for item in data.iterdir() if item.is_dir())[:CLIPS]
    videos = [min(folder.iterdir()) for folder in classes]
    sources = [
        LabelledSource(str(video.relative_to(data)), partial(VideoSource, video, clip.flow), target)
        for target, video in enumerate(videos)
    ]
    settings = FeatureSettings(folder=folder, views=0)
    maps, _, report = train_from_features(network, ClipDataset(sources, clip), None, settings, prepared=False)
    print(report, flush=True)
    (batch,) = EpochLoader(maps, batch_size=CLIPS, shuffle=False, workers=0).epoch(1)
    return batch, report.seconds if report.made else 0.0


def _learn(network: FusionNetwork, batch: Batch, rate: float, steps: int, every: int) -> Any:
    """Rows of growing length, one at each evaluation."""
    torch.manual_seed(SEED)  # of the dropout
    learning = [tensor for tensor in network.parameters() if tensor.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=rate, betas=(0.9, 0.999), eps=1e-8)
    history, held, seconds = [], 0, 0.0
    for step in range(steps + 1):
        if step % every == 0:
            loss, correct, largest = _measured(network, batch)
            held = held + 1 if correct == len(batch.names) else 0
            history.append({"step": step, "loss": loss, "correct": correct, "largest_probability": largest})
            reached = history[-HOLDS]["step"] if held >= HOLDS else None
            print(f"{rate:g}: step {step} loss {loss:.4f} right {correct} of {len(batch.names)}", flush=True)
            yield {"learning_rate": rate, "steps": step, "reached_at_step": reached, "seconds": round(seconds, 1)} | {
                "history": history
            }
            if reached is not None:
                return
        started = time.perf_counter()
        network.train()
        optimizer.zero_grad(set_to_none=True)
        loss_of_step = F.cross_entropy(network(features=batch.inputs), batch.targets)
        loss_of_step.backward()
        optimizer.step()
        seconds += time.perf_counter() - started


def _measured(network: FusionNetwork, batch: Batch) -> tuple[float, int, float]:
    network.eval()
    with torch.inference_mode():
        logits = network(features=batch.inputs)
    right = int((logits.argmax(1) == batch.targets).sum())
    return float(F.cross_entropy(logits, batch.targets)), right, float(logits.softmax(1).max())


def _record(
    path: Path, network: FusionNetwork, clip: ClipSettings, batch: Batch, seconds: float, row: dict[str, Any]
) -> None:
    old = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    rows = [other for other in old["rows"] if other["learning_rate"] != row["learning_rate"]] + [row]
    result = {
        "command": "python benchmarks/overfit.py DATA/UCF-101",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU; {torch.get_num_threads()} thread(s)",
        "versions": {"actionfusion": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "network": {
            "parameters": sum(tensor.numel() for tensor in network.parameters()),
            "learning": sum(tensor.numel() for tensor in network.parameters() if tensor.requires_grad),
            "classes": network.settings.num_classes,
            "head": network.settings.head,
            "head_loss_floor": literal_loss_floor(network.settings.num_classes),
            "backbones": "frozen at a random start, their features cached in float16",
            "dropout": {name: getattr(network.settings, f"dropout_{name}") for name in ("fc6", "lstm", "last")},
        },
        "clips": list(batch.names),
        "flow": clip.flow.engine,
        "backbone_seconds": max(round(seconds, 1), old.get("backbone_seconds", 0.0)),
        "rows": sorted(rows, key=lambda other: -float(other["learning_rate"])),
    }
    write_atomically(path, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
