"""Where the time goes while a runtime is prepared of the full-size network, step by step.

    python benchmarks/preparing.py DATA [--work DIR]

DATA holds ``UCF-101``.  The network and the clips are those of ``inference.py``: random weights, eight clips to
calibrate on and eight to compare the labels of.  ``predict`` prepares whole clips, ``stream`` one sample after the
other.  Core seconds are what both cores work; on a machine that does nothing else, seconds are half of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from actionfusion import Recipe, Recognizer
from actionfusion.files import write_atomically
from actionfusion.inference.runtimes import prepared, quantization
from actionfusion.models import FusionNetworkSettings
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe
from inference import make_run, write_clips
from measuring import made_by, rounded

RESULTS = Path(__file__).parent / "results" / "preparing.json"


def main() -> None:
    """Prepare each precision anew, for both commands, and write the steps down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/preparing"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    clips, run = arguments.work / "clips.csv", arguments.work / "run"
    if not run.exists():
        write_clips(arguments.data.resolve() / "UCF-101", clips)
        network = FusionNetworkSettings.faithful()
        make_run(run, Recipe(clip=ClipSettings(flow=FlowRecipe("dis", size=224)), network=network), clips)
    rows = [
        _measured(run, clips, command, precision) for command in ("predict", "stream") for precision in ("fp32", "int8")
    ]
    network_in_words = "faithful, 101 classes, T = 17"
    result = {**made_by("python benchmarks/preparing.py DATA"), "network": network_in_words, "rows": rows}
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


def _measured(run: Path, clips: Path, command: str, precision: Any) -> dict[str, Any]:
    core: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def step(name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        core[name] += time.process_time() - began

    def measure(*given: Any, measure: Any = quantization.measure, **named: Any) -> Any:
        with step("comparing labels"):
            return measure(*given, **named)

    shutil.rmtree(run / prepared.PREPARED, ignore_errors=True)
    began = time.perf_counter()
    with mock.patch.object(prepared, "_step", step), mock.patch.object(prepared, "measure", measure), step("all"):
        first: Any = "clip" if command == "predict" else "step"
        Recognizer.load(run, runtime="openvino", precision=precision, root=clips, first=first)
    row = {
        "command": command,
        "precision": precision,
        "seconds": rounded(time.perf_counter() - began),
        "core_seconds": {name: rounded(seconds) for name, seconds in core.items()},
    }
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
