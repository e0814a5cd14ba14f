"""What each choice of training gains in speed and memory: one training step of the full-size network, on the CPU.

    python benchmarks/training.py [--frames T] [--steps N] [--rounds N] [--quick] [--only NAME ...]

Each choice is one change to fp32 with the backbones channels last, fused Adam and one clip a batch, measured in a
process of its own, so that its peak of memory is its own.  A step is forward, backward and Adam; the best of N
steps after a first one counts.  All choices are gone through in rounds, and the best of each choice's rounds counts.
FLOPs are the model's own (what is computed twice under checkpointing counts once), and the machine's peak is the
fastest of large products, measured in the same run.

``--quick`` takes a small network, to see the script run; it writes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "training.json"
# Name, what it is in words, and what it changes.
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("fp32, backbones channels last, fused Adam, 1 clip", {}),
    "channels_first": ("channels first", {"channels_last": False}),
    "kernels_last": ("kernels channels last, too", {"kernels_last": True}),
    "bf16": ("bf16 autocast", {"bf16": True}),
    "checkpoint": ("backbones checkpointed, 2 frames at a time", {"recompute_frames": 2}),
    "unfused": ("Adam that is not fused", {"fused": False}),
    "conv4_3": ("backbones frozen through conv4_3", {"freeze": "conv4_3"}),
    "batch_2": ("2 clips at once", {"batch": 2}),
    "accumulate_2": ("2 clips, accumulated one by one", {"batch": 2, "accumulate": 2}),
    "compile": ("backbones through torch.compile", {"compile": True}),
    "features": ("backbones frozen, cached features", {"features": True}),
    "features_bf16": ("cached features and bf16 autocast", {"features": True, "bf16": True}),
}


def main() -> None:
    """Measure every choice, or, as a child, one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=6, help="T; memory and time of the backbones grow with it")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", choices=["peak", *CHOICES], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child = arguments.child
        report = measure_peak() if child == "peak" else _measure(child, arguments)
        print(json.dumps(report))
        return
    result = _measure_all(arguments)
    if arguments.quick:
        print(json.dumps(result, indent=1))
    else:
        from actionfusion.files import write_atomically  # noqa: PLC0415  (torch would count into the children's memory)

        write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


def _measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    load, started = os.getloadavg()[0], time.time()
    peaks = [_child("peak", arguments)]
    best: dict[str, dict[str, Any]] = {}
    for turn in range(arguments.rounds):
        for name in arguments.only:
            print(f"{time.time() - started:.0f} s: {name}, round {turn + 1}", file=sys.stderr, flush=True)
            row = {"choice": name, "description": CHOICES[name][0]} | _child(name, arguments)
            best[name] = min(best.get(name, row), row, key=lambda one: one.get("seconds", float("inf")))
        peaks.append(_child("peak", arguments))
    rows = list(best.values())
    peak = {kind: max(one[kind] for one in peaks) for kind in ("float32", "bfloat16")}
    for row in rows:
        if "error" not in row:
            _add_ratios(row, rows[0], peak)
    versions = peaks[0]["versions"]
    return {
        "command": "python benchmarks/training.py",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "threads": peaks[0]["threads"],
        "load_before": round(load, 2),
        "versions": versions,
        "network": "small" if arguments.quick else "full-size faithful",
        "frames": arguments.frames,
        "rounds": arguments.rounds,
        "peak_flop_s": peak,
        "rows": rows,
    }


def _add_ratios(row: dict[str, Any], base: dict[str, Any], peak: dict[str, float]) -> None:
    flop_s = row["flops_a_clip"] * row["batch"] / row["seconds"]
    row["clips_a_second"] = row["batch"] / row["seconds"]
    row["flop_s"] = flop_s
    row["share_of_peak"] = flop_s / peak["bfloat16" if row["bf16"] else "float32"]
    if "error" not in base:
        row["speed_ratio"] = row["clips_a_second"] * base["seconds"] / base["batch"]
        row["memory_ratio"] = row["peak_bytes"] / base["peak_bytes"]
        row["core_ratio"] = (base["core_seconds"] / base["batch"]) / (row["core_seconds"] / row["batch"])
        row["activation_ratio"] = row["activation_bytes"] / max(base["activation_bytes"], 1)


