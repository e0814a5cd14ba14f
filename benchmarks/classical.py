"""How many frames a second the classical systems describe, and what takes the time.

python benchmarks/classical.py DATA    # the folder that holds UCF-101/

Frames are counted by a second of one core's work, so that a busy machine measures as an idle one: one thread, 32 frames
of 128 pixels (16 for learning_to_track), from the middle of one clip of each class.  The profile is of the same work.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import torch

from actionfusion.files import write_atomically
from actionfusion.models import model_class
from actionfusion.models.model import VideoModel
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.video_source import VideoSource
from measuring import made_by

RESULTS = Path(__file__).parent / "results" / "classical.json"
SYSTEMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "dense trajectories": ("dense_trajectories", {}),
    "improved trajectories": ("dense_trajectories", {"improved": True, "encoding": "fisher"}),
    "SGSH": ("sgsh", {}),
    "Cho et al.": ("cho", {}),
    "C3D and improved trajectories": ("c3d_idt_svm", {}),
    "learning to track": ("learning_to_track", {}),
}


def main() -> None:
    """Measure each system on the same clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    videos = [min(folder.iterdir()) for folder in sorted((parser.parse_args().data / "UCF-101").iterdir())]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    for title, (name, changes) in SYSTEMS.items():
        kind = model_class(name)
        rows.append({"system": title, "model": name, "settings": dict(changes)} | _measure(
            kind(kind.Settings(num_classes=8, **changes)).eval(), videos
        ))  # fmt: skip
        print(rows[-1], flush=True)
    result = {**made_by("python benchmarks/classical.py DATA"), "videos": len(videos), "rows": rows}
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


@torch.no_grad()
def _measure(model: VideoModel, videos: list[Path]) -> dict[str, Any]:
    """Frames a second of each clip, the middle and both ends, and the largest parts of the time."""
    settings = model.settings
    cut = ClipSettings(settings.frames, streams=("rgb",), size=settings.image_size, sampling="dense")
    seconds, profile = [], cProfile.Profile()
    for video in videos:
        clip = cut_clip(VideoSource(video, cut.flow, frame_size=cut.frame_size), cut)
        features = model.features({"rgb": torch.from_numpy(clip.rgb)[None]})
        model.describe(features)
        started = time.process_time()
        model.describe(features)
        seconds.append(time.process_time() - started)
        profile.runcall(model.describe, features)
    stats = pstats.Stats(profile)
    own = {key[2].strip("{}"): row[2] for key, row in stats.stats.items()}  # type: ignore[attr-defined]
    whole = sum(own.values())
    rates = [settings.frames / each for each in seconds]
    return {
        "frames_a_second": round(statistics.median(rates), 1),
        "least": round(min(rates), 1),
        "most": round(max(rates), 1),
        "profile": {part: round(own[part] / whole, 2) for part in sorted(own, key=own.__getitem__)[:-6:-1]},
    }


if __name__ == "__main__":
    main()
