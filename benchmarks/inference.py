"""How fast a video is answered: each runtime beside plain eager PyTorch and beside what the machine can do.

    python benchmarks/inference.py DATA [--work DIR] [--rounds N] [--repetitions N] [--quick]

The full-size faithful network (188.8 million parameters; random weights, which cost the same) on one clip of T = 17
frames at 224 px with DIS flow, cut from a video of 10 seconds at 320x240 that is made of clips of DATA/UCF-101.  Every
case is a process of its own, so that its memory and its start-up are its own; the cases are gone through in rounds, and
medians are over all rounds.  Int8 is calibrated on eight clips of DATA/UCF-101; of random weights its gate of accuracy
says nothing, and its speed is that of any.

The machine's peak is the fastest of large matrix products and convolutions by every library at hand, in the same run.
FLOPs are the network's own count, whatever a runtime does to need fewer.

``--quick`` takes the tiny network, to see the script run; it writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import Figure, Neighbours, machine, ratio, rounded, seconds_of, spread

if TYPE_CHECKING:
    from actionfusion import Recipe

RESULTS = Path(__file__).parent / "results" / "inference.json"
SECONDS, RATE, WIDTH, HEIGHT = 10, 25, 320, 240
# Name, what it is in words, runtime and precision.
CASES: dict[str, tuple[str, str, str]] = {
    "plain": ("plain eager PyTorch, channels first", "torch", "fp32"),
    "torch": ("eager PyTorch as it ships here, channels last", "torch", "fp32"),
    "torch_bf16": ("eager PyTorch", "torch", "bf16"),
    "onnx": ("ONNX Runtime", "onnx", "fp32"),
    "openvino": ("OpenVINO", "openvino", "fp32"),
    "openvino_bf16": ("OpenVINO", "openvino", "bf16"),
    "openvino_int8": ("OpenVINO", "openvino", "int8"),
}
PACKAGES = ("torch", "openvino", "onnxruntime", "onnx", "nncf")


def main() -> None:
    """Measure every case, or, as a child, one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/inference"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", choices=["peak", "prepare", *CASES], help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child = arguments.child
        special = {"peak": measure_peaks, "prepare": lambda: _prepare(arguments)}
        print(json.dumps(special[child]() if child in special else _measure(child, arguments)))
        return
    print("prepare", json.dumps(_child("prepare", arguments)), flush=True)
    neighbours = Neighbours()
    peaks = [_child("peak", arguments)]
    rounds: dict[str, list[Figure]] = {name: [] for name in arguments.only}
    for _ in range(arguments.rounds):
        for name in arguments.only:
            rounds[name].append(_child(name, arguments))
            print(name, json.dumps(rounds[name][-1]), flush=True)
        peaks.append(_child("peak", arguments))
    # A peak is what the machine can do at most: the best of all goes.
    peak = {kind: max(each[kind] for each in peaks) for kind in peaks[0]}
    result = _result(arguments, rounds, peak, neighbours.share())
    text = json.dumps(result, indent=1) + "\n"
    if arguments.quick:
        print(text)
        return
    from actionfusion.files import write_atomically  # noqa: PLC0415

    write_atomically(RESULTS, text)


def _child(name: str, arguments: argparse.Namespace) -> Figure:
    words = [sys.executable, __file__, str(arguments.data), "--work", str(arguments.work), "--child", name]
    words += ["--repetitions", str(arguments.repetitions), *(["--quick"] if arguments.quick else [])]
    words += ["--only", *arguments.only]
    words += ["--started", str(time.time())]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def _run_folder(arguments: argparse.Namespace) -> Path:
    return arguments.work / ("tiny" if arguments.quick else "full")  # type: ignore[no-any-return]


def _video(arguments: argparse.Namespace) -> Path:
    return arguments.work / "ten_seconds.mp4"  # type: ignore[no-any-return]


