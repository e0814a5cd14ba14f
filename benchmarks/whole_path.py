"""What surrounds the network in ``predict``: cutting a clip, many videos at once, a long film, and memory.

python benchmarks/whole_path.py DATA    # the folder that holds UCF-101/

- ``preparation``: seconds to cut the clip of a 10-second video of 320x240 (T = 17, L = 4, DIS at 224 px), with flow
  computed while the rest is decoded, against decoding first and computing flow then in OpenCV's own threads.
- ``many``: clips a second over 40 clips of UCF-101 with two networks of random weights: clip by clip; several clips cut
  at a time, in turns with the network (what ``predict`` does on a CPU); and cut while the network works.
- ``film``: seconds to cut the clip of a film by seeking, against decoding all of it.
- ``memory``: the peak of a process that predicts a 10-second clip, and a film of two hours, both small pictures.

What is compared is measured in turn, and ``--only`` measures some parts anew.  ``--quick`` takes less of everything and
writes nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

from actionfusion.errors import VideoError
from actionfusion.files import write_atomically
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models.fusion_network import FusionNetwork
from actionfusion.training.recipe import load_recipe
from actionfusion.version import __version__
from actionfusion.video import whole_files
from actionfusion.video.clip import Clip, ClipSettings, cut_clip
from actionfusion.video.clip_reader import clips_ahead
from actionfusion.video.flow import FlowRecipe, compute_flow
from actionfusion.video.reading import iterate_frames, read_frames
from actionfusion.video.seeking import scan_packets
from actionfusion.video.video_source import VideoSource
from measuring import Cost, Figure, Neighbours, in_turn, machine, ratio, rounded, spread

RESULTS = Path(__file__).parent / "results" / "whole_path.json"
PARTS = ["preparation", "many", "film", "memory"]
FULL_SIZE = ClipSettings(frames=17, flow_frames=4, flow=FlowRecipe("dis", size=224))
CODECS = {"mpeg4 in AVI": ("clip.avi", "mpeg4", {"b": "700k"}), "H.264 in MP4": ("clip.mp4", "libx264", {"crf": "23"})}


class FirstDecodeThenFlow(VideoSource):
    """The same clip, by one step after another."""

    def read(self, frames: Sequence[int], fields: Sequence[int]) -> tuple[Any, Any, Any]:
        """As ``ClipSource.read``."""
        needed = sorted({*frames, *fields, *(start + 1 for start in fields)})
        video = read_frames(self._path, needed, size=self.recipe.size, strict=False)
        self._verify(video.num_frames)
        row = {index: place for place, index in enumerate(needed)}
        rows = [row[index] for index in frames]
        return (
            video.images[rows],
            compute_flow(video.images, [row[at] for at in fields], self.recipe),
            video.times[rows],
        )


def write_film(path: Path, pictures: Iterator[np.ndarray], codec: str, options: dict[str, str]) -> Path:
    """Encode pictures of one size at 30 frames a second."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=30, options=options)
        for number, picture in enumerate(pictures):
            if not number:
                stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def pictures_of(clips: Sequence[Path], count: int) -> Iterator[np.ndarray]:
    """So many pictures of 320x240, from one clip after another, again and again."""
    return islice((frame.image for clip in cycle(clips) for frame in iterate_frames(clip)), count)


def cut(source: type[VideoSource], settings: ClipSettings, path: Path, *, seek: bool = False) -> Clip:
    """A clip of a file that this process does not know yet."""
    whole_files._known.clear()
    return cut_clip(source(path, settings.flow, seek=seek), settings)


def preparation(folder: Path, clips: Sequence[Path], repetitions: int) -> list[Figure]:
    """One clip at a time."""
    rows = []
    for name, (file, codec, options) in CODECS.items():
        path = write_film(folder / file, pictures_of(clips, 300), codec, options)
        first, second = cut(FirstDecodeThenFlow, FULL_SIZE, path), cut(VideoSource, FULL_SIZE, path)
        assert np.array_equal(first.rgb, second.rgb)
        assert np.array_equal(first.flow, second.flow)
        cases: dict[str, Callable[[], object]] = {
            "one_after_another": partial(cut, FirstDecodeThenFlow, FULL_SIZE, path),
            "overlapped": partial(cut, VideoSource, FULL_SIZE, path),
            "decoding_alone": partial(read_frames, path, []),
            "decoding_and_conversion": partial(read_frames, path, _needed(), size=224),
        }
        rows.append({"video": name, "seconds": _seconds(in_turn(cases, repetitions))})
    return rows


def _needed() -> list[int]:
    """The 85 frames, in groups of 5, that the clip of 300 frames is made of."""
    return [17 * number - 1 + offset for number in range(1, 18) for offset in range(-2, 3)]


def _seconds(costs: dict[str, list[Cost]]) -> Figure:
    return {name: spread([cost.seconds for cost in taken]) for name, taken in costs.items()}


