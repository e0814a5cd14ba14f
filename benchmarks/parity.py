"""The full-size networks in OpenVINO and ONNX Runtime beside eager PyTorch: the same probabilities, on real clips.

    python benchmarks/parity.py DATA [--videos 3] [--work DIR]

DATA holds UCF-101's folders of videos.  Weights are random: no trained network of this size is at hand, and a spread
answer is all that a comparison wants, so gains and head are drawn wide enough for one.  Each runtime goes the way of a
user, through a run folder, which DIR keeps for another call (5 GB for each network); else it is removed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actionfusion.files import write_atomically
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes.packages import version_of
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.run_folder import create_run
from actionfusion.video.clip import Clip, ClipSettings
from actionfusion.video.flow import FlowRecipe

RESULTS = Path(__file__).parent / "results" / "parity.json"
CLASSES = 101
CLIP = ClipSettings(frames=17, flow_frames=4, flow=FlowRecipe("dis", 20.0, 224))
NETWORKS = {
    "faithful": FusionNetworkSettings.faithful(CLASSES),
    "practical": FusionNetworkSettings.practical(CLASSES),
}
RUNTIMES = ("openvino", "onnx")


def main() -> None:
    """Compare, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--videos", type=int, default=3)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    folders = sorted(folder for folder in arguments.data.iterdir() if folder.is_dir())[: arguments.videos]
    videos = [sorted(folder.glob("*.avi"))[0] for folder in folders]
    rows = []
    for name, settings in NETWORKS.items():
        with tempfile.TemporaryDirectory() as temporary:
            run = (arguments.work or Path(temporary)) / name
            if not run.exists():
                _make_run(run, settings)
            rows += _compare(name, run, videos)
    result = {
        "command": f"python benchmarks/parity.py DATA --videos {arguments.videos}",
        "what": "largest difference of a probability from eager PyTorch, fp32, random weights",
        "videos": [video.name for video in videos],
        "versions": {package: version_of(package) for package in ("torch", "openvino", "onnxruntime", "onnx")},
        "rows": rows,
    }
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


def _make_run(path: Path, settings: FusionNetworkSettings) -> None:
    torch.manual_seed(0)
    network = FusionNetwork(settings)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith(("gain", "shift")):
                value.add_(torch.randn_like(value))
    labels = [f"class {number}" for number in range(CLASSES)]
    create_run(path, clip=CLIP, network=settings, labels=labels, further={}).save_weights(network)


def _compare(name: str, run: Path, videos: Sequence[Path]) -> list[dict[str, Any]]:
    eager = Recognizer.load(run, runtime="torch", device="cpu")
    clips = [eager.clip(video) for video in videos]
    wanted = _answers(eager, clips)
    del eager
    rows = []
    for runtime in RUNTIMES:
        started = time.perf_counter()
        Recognizer.load(run, runtime=runtime)
        prepared = time.perf_counter()
        recognizer = Recognizer.load(run, runtime=runtime)
        loaded = time.perf_counter()
        made = _answers(recognizer, clips)
        del recognizer
        rows.append(
            {
                "network": name,
                "runtime": runtime,
                "largest_difference": float(np.abs(made - wanted).max()),
                "same_label": int((made.argmax(1) == wanted.argmax(1)).sum()),
                "clips": len(clips),
                "probabilities": {"least": float(wanted.min()), "largest": float(wanted.max())},
                "largest_difference_between_clips": float(np.ptp(wanted, axis=0).max()),
                "seconds_first_load": round(prepared - started, 1),
                "seconds_later_load": round(loaded - prepared, 1),
            }
        )
        print(rows[-1])
    return rows


def _answers(recognizer: Recognizer, clips: Sequence[Clip]) -> np.ndarray:
    return np.concatenate([recognizer.probabilities([clip]) for clip in clips])


if __name__ == "__main__":
    main()
