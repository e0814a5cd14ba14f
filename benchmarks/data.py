"""The speed of the way from video files to batches, and what the prepared store saves and costs.

    python benchmarks/data.py DATA [--quick] [--out FILE]

DATA holds ``UCF-101``.  It takes about 5 minutes on 2 cores; ``--quick`` does everything once on few clips, to see that
it runs, and writes nothing unless told where.  What is compared is run in turn in every repetition, so that whatever
else the machine does hits both; the result holds medians with the lowest and highest, and how busy other processes kept
the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

from actionfusion.files import write_atomically
from actionfusion.version import __version__
from data_decoding import decoding, flow_costs
from data_loading import Setup, batches, break_even, loss, memory, prepare_parts, prepare_processes
from measuring import Figure, Neighbours, machine

RESULT = Path(__file__).parent / "results" / "data.json"
COMMAND = "python benchmarks/data.py DATA"
# The recipe, its clips for `prepare` and the loader; a clip at 224 px takes five times as long as one at 96 px.
SETUPS = {"ucf101-practical": 24, "scratch": 96}


def main() -> None:
    """Measure everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    clips = sorted((arguments.data / "UCF-101").rglob("*.avi"))
    if not clips:
        parser.error(f"{arguments.data}: no UCF-101/<class>/*.avi in it")
    result = measure(clips, quick=arguments.quick)
    out = arguments.out or (None if arguments.quick else RESULT)
    text = json.dumps(result, indent=1) + "\n"
    if out is None:
        print(text)
    else:
        write_atomically(out, text)


def measure(clips: list[Path], *, quick: bool) -> Figure:
    """The whole result."""
    started, neighbours, busy = time.perf_counter(), Neighbours(), {}

    def part(name: str, run: Callable[..., Any], *arguments: Any) -> Any:
        beside, begun = Neighbours(), time.perf_counter()
        figures = run(*arguments)
        busy[name] = beside.share()
        print(f"{name}: {time.perf_counter() - begun:.0f} s, {100 * busy[name]:.0f} % taken by others", flush=True)
        return figures

    few = _spread_out(clips, 2 if quick else 12)
    result: Figure = {
        "decoding": part("decoding", decoding, few, 1 if quick else 5),
        "flow": part("flow", flow_costs, few[:1] if quick else few[::4], (96,) if quick else (224, 96), 3),
    }
    loaded, prepared, processes, memories, losses, even = [], [], [], [], [], []
    for name, count in SETUPS.items():
        setup = Setup.of(name)
        flow, many = setup.clip.flow, _spread_out(clips, 4 if quick else 2 * count)
        chosen = many[::2]
        size = f"{flow.size} px"
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder)
            processes.append(part(f"processes, {size}", prepare_processes, many, flow, store, 1 if quick else 2))
            prepared.append(part(f"prepare, {size}", prepare_parts, chosen, flow))
            loaded.append(part(f"batches, {size}", batches, setup, chosen, store, 2, 1 if quick else 3))
            memories.append(part(f"memory, {size}", memory, setup, chosen[:24], store, 3 if quick else 8))
            losses.append(part(f"loss, {size}", loss, many[:: len(many) // 4], flow, store))
            even += break_even(prepared[-1], loaded[-1], result["flow"]["rows"])
    result |= {"processes": processes, "prepare": prepared, "batches": loaded, "memory": memories}
    result |= {"loss": losses, "break_even": even}
    head = {
        "command": COMMAND,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {
            "actionfusion": __version__,
            "python": platform.python_version(),
            "av": av.__version__,
            "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
            "opencv": cv2.__version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "seconds": round(time.perf_counter() - started),
        "taken_by_other_processes": {"all": neighbours.share()} | busy,
    }
    return head | result


def _spread_out(clips: list[Path], count: int) -> list[Path]:
    return [clips[number * len(clips) // count] for number in range(count)]


if __name__ == "__main__":
    main()