def _child(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        if not name.startswith("features"):
            return _run_child(name, arguments, folder, arguments.steps)
        # The backbones' memory belongs to a process that trains end to end: one fills, another learns.
        filling = _run_child(name, arguments, folder, 0)
        if "error" in filling:
            return filling
        report = _run_child(name, arguments, folder, arguments.steps)
        return report | {"seconds_to_fill": filling["seconds_to_fill"]}


def _run_child(name: str, arguments: argparse.Namespace, folder: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", name, "--frames", str(arguments.frames), "--steps", str(steps)]
    command += ["--folder", f"{folder}/features"] + ["--quick"] * arguments.quick
    # A compiler's cache of its own, or a second run would not see what compiling costs.
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"error": lines[-1][:300]}
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def measure_peak() -> dict[str, Any]:
    """FLOP/s of large products in fp32 and bf16, as the trainer measures them."""
    import torch  # noqa: PLC0415

    from actionfusion.peak import matrix_peak  # noqa: PLC0415
    from actionfusion.version import __version__  # noqa: PLC0415

    cpu = torch.device("cpu")
    return {
        "threads": torch.get_num_threads(),
        "versions": {"actionfusion": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "float32": matrix_peak(cpu, torch.float32),
        "bfloat16": matrix_peak(cpu, torch.bfloat16),
    }


def _measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch  # noqa: PLC0415

    changes = CHOICES[name][1]
    torch.manual_seed(0)
    network = _network(arguments)
    batch_size, chunks = changes.get("batch", 1), changes.get("accumulate", 1)
    backbones = network.all_backbones().values()
    for backbone in backbones:
        backbone.channels_last = changes.get("channels_last", True)
    if "kernels_last" in changes:
        for backbone in backbones:
            backbone.to(memory_format=torch.channels_last)
        network.fusion.to(memory_format=torch.channels_last_3d)
    network.recompute_backbones(changes.get("recompute_frames"))
    network.freeze_backbones(changes.get("freeze"))
    read, filled = _reader(network, arguments.frames, batch_size, arguments.folder, features="features" in changes)
    flops = _flops(arguments, changes.get("freeze") or ("all" if "features" in changes else None))
    learning = [tensor for tensor in network.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-5, weight_decay=0.0, fused=changes.get("fused", True))
    for backbone in backbones if "compile" in changes else ():
        backbone.compile()  # the rest would be unrolled over T, which takes minutes to compile and gains little

    def step() -> tuple[float, float]:
        started, worked = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        inputs = read()
        for part in range(chunks):
            some = slice(part * batch_size // chunks, (part + 1) * batch_size // chunks)
            with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in changes):
                given = {stream: values[some] for stream, values in inputs.items()}
                logits = network(features=given) if "features" in changes else network(**given)
                loss = torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
            (loss / chunks).backward()
        optimizer.step()
        return time.perf_counter() - started, time.process_time() - worked

    if arguments.steps == 0:
        return {"seconds_to_fill": filled}
    first, _ = step()
    static = _resident()
    times = [step() for _ in range(arguments.steps)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "batch": batch_size,
        "bf16": "bf16" in changes,
        "seconds": min(seconds for seconds, _ in times),
        "core_seconds": min(seconds for _, seconds in times),
        "seconds_all": [seconds for seconds, _ in times],
        "seconds_first": first,
        "seconds_to_fill": filled,
        "flops_a_clip": flops,
        "learning_parameters": sum(tensor.numel() for tensor in learning),
        "peak_bytes": peak,
        "static_bytes": static,
        "activation_bytes": max(peak - static, 0),
    }


def _settings(arguments: argparse.Namespace) -> Any:
    from actionfusion.models.fusion_network import FusionNetworkSettings  # noqa: PLC0415

    if arguments.quick:
        return FusionNetworkSettings.faithful(image_size=64, backbone=(16, "M", 32, "M", 64), fc6_width=256)
    return FusionNetworkSettings.faithful()


def _network(arguments: argparse.Namespace) -> Any:
    from actionfusion.models.fusion_network import FusionNetwork  # noqa: PLC0415

    network = FusionNetwork(_settings(arguments)).train()
    if arguments.quick:  # the small backbone has no conv4_3
        freeze = network.freeze_backbones
        network.freeze_backbones = lambda through: freeze("conv2_1" if through == "conv4_3" else through)
    return network


def _flops(arguments: argparse.Namespace, freeze: str | None) -> int:
    """FLOPs of one clip, forward and backward, counted on tensors without data."""
    import torch  # noqa: PLC0415
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    with torch.device("meta"):
        network = _network(arguments)
        network.freeze_backbones(freeze)
        size, frames = network.settings.image_size, arguments.frames
        clips = {stream: torch.empty(1, frames, channels, size, size) for stream, channels in (("rgb", 3), ("flow", 8))}
        features = network.features(clips)
        with FlopCounterMode(display=False) as counter:
            logits = network(features=features) if freeze == "all" else network(**clips)
            logits.sum().backward()
    total: int = counter.get_total_flops()
    return total


def _reader(network: Any, frames: int, batch_size: int, folder: Path, *, features: bool) -> tuple[Any, float | None]:
    """What gives a batch at each step: clips of noise in memory, or their features read from the disk."""
    import numpy as np  # noqa: PLC0415

    from actionfusion.data.loading import ClipDataset, EpochLoader, LabelledSource  # noqa: PLC0415
    from actionfusion.training.features import FeatureSettings, train_from_features  # noqa: PLC0415
    from actionfusion.video.clip import ClipSettings  # noqa: PLC0415
    from actionfusion.video.flow import FlowRecipe  # noqa: PLC0415

    size = network.settings.image_size
    clip = ClipSettings(frames=frames, flow=FlowRecipe("dis", size=size))

    class Noise:
        recipe, frame_size, num_frames = clip.flow, size, 4 * frames

        def read(self, wanted: Any, fields: Any) -> Any:
            noise = np.random.default_rng(0)
            pictures = noise.integers(0, 256, (len(wanted), size, size, 3), dtype=np.uint8)
            flow = noise.integers(1, 256, (len(fields), size, size, 2), dtype=np.uint8)
            return pictures, flow, np.arange(len(wanted)) / 25

    dataset: Any = ClipDataset([LabelledSource(f"{n}.avi", Noise, 0) for n in range(batch_size)], clip)
    filled = None
    if features:
        settings = FeatureSettings(folder=folder, views=0)
        dataset, _, report = train_from_features(network, dataset, None, settings, prepared=False)
        filled = report.seconds
    loader = EpochLoader(dataset, batch_size=batch_size, shuffle=False, workers=0)
    (kept,) = loader.epoch(0)

    def read() -> Any:
        (batch,) = loader.epoch(0) if features else (kept,)
        return batch.inputs

    return read, filled


def _resident() -> int:
    """Bytes of this process in memory now; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


if __name__ == "__main__":
    main()
