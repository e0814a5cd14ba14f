"""Make what the folder ``v0_1`` holds.  Run with version 0.1.x of the package, from any folder, into an empty one:

    python tests/earlier_versions/make.py DIR

The files in the repository were made by the commit that their ``config.yaml`` names, and are not made again: later
versions are held to what that one wrote.  Two files are left out: the plain run's checkpoint (3 MB), and
``resume.json`` of the unfinished runs, which names places of the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from clips import arrays, write_video

from actionfusion import Recognizer
from actionfusion.__main__ import main
from actionfusion.data.shapes_files import make_shapes
from actionfusion.training.learner import Learner

RECIPES = Path(__file__).parent / "v0_1" / "recipes"
STOP = 8  # of six steps an epoch: in the middle of the second


def run(*words: object) -> None:
    if main([str(word) for word in words]):
        raise SystemExit(f"failed: {words}")


def train_and_stop(*words: object) -> None:
    """Train, and press Ctrl-C in a step."""
    step, seen = Learner.step, []

    def counted(learner, *arguments, **options):
        seen.append(1)
        if len(seen) == STOP:
            os.kill(os.getpid(), signal.SIGINT)
        return step(learner, *arguments, **options)

    Learner.step = counted
    try:
        if main(["train", *map(str, words)]) != 1:
            raise SystemExit("was not stopped")
    finally:
        Learner.step = step


def make_runs(out: Path, shapes: Path, three: Path) -> None:
    data = ("--data.dataset", "shapes", "--data.root", shapes)
    run("train", "--config", "tiny", *data, "--training.batch_size", 8, "--out", out / "run_plain")
    run("train", "--config", RECIPES / "changed.yaml", "--data.root", shapes, "--out", out / "run_changed")
    for name in ("run_plain", "run_changed"):
        run("evaluate", out / name, "--root", shapes)
    unfinished = ("--config", RECIPES / "unfinished.yaml", "--data.root", three)
    features = ("--features.folder", out / "features", "--features.draws", 2)
    for name, more in (("run_unfinished", ()), ("run_features", features)):
        train_and_stop(*unfinished, *more, "--out", out / name)
        shutil.copytree(out / name, out / f"{name}_resumed")
        run("train", "--resume", "--out", out / f"{name}_resumed")
        (out / name / "resume.json").unlink()


def make_runtimes(out: Path) -> None:
    Recognizer.load(out / "run_unfinished_resumed", runtime="onnx")
    run("export", out / "run_unfinished_resumed", "--out", out / "export_both")
    run("export", out / "run_changed", "--out", out / "export_rgb")


def make_answers(out: Path, video: Path) -> None:
    """Write all classes' probabilities of each run for the video and for the arrays."""
    answers = {}
    for path in sorted(out.glob("run_*")):
        recognizer = Recognizer.load(path, runtime="torch", device="cpu")
        cut = recognizer.clip(video)
        rgb, flow = arrays(cut.rgb.shape[0], cut.flow.shape[1], cut.rgb.shape[-1])
        made = replace(cut, rgb=rgb, flow=flow)
        rows = recognizer.probabilities([cut, made]).astype(np.float64)
        video_row, array_row = (dict(zip(recognizer.labels, row.tolist(), strict=True)) for row in rows)
        answers[path.name] = {"video": video_row, "arrays": array_row}
    for name in ("run_unfinished", "run_features"):
        if answers[name] == answers[f"{name}_resumed"]:
            raise SystemExit(f"{name}: its weights were those of the end already, so going on would show nothing")
    (out / "probabilities.json").write_text(json.dumps(answers, indent=1) + "\n")


def refuse_traces(out: Path, *places: Path) -> None:
    for path in (path for path in out.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for place in (out.absolute(), Path.home(), *places):
            if str(place).encode() in content:
                raise SystemExit(f"{path} names {place}")


def make(out: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        # As the fixture shapes_root of the tests, and three of its classes.
        shapes = make_shapes(Path(scratch) / "shapes", train_per_class=4, val_per_class=0, test_per_class=2, seed=7)
        three = Path(scratch) / "three"
        for part in ("train", "test"):
            for label in ("motion_up", "motion_down", "order_left_right"):
                shutil.copytree(shapes / part / label, three / part / label)
        make_runs(out, shapes, three)
        make_runtimes(out)
        make_answers(out, write_video(Path(scratch) / "video.mkv"))
        (out / "run_plain" / "checkpoint.safetensors").unlink()
        for lock in out.rglob(".lock"):
            lock.unlink()
        refuse_traces(out, Path(scratch))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
