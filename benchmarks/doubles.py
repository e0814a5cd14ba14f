"""How many copies ``check`` finds among real clips, and how far unlike videos stay from being taken for copies.

    python benchmarks/doubles.py DATA    # the folder that holds UCF-101/, ut-interaction/ and weizmann/

Every 12th clip of UCF101 and every 6th of the others is copied in seven ways.  Found is a copy whose fingerprint is
within ``DUPLICATE_DISTANCE`` of its original.  Beside stand all pairs of originals from different groups (of persons,
of sequences, of UCF101's groups) that are compared in full.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.data.duplicates import Duplicate, near_duplicates
from actionfusion.files import write_atomically
from actionfusion.version import __version__
from actionfusion.video.fingerprint import (
    DUPLICATE_DISTANCE,
    PICTURE_SIZE,
    Fingerprint,
    distance,
    fingerprint_positions,
)
from actionfusion.video.reading import count_frames, iterate_frames

RESULTS = Path(__file__).parent / "results" / "doubles.json"
SETS = {"UCF-101": 12, "ut-interaction/set1": 6, "weizmann": 6}
Pictures = Sequence[npt.NDArray[np.uint8]]


def half(frames: Pictures) -> Pictures:
    """At half the size."""
    height, width = (side // 4 * 2 for side in frames[0].shape[:2])
    return [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8) for frame in frames]


def lighter(frames: Pictures) -> Pictures:
    """Contrast raised by 15 %, and 10 grey levels lighter."""
    return [np.clip(frame * 1.15 + 10, 0, 255).astype(np.uint8) for frame in frames]


COPIES: Mapping[str, tuple[Callable[[Pictures], Pictures], str, Mapping[str, str]]] = {
    "coded again, fine (H.264, CRF 23)": (list, "libx264", {"crf": "23"}),
    "coded again, coarse (H.264, CRF 36)": (list, "libx264", {"crf": "36"}),
    "half the size (CRF 28)": (half, "libx264", {"crf": "28"}),
    "lighter and of more contrast": (lighter, "libx264", {"crf": "23"}),
    "every second frame": (lambda frames: frames[::2], "libx264", {"crf": "23"}),
    "3 frames cut from each end": (lambda frames: frames[3:-3], "libx264", {"crf": "23"}),
    "the first tenth cut off": (lambda frames: frames[len(frames) // 10 :], "libx264", {"crf": "23"}),
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    clips = {name: sorted((data / name).glob("*/*.avi")) for name in SETS}
    prints = {path: _fingerprint(path) for paths in clips.values() for path in paths}
    sampled = [path for name, step in SETS.items() for path in clips[name][::step]]
    found: dict[str, list[float]] = {name: [] for name in COPIES}
    with tempfile.TemporaryDirectory() as folder:
        for path in sampled:
            frames = [frame.image for frame in iterate_frames(path)]
            for name, (change, codec, options) in COPIES.items():
                copy = _write(Path(folder, "copy.mp4"), change(frames), codec, options)
                found[name].append(distance(prints[path], _fingerprint(copy)))
            print(path.name, flush=True)
    _record(found, [_others(name, {path: prints[path] for path in paths}) for name, paths in clips.items()])


def _fingerprint(path: Path) -> Fingerprint:
    count = count_frames(path)
    made = Fingerprint.of(iterate_frames(path, wanted=fingerprint_positions(count), size=PICTURE_SIZE), count)
    assert made is not None
    return made


def _write(path: Path, frames: Pictures, codec: str, options: Mapping[str, str]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=dict(options))
        height, width = (side // 2 * 2 for side in frames[0].shape[:2])
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), "rgb24"))
            )
        container.mux(stream.encode())
    return path


def _group(name: str, path: Path) -> str:
    patterns = {"UCF-101": r"(v_.+_g\d+)_", "ut-interaction/set1": r"\d+_(\d+)_", "weizmann": r"([a-z]+)_"}
    match = re.match(patterns[name], path.name)
    assert match is not None
    return match[1]


def _others(name: str, prints: Mapping[Path, Fingerprint]) -> dict[str, Any]:
    """Pairs of different groups: how near the nearest are, and how many are taken for doubles."""
    apart = [
        (distance(prints[first], prints[second]), first, second)
        for first, second in combinations(prints, 2)
        if _group(name, first) != _group(name, second) and prints[first].scene @ prints[second].scene > 0.9
    ]
    doubles: list[Duplicate] = near_duplicates({str(path): item for path, item in prints.items()})
    across = [pair for pair in doubles if _group(name, Path(pair.first)) != _group(name, Path(pair.second))]
    return {
        "set": name,
        "videos": len(prints),
        "pairs_of_different_groups_in_like_scenes": len(apart),
        "nearest_of_them": min(apart)[0] if apart else None,
        "taken_for_doubles_across_groups": len(across),
        "doubles_within_a_group": len(doubles) - len(across),
    }


def _record(found: Mapping[str, Sequence[float]], others: Sequence[Mapping[str, Any]]) -> None:
    result = {
        "command": "python benchmarks/doubles.py DATA",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {"actionfusion": __version__, "python": platform.python_version(), "av": av.__version__},
        "threshold": DUPLICATE_DISTANCE,
        "copies": [
            {
                "change": name,
                "count": len(values),
                "found": sum(value <= DUPLICATE_DISTANCE for value in values),
                "median_distance": float(np.median(values)),
                "largest_distance": max(values),
            }
            for name, values in found.items()
        ],
        "others": list(others),
    }
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
