"""Devices, rights, labels and the small parts below the conditions that all commands are run under."""

import io
import os
import shutil
import signal
import stat
import sys
from types import SimpleNamespace

import pytest
import torch
from rich.table import Table

from actionfusion.__main__ import main
from actionfusion.devices import find_device
from actionfusion.errors import SettingsError, printable
from actionfusion.process import _Stopping
from actionfusion.run_folder import fault_of_labels, open_run
from actionfusion.terminal import Console, Text
from actionfusion.training.train import train


@pytest.mark.parametrize("name", ["cuda:9", "gpu", "meta", "mps" if not torch.backends.mps.is_available() else "xla"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(name, tiny_run, three, tmp_path, capsys):
    with pytest.raises(SettingsError, match=f"this machine has no '{name}'; take cpu"):
        find_device(name)
    words = ["--config", "tiny", "--data.root", str(three), "--out", str(tmp_path / "run")]
    for line in (
        ["train", *words],
        ["predict", str(tiny_run), str(next(three.rglob("*.mp4")))],
        ["explain", str(tiny_run), str(next(three.rglob("*.mp4"))), "--out", str(tmp_path / "seen")],
    ):
        assert main([*line, "--device", name]) == 1
        assert f"device: this machine has no '{name}'" in (told := capsys.readouterr().err)
        assert told.count("error") == 1
    assert not (tmp_path / "run").exists()


def test_files_have_the_rights_that_the_umask_says(train_arguments, tmp_path):
    before = os.umask(0o027)
    try:
        run = train(**train_arguments | {"out": tmp_path / "run"})
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in run.iterdir()}
    assert set(modes.values()) == {0o640}, modes


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_not_called_missing(tiny_run):
    weights = tiny_run / "model.safetensors"
    mode = weights.stat().st_mode
    weights.chmod(0)
    try:
        with pytest.raises(Exception, match="Permission denied"):
            open_run(tiny_run).read_weights()
    finally:
        weights.chmod(mode)


def test_labels_hold_any_separator_but_a_line_break(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    labels = [f"a{sign}b{number}" for number, sign in enumerate("\u2028\u2029\x85\x1c\x1d\x1e\x0b\x0c")]
    (run / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    assert open_run(run).labels == tuple(labels)
    assert fault_of_labels(labels) is None


def test_the_second_signal_of_one_wish_does_not_cut_the_end_short(monkeypatch):
    """A batch system sends two within milliseconds, and the word of the first is not written yet."""
    monkeypatch.setattr("actionfusion.process.os._exit", sys.exit)
    now = iter([10.0, 10.005, 12.0])
    monkeypatch.setattr("actionfusion.process.time", SimpleNamespace(monotonic=lambda: next(now)))
    stopping = _Stopping(leaves=True)
    with pytest.raises(KeyboardInterrupt):
        stopping._handle(signal.SIGTERM, None)
    stopping.code = 1
    stopping._handle(signal.SIGTERM, None)
    with pytest.raises(SystemExit):
        stopping._handle(signal.SIGTERM, None)


def test_labels_are_escaped_before_they_are_laid_out():
    console = Console(file=io.StringIO(), width=40)
    table = Table("label")
    for name in ("one", "two"):
        table.add_row(Text(f"a\x1b[31m\u2028\x07t{name}"))
    console.print(table)
    shown = console.file.getvalue().replace("\n", "").replace("│", "").replace(" ", "")
    assert "tone" in shown
    assert "ttwo" in shown
    assert "\x1b" not in shown


def test_printable_leaves_letters_alone():
    assert printable("Ünï 行動 👨‍👩‍👧") == "Ünï 行動 👨‍👩‍👧"
    assert printable("\x1b]0;\x07\u202e\ud8ff\n") == r"\x1b]0;\x07\u202e\ud8ff\n"
