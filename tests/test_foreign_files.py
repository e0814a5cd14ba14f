"""No command writes over a file that it did not write, nor over its input, and edits of a manifest are kept."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from actionfusion import check, demo, demonstration, evaluate, predict, prepare, report, report_comparison, versus
from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.manifest import ManifestRow, read_manifest, write_manifest
from actionfusion.data.shapes_files import make_shapes
from actionfusion.errors import ActionFusionError, DatasetError, SettingsError
from actionfusion.inference.timelines.segments import SegmentOptions
from actionfusion.video.flow import FlowRecipe

OTHER = "written by somebody else"


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_video):
    root = tmp_path_factory.mktemp("clips")
    for label, height in (("jump", 48), ("run", 64)):
        (root / label).mkdir()
        for number in range(3):
            write_video(root / label / f"{number}.mp4", count=8 + number, height=height)
    return root


@pytest.fixture(scope="module")
def evaluated(tiny_run, shapes_root, tmp_path_factory):
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("evaluated") / "run")
    evaluate(run, shapes_root)
    return run


WRITERS = {
    "evaluate": lambda run, clips, out: evaluate(run, clips, out=out),
    "versus": lambda run, clips, out: versus(run, run, out=out),
    "report": lambda run, clips, out: report(run, out=out),
    "report_comparison": lambda run, clips, out: report_comparison([run, f"{run}/."], out=out),
}


@pytest.mark.parametrize("command", [name for name in WRITERS if name != "report_comparison"])
def test_a_command_writes_over_its_own_file_alone(command, evaluated, shapes_root, tmp_path):
    write = WRITERS[command]
    out = tmp_path / "out.csv"
    write(evaluated, shapes_root, out)
    own = out.read_bytes()
    write(evaluated, shapes_root, out)
    assert len(out.read_bytes()) == pytest.approx(len(own), rel=0.1)
    run = shutil.copytree(evaluated, tmp_path / "run")
    (tmp_path / "table.json").write_text(json.dumps({"rows": [OTHER]}))
    (tmp_path / "folder").mkdir()
    before = contents(tmp_path)
    for other in (run / "config.yaml", run / "labels.txt", tmp_path / "table.json", tmp_path / "folder"):
        with pytest.raises(SettingsError, match=r"this command did not write it|is a folder"):
            write(run, shapes_root, other)
    assert contents(tmp_path) == before


def test_a_comparison_page_writes_over_no_other_file(evaluated, tmp_path):
    second = shutil.copytree(evaluated, tmp_path / "second")
    (tmp_path / "comparison.html").write_text(f"<html>{OTHER}</html>")
    with pytest.raises(SettingsError, match="this command did not write it"):
        report_comparison([evaluated, second], out=tmp_path / "comparison.html")
    assert OTHER in (tmp_path / "comparison.html").read_text()


def test_the_demo_removes_no_run_but_its_own(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights.bin").write_text(OTHER)
    with pytest.raises(ActionFusionError, match="exists already"):
        demo(out=tmp_path)
    assert list(contents(tmp_path)) == [str(tmp_path / "run" / "weights.bin")]


def test_the_demo_removes_no_training_that_was_begun_there(evaluated, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "labels.txt", "split.csv"):
        shutil.copy(evaluated / name, tmp_path / "run")
    before = contents(tmp_path / "run")
    for clips in (False, True):
        if clips:
            make_shapes(tmp_path / "clips", train_per_class=1, val_per_class=0, test_per_class=1, seed=0)
        with pytest.raises(ActionFusionError, match="exists already"):
            demo(out=tmp_path, train_per_class=1, test_per_class=1)
        assert contents(tmp_path / "run") == before


def test_the_demo_removes_no_run_of_the_users_beside_its_clips(evaluated, tmp_path):
    make_shapes(tmp_path / "clips", train_per_class=1, val_per_class=0, test_per_class=1, seed=0)
    shutil.copytree(evaluated, tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(ActionFusionError, match="exists already"):
        demo(out=tmp_path, train_per_class=1, test_per_class=1)
    assert contents(tmp_path / "run") == before


def test_the_demo_makes_its_own_run_anew_with_what_commands_added_to_it(evaluated, tmp_path, monkeypatch):
    class Trained(Exception):
        pass

    def train(*_, **__):
        raise Trained

    make_shapes(tmp_path / "clips", train_per_class=1, val_per_class=0, test_per_class=1, seed=0)
    data = DataSettings(root=tmp_path / "clips", dataset="folder", split="folders", validation="none")
    run = shutil.copytree(evaluated, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["digest"] = open_data(data).digest()
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "report_test.html").write_text("<html></html>")
    (run / "prepared" / "clip-openvino-fp32").mkdir(parents=True)
    monkeypatch.setattr(demonstration, "train", train)
    (run / "notes.txt").write_text(OTHER)
    with pytest.raises(ActionFusionError, match="exists already"):
        demo(out=tmp_path, train_per_class=1, test_per_class=1)
    (run / "notes.txt").unlink()
    with pytest.raises(Trained):
        demo(out=tmp_path, train_per_class=1, test_per_class=1)
    assert not run.exists()


@pytest.mark.parametrize("ending", [".vtt", ".csv", ".json", ".png"])
def test_a_timeline_replaces_no_subtitles(ending, tiny_run, clips, tmp_path):
    film = shutil.copy(clips / "jump" / "0.mp4", tmp_path / "film.mp4")
    other = tmp_path / f"film{ending}"
    other.write_text(json.dumps({"title": OTHER}) if ending == ".json" else OTHER)
    options = SegmentOptions(out=tmp_path)
    before = contents(tmp_path)
    with pytest.raises(SettingsError, match=f"film\\{ending}: is there already"):
        predict(tiny_run, [film], segments=True, out=tmp_path)
    assert contents(tmp_path) == before
    other.unlink()
    predict(tiny_run, [film], segments=True, out=options.out)
    predict(tiny_run, [film], segments=True, out=options.out)
    assert {path.suffix for path in tmp_path.glob("film.*")} == {".mp4", ".vtt", ".csv", ".json", ".png"}


@pytest.mark.parametrize("given", ["manifest.csv", "."])
def test_check_does_not_write_over_the_table_that_it_reads(given, clips, tmp_path, monkeypatch):
    root = shutil.copytree(clips, tmp_path / "clips")
    monkeypatch.chdir(root)
    table = root / "manifest.csv"
    table.write_text("path,label\njump/0.mp4,jump\nrun/0.mp4,run\n")
    before = table.read_bytes()
    with pytest.raises(SettingsError, match=r"is the table that is to be checked|did not write it"):
        check("csv", Path(given), workers=0)
    assert contents(root) == contents(clips) | {str(table): before} or table.read_bytes() == before
    check("csv", Path(given), out=Path("found.csv"), workers=0)
    own = Path("found.csv").read_bytes()
    with pytest.raises(SettingsError, match="is the table that is to be checked"):
        check("csv", Path("found.csv"), out=Path("found.csv"), workers=0)
    assert (table.read_bytes(), Path("found.csv").read_bytes()) == (before, own)


@pytest.mark.parametrize("name", ["m.csv", "m.leaks.csv", "m.shortcuts.csv", "m.csv.journal"])
def test_check_replaces_and_removes_no_other_file(name, clips, tmp_path):
    (tmp_path / name).write_text(f"name,note\nanna,{OTHER}\n")
    before = contents(tmp_path)
    with pytest.raises(ActionFusionError):
        check("folder", clips, out=tmp_path / "m.csv", workers=0)
    assert contents(tmp_path) == before


def test_the_manifest_of_other_videos_is_not_replaced(clips, tmp_path):
    (tmp_path / "films").mkdir()
    shutil.copytree(clips / "jump", tmp_path / "films" / "hop")
    shutil.copytree(clips / "run", tmp_path / "films" / "dash")
    check("folder", clips, out=tmp_path / "m.csv", workers=0)
    before = contents(tmp_path)
    with pytest.raises(SettingsError, match="is the manifest of other videos: not one of its 6"):
        check("folder", tmp_path / "films", out=tmp_path / "m.csv", workers=0)
    assert contents(tmp_path) == before


def edit(path: Path, **cells: dict[str, str]) -> None:
    """Change cells of a manifest by hand: of each column, by the video's path."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for column, changed in cells.items():
        for row in rows:
            row[column] = changed.get(row["path"], row[column])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_edits_are_kept_by_every_further_check(clips, tmp_path, capsys):
    root, out = shutil.copytree(clips, tmp_path / "clips"), tmp_path / "m.csv"
    check("folder", root, out=out, workers=0)
    edit(out, group={"jump/0.mp4": "anna"}, status={"run/1.mp4": "blurred"}, reason={"run/1.mp4": "my own eyes"})
    for _ in range(2):
        capsys.readouterr()
        found = {row.path: row for row in check("folder", root, out=out, workers=0).rows}
        assert tuple(found.values()) == read_manifest(out).rows
        assert found["jump/0.mp4"].group == "anna"
        assert (found["run/1.mp4"].status, found["run/1.mp4"].reason) == ("blurred", "my own eyes")
        said = "kept as you edited them: group of 1 videos, status of 1 videos, reason of 1 videos"
        assert said in capsys.readouterr().err
    # What the layout says now replaces what it said then, and not what was edited.
    found = {row.path: row for row in check("folder", root, out=out, group_pattern=r"(?P<group>\d)", workers=0).rows}
    assert [row.group for row in found.values()] == ["anna", "1", "2", "0", "1", "2"]
    # Another video under the name may be sharp.
    shutil.copy(root / "run/2.mp4", root / "run/1.mp4")
    found = {row.path: row for row in check("folder", root, out=out, group_pattern=r"(?P<group>\d)", workers=0).rows}
    assert (found["run/1.mp4"].status, found["jump/0.mp4"].group) == ("ok", "anna")
    # Without its journal nothing says what the layout had said.
    Path(f"{out}.journal").unlink()
    found = {row.path: row for row in check("folder", root, out=out, workers=0).rows}
    assert [found[path].group for path in ("jump/0.mp4", "jump/1.mp4")] == ["anna", "1"]