def random_recognizer(recipe: str) -> Recognizer:
    """A network of random weights for the 101 classes of UCF-101."""
    fitted = load_recipe(recipe).fitted(101)
    torch.manual_seed(0)
    return Recognizer(FusionNetwork(fitted.network), fitted.clip, [str(number) for number in range(101)])


def many(clips: Sequence[Path], repetitions: int) -> list[Figure]:
    """Many videos, one by one or with the next clips cut meanwhile."""
    rows = []
    for recipe in ("tiny", "scratch"):
        recognizer = random_recognizer(recipe)

        def plain(recognizer: Recognizer = recognizer) -> None:
            for path in clips:
                recognizer.probabilities([cut(FirstDecodeThenFlow, recognizer.clip_settings, path)])

        def ahead(size: int, *, overlap: bool = False, recognizer: Recognizer = recognizer) -> None:
            whole_files._known.clear()
            with closing(clips_ahead(recognizer.clip, clips, overlap=overlap)) as ready:
                while some := list(islice(ready, size)):
                    recognizer.probabilities([clip for _, clip in some if not isinstance(clip, VideoError)])

        cases: dict[str, Callable[[], object]] = {
            "one_by_one": plain,
            "in_turns": partial(ahead, 1),
            "in_turns_four_clips_a_batch": partial(ahead, 4),
            "overlapped": partial(ahead, 1, overlap=True),
        }
        costs = in_turn(cases, repetitions)
        rates = {name: [len(clips) / cost.seconds for cost in taken] for name, taken in costs.items()}
        rows.append(
            {
                "recipe": recipe,
                "clips": len(clips),
                "clips_a_second": {name: spread(taken) for name, taken in rates.items()},
                "in_turns_over_one_by_one": ratio(rates["in_turns"], rates["one_by_one"]),
            }
        )
    return rows


def film(folder: Path, clips: Sequence[Path], minutes: int, repetitions: int) -> Figure:
    """One long video."""
    count = minutes * 60 * 30
    options = {"preset": "veryfast", "g": "60"}
    path = write_film(folder / "film.mp4", pictures_of(clips, count), "libx264", options)
    first, second = cut(VideoSource, FULL_SIZE, path), cut(VideoSource, FULL_SIZE, path, seek=True)
    assert np.array_equal(first.rgb, second.rgb)
    assert np.array_equal(first.flow, second.flow)
    cases = {
        "decoding_all": partial(cut, VideoSource, FULL_SIZE, path),
        "seeking": partial(cut, VideoSource, FULL_SIZE, path, seek=True),
        "looking_through_the_packets": partial(scan_packets, path),
    }
    costs = in_turn(cases, repetitions)
    return {
        "minutes": minutes,
        "frames": count,
        "frames_between_key_frames": 60,
        "seconds": _seconds(costs),
        "decoding_all_over_seeking": ratio(*([cost.seconds for cost in costs[name]] for name in list(cases)[:2])),
    }


def memory(folder: Path, minutes: int) -> list[Figure]:
    """Peaks of processes that each predict one video of 64x48."""
    texture = np.random.default_rng(0).integers(0, 256, (48, 128, 3), np.uint8)
    rows = []
    for suffix, codec, options in (("avi", "mpeg4", {}), ("mp4", "libx264", {"preset": "ultrafast", "g": "250"})):
        row: Figure = {"video": f"{codec} in {suffix.upper()}"}
        for name, count in (("10 seconds", 300), (f"{minutes} minutes", minutes * 60 * 30)):
            moving = (texture[:, number % 64 : number % 64 + 64] for number in range(count))
            path = write_film(folder / f"{count}.{suffix}", moving, codec, options)
            command = [sys.executable, __file__, str(path), "--child"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row[name] = {"frames": count, "peak_megabytes": float(done.stdout)}
        rows.append(row)
    return rows


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        random_recognizer("tiny").predict(arguments.data)
        print(rounded(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1000 if sys.platform == "linux" else 1e6)))
        return
    clips = sorted((arguments.data / "UCF-101").rglob("*.avi"))
    some = clips[:: max(len(clips) // 40, 1)][: 4 if arguments.quick else 40]
    repetitions = 1 if arguments.quick else arguments.repetitions
    figures: Figure = json.loads(RESULTS.read_text()) if RESULTS.exists() and not arguments.quick else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], Any]] = {
            "preparation": partial(preparation, folder, some, repetitions),
            "many": partial(many, some, repetitions),
            "film": partial(film, folder, some, 1 if arguments.quick else 10, repetitions),
            "memory": partial(memory, folder, 1 if arguments.quick else 120),
        }
        for part in arguments.only:
            neighbours = Neighbours()
            rows = parts[part]()
            figures[part] = {"neighbours_share": neighbours.share(), "rows": rows}
    result = figures | {
        "command": "python benchmarks/whole_path.py DATA",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {
            "actionfusion": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "pyav": av.__version__,
        },
        "threads": {"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads()},
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if not arguments.quick:
        write_atomically(RESULTS, text)


if __name__ == "__main__":
    main()