def _prepare(arguments: argparse.Namespace) -> dict[str, float]:
    """A run folder with random weights, its prepared runtimes, and the video; what is there is taken as it is.

    Returns:
        Seconds that each runtime took, whole clips and streams together.
    """
    from actionfusion import Recipe, Recognizer  # noqa: PLC0415
    from actionfusion.models import FusionNetworkSettings  # noqa: PLC0415
    from actionfusion.video.clip import ClipSettings  # noqa: PLC0415
    from actionfusion.video.flow import FlowRecipe  # noqa: PLC0415

    arguments.work.mkdir(parents=True, exist_ok=True)
    if not _video(arguments).is_file():
        join_clips(arguments.data / "UCF-101", _video(arguments))
    write_clips(arguments.data.resolve() / "UCF-101", _clips(arguments))
    path = _run_folder(arguments)
    if not path.exists():
        kind = FusionNetworkSettings.tiny if arguments.quick else FusionNetworkSettings.faithful
        clip = ClipSettings(flow=FlowRecipe("dis", size=kind().image_size))
        make_run(path, Recipe(clip=clip, network=kind()), _clips(arguments))
    taken = {}
    for name in arguments.only:
        _, runtime, precision = CASES[name]
        started = time.perf_counter()
        _ = Recognizer.load(path, runtime=runtime, precision=precision, root=_clips(arguments)).stepper
        taken[name] = rounded(time.perf_counter() - started)
    return taken


def make_run(path: Path, recipe: Recipe, clips: Path) -> None:
    """Make a run folder of a network for 101 classes, random but for the backbones that the recipe has pretrained.

    Args:
        path: the folder.
        recipe: of the network and its clips.
        clips: the table that ``write_clips`` wrote, the split of the run.
    """
    import torch  # noqa: PLC0415

    from actionfusion import DataSettings  # noqa: PLC0415
    from actionfusion.data.dataset import open_data  # noqa: PLC0415
    from actionfusion.data.recorded_split import write_split  # noqa: PLC0415
    from actionfusion.models import FusionNetwork  # noqa: PLC0415
    from actionfusion.run_folder import SPLIT, create_run  # noqa: PLC0415
    from actionfusion.training.plan import describe_data  # noqa: PLC0415

    videos = open_data(DataSettings(clips, "csv", "column", validation="none"))
    labels = [*videos.listing.labels, *(f"class {number}" for number in range(len(videos.listing.labels), 101))]
    recipe = recipe.fitted(101)
    torch.manual_seed(0)
    network = FusionNetwork(recipe.network)
    if recipe.pretrained is not None:
        network.load_pretrained(recipe.pretrained, flow_start=recipe.flow_start)
    further = {"data": describe_data(videos)}
    run = create_run(path, model="fusion", clip=recipe.clip, network=recipe.network, labels=labels, further=further)
    run.save_weights(network)
    write_split(path / SPLIT, videos)


def _clips(arguments: argparse.Namespace) -> Path:
    return arguments.work / "clips.csv"  # type: ignore[no-any-return]


def write_clips(root: Path, path: Path) -> None:
    """Eight clips to calibrate on and eight for the gate, each of another class."""
    videos = [sorted(folder.glob("*.avi"))[0] for folder in sorted(root.iterdir()) if folder.is_dir()]
    rows = [(video, "train") for video in videos[:8]]
    rows += [(sorted(video.parent.glob("*.avi"))[1], "test") for video in videos[:8]]
    lines = [f"{video},{video.parent.name},{part}" for video, part in rows]
    path.write_text("\n".join(["path,label,split", *lines]) + "\n", encoding="utf-8")


def join_clips(root: Path, path: Path) -> None:
    """Make a video of 10 s of the first clips of a folder, H.264 with its default key frames."""
    import av  # noqa: PLC0415

    from actionfusion.video.reading import iterate_frames  # noqa: PLC0415

    written = 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for video in sorted(root.glob("*/*.avi")):
            for frame in iterate_frames(video):
                picture = av.VideoFrame.from_ndarray(frame.image, format="rgb24")
                container.mux(stream.encode(picture.reformat(WIDTH, HEIGHT)))
                written += 1
                if written == SECONDS * RATE:
                    container.mux(stream.encode())
                    return