def test_edits_of_what_the_video_says_are_undone_and_said(clips, tmp_path, capsys):
    root, out = shutil.copytree(clips, tmp_path / "clips"), tmp_path / "m.csv"
    before = check("folder", root, out=out, workers=0).rows
    edit(out, label={"jump/0.mp4": "hop"}, frames={"jump/0.mp4": "900", "run/0.mp4": "901"})
    (root / "run/2.mp4").unlink()
    assert check("folder", root, out=out, workers=0).rows == before[:-1]
    said = capsys.readouterr().err
    assert "edited, and set again to what the data set says: label of 1 videos, frames of 2 videos" in said
    assert "1 rows of videos that are no longer there were dropped: 'run/2.mp4'" in said


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_what_cannot_be_kept_is_refused(ending, clips, tmp_path):
    out = tmp_path / f"m{ending}"
    rows = check("folder", clips, out=out, workers=0).rows
    if ending == ".csv":
        lines = out.read_text().splitlines()
        out.write_text("\n".join(f"{line},{cell}" for line, cell in zip(lines, ["camera", *"abcdef"], strict=True)))
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(parquet.read_table(out).append_column("camera", pa.array([*"abcdef"])), out)
    before = out.read_bytes()
    with pytest.raises(DatasetError, match="has columns of your own, which check would not keep: 'camera'"):
        check("folder", clips, out=out, workers=0)
    assert out.read_bytes() == before
    write_manifest(out, [ManifestRow(**{**vars(row), "frames": 0}) for row in rows])
    with pytest.raises(DatasetError, match="column frames: 0, and the status is ok"):
        check("folder", clips, out=out, workers=0)


def test_prepare_replaces_no_archive_of_another_kind(clips, tmp_path):
    store = tmp_path / "store"
    (store / "jump").mkdir(parents=True)
    other = store / "jump" / "0.mp4.zip"
    shutil.make_archive(str(other.with_suffix("")), "zip", clips / "run")
    before = other.read_bytes()
    made = prepare("folder", clips, store=store, flow=FlowRecipe(size=16, engine="dis"), workers=0)
    assert (made.made, [failure.name for failure in made.failures]) == (5, ["jump/0.mp4"])
    assert "is there already, and is no entry of a store" in made.failures[0].message
    assert other.read_bytes() == before
