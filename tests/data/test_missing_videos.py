"""Videos that a table names and that are not there: counted, listed, and left out where that is chosen."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from actionfusion import check, evaluate, prepare, train
from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.manifest import read_manifest
from actionfusion.data.recorded_split import reopen_data
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.run_folder import open_run
from actionfusion.video.flow import FlowRecipe

NAMES = [f"{label}/{number}.mp4" for label in ("jump", "run") for number in range(6)]
GONE = ["jump/1.mp4", "jump/4.mp4", "run/2.mp4", "run/5.mp4"]
SAID = "4 of the 12 videos that the table names are not there: 'jump/1.mp4', 'jump/4.mp4', 'run/2.mp4' and 1 more"


@pytest.fixture(scope="module")
def table(tmp_path_factory, write_video) -> Path:
    """Twelve videos with a split, four of which are not there."""
    root = tmp_path_factory.mktemp("clips")
    parts = ("train", "train", "train", "train", "test", "test")
    for name in sorted({*NAMES} - {*GONE}):
        (root / name).parent.mkdir(exist_ok=True)
        write_video(root / name, count=20 + NAMES.index(name), height=48 if "jump" in name else 64)
    rows = [f"{name},{name.split('/')[0]},{parts[number % 6]}\n" for number, name in enumerate(NAMES)]
    (root / "l.csv").write_text("path,label,split\n" + "".join(rows))
    return root / "l.csv"


def test_missing_videos_are_refused_with_their_number_unless_they_are_left_out(table):
    given = DataSettings(root=table, validation="none")
    with pytest.raises(DatasetError, match=f"l.csv: {re.escape(SAID)}; .*--data.missing leave_out"):
        open_data(given)
    videos = open_data(replace(given, missing="leave_out"))
    assert {entry.path for entry in videos.listing.entries} == {*NAMES} - {*GONE}
    assert [entry.path for entry in map(videos.listing.entries.__getitem__, videos.split.test)] == [
        "jump/5.mp4", "run/4.mp4",
    ]  # fmt: skip
    assert "4 missing videos were left out" in videos.listing.notes
    with pytest.raises(SettingsError, match="'skip' is no choice; choose refuse or leave_out"):
        replace(given, missing="skip")


def test_a_table_of_which_nothing_is_there_is_refused_in_any_case(tmp_path):
    (tmp_path / "l.csv").write_text("path,label\na.mp4,jump\nb.mp4,run\n")
    for missing in ("refuse", "leave_out"):
        with pytest.raises(DatasetError, match=r"2 of the 2 videos|not one of the 2 videos"):
            open_data(DataSettings(root=tmp_path / "l.csv", missing=missing))


def test_check_marks_them_and_its_manifest_leaves_them_out(table, tmp_path, capsys):
    report = check("csv", table, out=tmp_path / "m.csv", workers=0)
    assert {row.path for row in report.rows if row.status == "missing"} == {*GONE}
    assert {row.status for row in report.rows if row.path not in GONE} == {"ok"}
    assert SAID.split(":", maxsplit=1)[0] in capsys.readouterr().err
    assert read_manifest(tmp_path / "m.csv").rows == report.rows
    videos = open_data(DataSettings(root=table, validation="none", manifest=tmp_path / "m.csv"))
    assert len(videos.listing.entries) == 8
    text = (tmp_path / "m.csv").read_text().replace(",missing,", ",ok,").replace(",0,,0,0,", ",9,,0,0,")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DatasetError, match="4 of the 12 videos"):
        open_data(DataSettings(root=table, validation="none", manifest=tmp_path / "m.csv"))


def test_prepare_names_them_and_makes_the_rest(table, tmp_path):
    made = prepare("csv", table, store=tmp_path / "store", flow=FlowRecipe(size=16, engine="dis"), workers=0)
    assert (made.made, sorted(failure.name for failure in made.failures)) == (8, GONE)
    assert {failure.kind for failure in made.failures} == {"missing"}


def test_a_run_without_them_is_recorded_as_such_and_can_be_measured(table, train_arguments, tmp_path):
    recipe = train_arguments["recipe"]
    data = DataSettings(root=table, validation="none", missing="leave_out")
    run = train(recipe.changed(data=data), out=tmp_path / "run")
    assert open_run(run).config["data"]["missing"] == "leave_out"
    assert len(reopen_data(open_run(run), table, None).split.train) == 6
    assert evaluate(run, table).figures.top1.count == 2