def _measure(name: str, arguments: argparse.Namespace) -> Figure:
    """The child's work: start, answer, and be timed."""
    from actionfusion import Recognizer  # noqa: PLC0415
    from actionfusion.inference.speed.measured import step_seconds  # noqa: PLC0415

    _, runtime, precision = CASES[name]
    recognizer = Recognizer.load(_run_folder(arguments), runtime=runtime, precision=precision)
    if name == "plain":
        for backbone in recognizer.network.all_backbones().values():
            backbone.channels_last = False
    recognizer.predict(_video(arguments))
    start_up = time.time() - arguments.started
    clip = recognizer.clip(_video(arguments))
    batch = {name: array[None] for name, array in clip.inputs(recognizer.clip_settings.streams).items()}
    network = seconds_of(lambda: recognizer.scores(batch), arguments.repetitions)
    whole = seconds_of(lambda: recognizer.predict(_video(arguments)), arguments.repetitions)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report: Figure = {"network": network, "whole": whole, "start_up": start_up, "memory": memory}
    if name != "plain":
        report["step"] = step_seconds(recognizer, clip, arguments.repetitions)
    return report


def measure_peaks() -> Figure:
    """Operations a second of the fastest large product, by precision; every library at hand is tried."""
    import torch  # noqa: PLC0415

    from actionfusion.inference.speed.peaks import machine_peaks  # noqa: PLC0415

    side = 4096
    found = machine_peaks(torch.device("cpu"), side=side, pictures=17, repetitions=5)
    left = torch.randn(side, side)
    product = min(seconds_of(lambda: left @ left, 3))
    return found | {"torch_mm_fp32": 2 * side**3 / product}


def _result(
    arguments: argparse.Namespace, rounds: dict[str, list[Figure]], peak: dict[str, float], others: float
) -> Figure:
    from actionfusion.run_folder import open_run  # noqa: PLC0415

    folder = open_run(_run_folder(arguments))
    flops = folder.flops
    gathered = {
        name: {part: gathered_from(each, part) for part in ("network", "whole", "step")}
        for name, each in rounds.items()
    }
    plain = gathered["plain"]["network"]
    rows = []
    for name, reports in rounds.items():
        words, runtime, precision = CASES[name]
        seconds = gathered[name]["network"]
        median = spread(seconds)["median"]
        row: Figure = {
            "case": name,
            "what": words,
            "runtime": runtime,
            "precision": precision,
            "network_seconds": spread(seconds),
            "times_as_fast_as_plain": ratio(plain, seconds)["median"],
            "tflops": rounded(flops / median / 1e12),
            "share_of_peak": rounded(flops / median / peak[precision]),
            "whole_over_network": ratio(gathered[name]["whole"], seconds),
            "peak_memory_bytes": max(report["memory"] for report in reports),
            "start_up_seconds": spread([report["start_up"] for report in reports]),
        }
        if steps := gathered[name]["step"]:
            row |= {"step_seconds": spread(steps), "window_over_step": ratio(seconds, steps)["median"]}
        rows.append(row)
    return {
        "command": "python benchmarks/inference.py DATA",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "cores": os.cpu_count(),
        "others_share_of_the_machine": others,
        "network": "faithful, 101 classes, T = 17, L = 4, 224 px, random weights",
        "video": f"{SECONDS} s, {WIDTH}x{HEIGHT}, {RATE} frames/s, H.264; flow by DIS",
        "tflop_a_clip": rounded(flops / 1e12),
        "peak_tflops": {kind: rounded(value / 1e12) for kind, value in peak.items()},
        "rounds": arguments.rounds,
        "repetitions": arguments.repetitions,
        "rows": rows,
    }


def gathered_from(reports: Sequence[Figure], part: str) -> list[float]:
    """Join what each report has of a part."""
    return [value for report in reports for value in report.get(part, ())]


if __name__ == "__main__":
    main()
