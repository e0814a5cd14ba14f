"""Weights that are all finite, and a network whose answers are no numbers: every command refuses them."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actionfusion.__main__ import main
from actionfusion.run_folder import WEIGHTS

COMMANDS = {
    "predict": ["predict", "{run}", "{video}", "--runtime", "torch"],
    "predict as JSON": ["predict", "{run}", "{video}", "--json"],
    "segments": ["predict", "{run}", "{video}", "--segments", "--json", "--runtime", "torch"],
    "stream": ["stream", "{run}", "{video}", "--json", "--runtime", "torch"],
    "evaluate": ["evaluate", "{run}", "--root", "{root}"],
    "explain": ["explain", "{run}", "{video}", "--out", "{run}/explanation"],
    "onnx": ["predict", "{run}", "{video}", "--json", "--runtime", "onnx"],
    "export": ["export", "{run}", "--out", "{run}/export"],
}


# An export of a small run takes a tenth of the time.
SMALL = ("onnx", "export")


@pytest.fixture
def overflowing(request, command, tmp_path):
    """A copy of a run with weights so large that sums overflow."""
    whole = request.getfixturevalue("small_run_source" if command in SMALL else "tiny_run")
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    path = run / WEIGHTS
    weights = load_file(path)
    changed = {name: (value * 1e30 if value.dtype == torch.float32 else value) for name, value in weights.items()}
    assert all(bool(value.isfinite().all()) for value in changed.values())
    save_file(changed, path)
    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_answers_that_are_no_numbers_are_refused(command, overflowing, shapes_root, capsys):
    video = next((shapes_root / "test" / "motion_up").glob("*.mp4"))
    words = [word.format(run=overflowing, video=video, root=shapes_root) for word in COMMANDS[command]]
    if command == "onnx":
        pytest.importorskip("onnxruntime")
    assert main(words) in (1, 2)
    said = capsys.readouterr()
    assert "nan" not in said.out.lower()
    assert "error: " in said.err
    assert "Traceback" not in said.err
