"""How fast the recipe small answers, beside our VGG-16 network and the networks that one would take instead.

    python benchmarks/peers.py DATA [--run RUN] [--packages FOLDER] [--rounds N] [--repetitions N] [--quick]

A video of 10 seconds at 320x240, made of clips of DATA/UCF-101, is answered by every case in a process of its own; the
cases are gone through in rounds, and medians are over all rounds.  The whole path of ours is ``predict``: decoding,
flow, network.  That of a peer is cutting its frames by our reader, and its network.  Peers are built by the package
transformers at their published sizes; their weights are random, so their cost is measured and their accuracy is not.
Without transformers their rows are left out: pip install --target FOLDER transformers, then --packages FOLDER.

``--run`` takes a run of the recipe that was trained on DATA/UCF-101, for what int8 costs in accuracy; else the head is
random.  A step of a stream takes one sample, the network alone or with its flow.  ``--quick`` takes a few cases of
tiny networks, to see the script run; it writes nothing.  ``core`` milliseconds are of all cores together.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from actionfusion.errors import ActionFusionError
from actionfusion.files import write_atomically
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes.backend import BackendName, PrecisionName
from actionfusion.inference.speed.measured import step_seconds
from actionfusion.run_folder import open_run
from actionfusion.settings import read_json
from actionfusion.training.recipe import load_recipe
from actionfusion.video.clip import cut_clip
from actionfusion.video.flow import compute_flow, flow_window
from actionfusion.video.reading import Frame, read_frames
from actionfusion.video.seeking import scan_packets
from actionfusion.video.video_source import VideoSource
from inference import PACKAGES, gathered_from, join_clips, make_run, write_clips
from measuring import Cost, Figure, Neighbours, in_turn, machine, rounded, seconds_of, spread, timed
from measuring import ratio as ratio_of
from peer_models import PEERS, answer_peer, convert_peer, count_peer, open_peer

RESULTS = Path(__file__).parent / "results" / "peers.json"
EVERY = 6  # frames from one sample of a stream to the next, what `stream` takes where a run does not say
OURS = {
    "small": "recipe small: EfficientNet-Lite0, 8 frames, 288 px, DIS",
    "two_flow": "small with 2 flow frames around each frame, not 4",
    "vgg": "VGG-16, 17 frames, 224 px, DIS",
}
PUBLISHED = [
    "PP-TSMv2 (PaddleVideo): 243 ms, whole path, Xeon 6148",
    "MoViNet-A0 stream (Kondratyuk et al. 2021): 16 ms a frame, network, one x86 core",
]
MEASURED = ("network", "network_core", "whole", "whole_core", "step", "step_with_flow")
SLOW = 10.0  # seconds of one answer from which a case is taken once a round, in the first round alone


class Case(NamedTuple):
    """A network in a runtime."""

    network: str
    runtime: BackendName
    precision: PrecisionName


_RUNTIMES: list[tuple[str, BackendName, PrecisionName]] = [
    ("torch", "torch", "fp32"),
    ("openvino", "openvino", "fp32"),
    ("openvino_bf16", "openvino", "bf16"),
    ("openvino_int8", "openvino", "int8"),
]
CASES = {
    f"{network}_{name}": Case(network, runtime, precision)
    for network in ("small", "two_flow", "vgg", "videomae", "timesformer", "vjepa2")
    for name, runtime, precision in _RUNTIMES
    if {"small": True, "two_flow": precision == "int8"}.get(network, precision != "int8")
}
QUICK = ["small_torch", "small_openvino", "videomae_torch", "videomae_openvino"]


def main() -> None:
    """Measure every case, or, as a child, one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--packages", type=Path, help="folder with transformers, where it is not installed")
    parser.add_argument("--work", type=Path, default=Path("runs/peers"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CASES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.only = arguments.only or (QUICK if arguments.quick else list(CASES))
    if arguments.packages is not None:
        sys.path.append(str(arguments.packages))  # last, so that what is installed comes first
    if arguments.child:
        special = {"prepare": _prepare, "parts": _parts}
        work = special.get(arguments.child, partial(_measure, arguments.child))
        print(json.dumps(work(arguments)))
        return
    left_out = {}
    if find_spec("transformers") is None:
        reason = "transformers is not installed: pip install --target FOLDER transformers, then --packages FOLDER"
        print(reason)
        left_out = {name: reason for name in arguments.only if CASES[name].network not in OURS}
        arguments.only = [name for name in arguments.only if name not in left_out]
    arguments.work.mkdir(parents=True, exist_ok=True)
    facts = _child("prepare", arguments)
    left_out |= facts["left_out"]
    neighbours = Neighbours()
    rounds, parts = _rounds(arguments, left_out)
    text = json.dumps(_result(arguments, facts, rounds, parts, left_out, neighbours.share()), indent=1) + "\n"
    print(text)
    if not arguments.quick:
        write_atomically(RESULTS, text)


def _rounds(arguments: argparse.Namespace, left_out: dict[str, str]) -> tuple[dict[str, list[Figure]], list[Figure]]:
    """All cases in turn; one that fails is left out with its reason."""
    rounds: dict[str, list[Figure]] = {name: [] for name in arguments.only if name not in left_out}
    parts = []
    for _ in range(1 if arguments.quick else arguments.rounds):
        for name, reports in rounds.items():
            if name in left_out or (reports and max(reports[0]["network"]) > SLOW):
                continue
            try:
                reports.append(_child(name, arguments))
            except subprocess.CalledProcessError as error:
                left_out[name] = f"its process ended with {error.returncode}: {_last_line(error.stderr)}"
            print(name, json.dumps(reports[-1:]), left_out.get(name, ""), flush=True)
        parts.append(_child("parts", arguments))
    return {name: reports for name, reports in rounds.items() if name not in left_out}, parts


def _child(name: str, arguments: argparse.Namespace) -> Figure:
    words = [sys.executable, __file__, str(arguments.data), "--work", str(arguments.work), "--child", name]
    words += ["--repetitions", str(1 if arguments.quick else arguments.repetitions), "--only", *arguments.only]
    words += ["--quick"] if arguments.quick else []
    for option in ("run", "packages"):
        if (value := getattr(arguments, option)) is not None:
            words += [f"--{option}", str(value)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["(no message)"])[-1]


def _run_folder(network: str, arguments: argparse.Namespace) -> Path:
    if network == "small" and arguments.run is not None:
        return cast(Path, arguments.run)
    return cast(Path, arguments.work) / f"{network}{'_tiny' if arguments.quick else ''}"


def _video(arguments: argparse.Namespace) -> Path:
    return cast(Path, arguments.work) / "ten_seconds.mp4"


def _converted(network: str, arguments: argparse.Namespace) -> Path:
    return cast(Path, arguments.work) / f"{network}{'_tiny' if arguments.quick else ''}.xml"


def _prepare(arguments: argparse.Namespace) -> Figure:
    """Make the video, the runs, and what the runtimes need; what is there is taken as it is.

    Returns:
        For each network its parameters and FLOPs; cases that cannot be prepared, with the reason; int8's accuracy.
    """
    videos, clips = arguments.data.resolve() / "UCF-101", arguments.work / "clips.csv"
    if not _video(arguments).is_file():
        join_clips(videos, _video(arguments))
    write_clips(videos, clips)
    cases = {name: CASES[name] for name in arguments.only}
    facts: Figure = {"networks": {}, "left_out": {}, "int8": None}
    for network in {case.network: None for case in cases.values()}:
        if network in OURS and not _run_folder(network, arguments).exists():
            recipe = load_recipe("tiny" if arguments.quick else "ucf101-practical" if network == "vgg" else "small")
            clip = replace(recipe.clip, flow=replace(recipe.clip.flow, engine="dis"))
            clip = replace(clip, flow_frames=2) if network == "two_flow" else clip
            pretrained = None if network == "vgg" or arguments.quick else "imagenet"
            recipe = recipe.changed(clip=clip, pretrained=pretrained)
            make_run(_run_folder(network, arguments), recipe, clips)
        facts["networks"][network] = _count(network, arguments)
    for name, case in cases.items():
        try:
            is_given = case.network == "small" and arguments.run is not None
            if found := _prepare_case(case, arguments, videos if is_given else clips):
                facts["int8"] = found
        except (ActionFusionError, RuntimeError, MemoryError) as error:
            facts["left_out"][name] = f"cannot be prepared: {' '.join(str(error).split())[:300]}"
    return facts


def _prepare_case(case: Case, arguments: argparse.Namespace, root: Path) -> Figure | None:
    """Prepare a runtime; of int8 for a trained run, give its accuracy beside that of fp32."""
    if case.network in OURS:
        path = _run_folder(case.network, arguments)
        recognizer = Recognizer.load(path, runtime=case.runtime, precision=case.precision, root=root)
        _ = recognizer.stepper
        if case.precision == "int8" and path == arguments.run:
            about = read_json(path / "prepared" / f"clip-{case.runtime}-{case.precision}" / "prepared.json")
            return cast(Figure, about["int8"])
    elif case.runtime == "openvino" and not _converted(case.network, arguments).is_file():
        convert_peer(case.network, _converted(case.network, arguments), tiny=arguments.quick)
    return None


def _count(network: str, arguments: argparse.Namespace) -> dict[str, int]:
    if network not in OURS:
        return count_peer(network, tiny=arguments.quick)

    run = open_run(_run_folder(network, arguments))
    parameters = sum(each.numel() for each in run.load_network().parameters())
    return {"parameters": parameters, "flops": run.flops}


def _measure(name: str, arguments: argparse.Namespace) -> Figure:
    """The child's work: answer, and be timed."""
    case, video = CASES[name], _video(arguments)
    report: Figure = {}
    if case.network in OURS:
        path = _run_folder(case.network, arguments)
        recognizer = Recognizer.load(path, runtime=case.runtime, precision=case.precision)
        clip = recognizer.clip(video)
        batch = {stream: array[None] for stream, array in clip.inputs(recognizer.clip_settings.streams).items()}
        report |= _costs("network", lambda: recognizer.scores(batch), arguments.repetitions)
        report |= _costs("whole", lambda: recognizer.predict(video), arguments.repetitions)
        report["step"] = step_seconds(recognizer, clip, arguments.repetitions)
        report["step_with_flow"] = _steps_with_flow(recognizer, video, arguments.repetitions)
    else:
        converted = _converted(case.network, arguments)
        backend, settings = open_peer(case.network, case.runtime, case.precision, converted, tiny=arguments.quick)

        def whole() -> None:
            answer_peer(backend, cut_clip(VideoSource(video, settings.flow, seek=True), settings).rgb)

        started = time.perf_counter()
        whole()
        is_slow = time.perf_counter() - started > SLOW
        rgb = cut_clip(VideoSource(video, settings.flow, seek=True), settings).rgb
        report |= _costs("network", lambda: answer_peer(backend, rgb), arguments.repetitions, once=is_slow)
        report |= _costs("whole", whole, arguments.repetitions, once=is_slow)
    return report | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _costs(part: str, call: Callable[[], object], repetitions: int, *, once: bool = False) -> dict[str, list[float]]:
    """Seconds, and those of all cores together, which a busy machine changes less; ``once``: of a single call."""
    costs: list[Cost] = []
    if once:
        with timed(costs):
            call()
    else:
        costs = in_turn({"": call}, repetitions)[""]
    return {part: [cost.seconds for cost in costs], f"{part}_core": [cost.core_seconds for cost in costs]}


def _steps_with_flow(recognizer: Any, video: Path, repetitions: int) -> list[float]:
    """Seconds of a sample of a stream, its flow and the network, from decoded pictures; each repetition a mean."""
    count = recognizer.clip_settings.frames
    read = read_frames(video, list(range((count + 1) * EVERY)), size=recognizer.clip_settings.decoded_size)
    frames = [Frame(*each) for each in zip(range(len(read.images)), read.times, read.images, strict=True)]

    def once() -> float:
        state, answers = recognizer.start(EVERY), 0
        started = time.perf_counter()
        for frame in frames:
            answer, state = recognizer.step(frame, state)
            answers += answer is not None
        return (time.perf_counter() - started) / answers

    return [once() for _ in range(repetitions + 1)][1:]


def _parts(arguments: argparse.Namespace) -> Figure:
    """Seconds of the parts of small's whole path, each alone; ``cut`` is decoding and flow at once, as it goes."""
    video, clip = _video(arguments), open_run(_run_folder("small", arguments)).clip
    total = scan_packets(video).num_frames
    positions = clip.positions(total)
    fields = np.unique([flow_window(int(at), clip.flow_length, total) for at in positions]).tolist()
    needed = sorted({*positions.tolist(), *fields, *(start + 1 for start in fields)})
    pictures = dict(zip(needed, read_frames(video, needed, size=clip.decoded_size).images, strict=True))
    cases = {
        "packets": partial(scan_packets, video),
        "decoding": partial(read_frames, video, []),
        "decoding_and_scaling": partial(read_frames, video, needed, size=clip.decoded_size),
        "flow": partial(compute_flow, pictures, fields, clip.flow),
        "cut": lambda: cut_clip(VideoSource(video, clip.flow, frame_size=clip.frame_size, seek=True), clip),
    }
    return {name: seconds_of(call, arguments.repetitions) for name, call in cases.items()} | {
        "frames": total,
        "pictures": len(needed),
        "fields": len(fields),
    }


def _result(
    arguments: argparse.Namespace,
    facts: Figure,
    rounds: dict[str, list[Figure]],
    parts: Sequence[Figure],
    left_out: dict[str, str],
    others: float,
) -> Figure:
    def version_of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not there"

    timed = {name: {part: gathered_from(each, part) for part in MEASURED} for name, each in rounds.items()}
    rows = [_row(name, facts, rounds[name], timed) for name in rounds]
    return {
        "command": "python benchmarks/peers.py DATA --packages FOLDER" + (" --run RUN" if arguments.run else ""),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {name: version_of(name) for name in (*PACKAGES, "transformers")},
        "others_share_of_the_machine": others,
        "video": "10 s, 320x240, 25 frames/s, H.264",
        "weights": "a trained run" if arguments.run else "small: ImageNet's and a random head; all others random",
        "rounds": 1 if arguments.quick else arguments.rounds,
        "repetitions": 1 if arguments.quick else arguments.repetitions,
        "rows": rows,
        "left_out": left_out,
        "int8_accuracy": facts["int8"] or left_out.get("small_openvino_int8") or "not measured: --run was not given",
        "parts_of_small_milliseconds": {
            name: _milliseconds(gathered_from(parts, name))
            for name in ("packets", "decoding", "decoding_and_scaling", "flow", "cut")
        }
        | {name: parts[0][name] for name in ("frames", "pictures", "fields")},
        "published": PUBLISHED,
        "aims": _aims(timed),
    }


def _row(name: str, facts: Figure, reports: Sequence[Figure], timed: dict[str, dict[str, list[float]]]) -> Figure:
    case, seconds = CASES[name], timed[name]
    what = OURS.get(case.network) or PEERS[case.network].title
    counts = facts["networks"][case.network]
    row: Figure = {
        "case": name,
        "what": what,
        "runtime": case.runtime,
        "precision": case.precision,
        "parameters": counts["parameters"],
        "gflop": rounded(counts["flops"] / 1e9),
        "answers": len(seconds["network"]),
    }
    row |= {f"{part}_milliseconds": _milliseconds(values) for part, values in seconds.items() if values}
    row["peak_memory_bytes"] = max(report["memory"] for report in reports)
    row["over"] = {
        ours: {part: _ratio(seconds[part], timed[ours][part]) for part in ("network", "whole")}
        for ours in timed
        if ours.startswith("small")
    }
    return row


def _milliseconds(seconds: Sequence[float]) -> Figure:
    return spread([1000 * value for value in seconds])


def _ratio(upper: Sequence[float], lower: Sequence[float]) -> Figure:
    """As ``ratio``; of a case that was taken fewer times, beside the first ones of the other."""
    count = min(len(upper), len(lower))
    return ratio_of(upper[:count], lower[:count])


def _aims(timed: dict[str, dict[str, list[float]]]) -> list[Figure]:
    """What was aimed at, beside what came out, each in its fastest runtime; ``is_met`` is None where it is not told."""

    def fastest(network: str, part: str) -> tuple[str, float] | None:
        found = {
            name: spread(parts[part])["median"]
            for name, parts in timed.items()
            if CASES[name].network == network and parts[part]
        }
        return min(found.items(), key=lambda item: item[1]) if found else None

    aims = []
    for part, limit in (("whole", 150.0), ("step", 16.0), ("step_with_flow", 16.0)):
        if found := fastest("small", part):
            value = rounded(1000 * found[1])
            aims.append({"aim": f"{part} under {limit:g} ms", "case": found[0], "came": value, "is_met": value < limit})
    for part, least in (("network", 20.0), ("whole", 10.0)):
        ours, theirs = fastest("small", part), fastest("videomae", part)
        if ours and theirs:
            value = rounded(theirs[1] / ours[1])
            aim = f"{part} at least {least:g} times as fast as VideoMAE-B"
            # The peer's fastest runtime is known where all of them ran.
            missing = [name for name, case in CASES.items() if case.network == "videomae" and name not in timed]
            is_met = None if missing and value >= least else value >= least
            cases = f"{ours[0]} and {theirs[0]}"
            aims.append({"aim": aim, "case": cases, "came": value, "is_met": is_met, "not_run": missing})
    return aims


if __name__ == "__main__":
    main()
