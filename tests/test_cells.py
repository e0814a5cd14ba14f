"""No CSV that is written holds a formula, and what is read back is what was written."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionfusion import check, predict, train
from actionfusion.cells import as_cell, from_cell
from actionfusion.data.dataset import DataSettings
from actionfusion.data.manifest import read_manifest
from actionfusion.data.recorded_split import reopen_data
from actionfusion.run_folder import open_run

STARTS = "=+-@\t\r\uff1d\uff0b\uff0d\uff20"
LABELS = ("=cmd|' C calc'!A0", "@SUM(1+1)*cmd", "'-jump", "+run")


@given(st.text(st.sampled_from([*STARTS, "'", " ", "a", "1"]), max_size=6) | st.text())
def test_a_cell_is_no_formula_and_is_read_as_it_was_written(text):
    cell = as_cell(text)
    assert from_cell(cell) == text
    assert not str(cell).lstrip().startswith(tuple(STARTS.replace("\t", "").replace("\r", "")))


def test_numbers_are_written_as_they_are():
    assert [as_cell(value) for value in (-1, -0.5, None, 0)] == [-1, -0.5, "", 0]


def cells(root: Path) -> dict[str, list[str]]:
    return {
        path.name: [cell for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"))) for cell in row]
        for path in root.rglob("*.csv")
    }


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_no_command_writes_a_formula(tmp_path, make_clips, train_arguments):
    """The labels of a stranger's folder of videos are classes of the run, and cells of what it writes."""
    root = make_clips(tmp_path / "clips")
    pattern = r"(?P<group>[=+]\w+)_"
    check("folder", root, out=tmp_path / "m.csv", split="random-7:3", group_pattern=pattern, workers=0)
    rows = read_manifest(tmp_path / "m.csv").rows
    assert {row.label for row in rows} == {*LABELS}
    assert {row.group for row in rows} == {"=anna", "+ben"}
    data = DataSettings(root=root, validation="none", manifest=tmp_path / "m.csv", split="stratified-7:3")
    run = train(train_arguments["recipe"].changed(data=data), out=tmp_path / "run")
    reopened = reopen_data(open_run(run), root, None)
    assert {entry.group for entry in reopened.listing.entries} == {"=anna", "+ben"}
    predict(run, [root / rows[0].path], segments=True, out=tmp_path / "timelines")
    written = cells(tmp_path)
    assert written.keys() >= {"m.csv", "m.leaks.csv", "split.csv", "metrics.csv"}
    assert len(written) >= 5
    for name, found in written.items():
        assert not [cell for cell in found if cell.lstrip().startswith(tuple(STARTS)) and not is_number(cell)], name
    table = shutil.copy(tmp_path / "m.csv", root / "again.csv")
    again = check("csv", table, out=tmp_path / "again.csv", workers=0)
    assert {row.label for row in again.rows} == {*LABELS}
    assert not again.faults


@pytest.fixture
def make_clips(write_video):
    def make(root: Path) -> Path:
        for height, label in enumerate(LABELS):
            folder = root / label
            folder.mkdir(parents=True)
            for number in range(4):
                name = ("=anna", "+ben")[number % 2]
                write_video(folder / f"{name}_{number}.mp4", count=8 + number, height=48 + 16 * height)
        return root

    return make
