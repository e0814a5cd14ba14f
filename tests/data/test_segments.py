"""Rows of a table that are segments of a video behave like videos of their own, from the table to the answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from actionfusion import check, evaluate, prepare, train
from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.layouts.table import open_table
from actionfusion.data.manifest import read_manifest
from actionfusion.data.segment_source import SegmentSource
from actionfusion.data.segments import Segment, named_segment
from actionfusion.data.splits import hold_out_validation, make_split, make_splits, split_names
from actionfusion.data.store import StoredVideo, entry_path
from actionfusion.errors import DatasetError, NoFrames, VideoError
from actionfusion.evaluation.folds import make_folds
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.video_source import VideoSource

RECIPE = FlowRecipe(size=32, engine="dis")
CLIP = ClipSettings(frames=5, flow_frames=2, flow=RECIPE)
LOSSLESS = {"codec": "ffv1", "pixel_format": "yuv420p"}


@pytest.fixture(scope="module")
def film(tmp_path_factory, make_frames):
    """Forty frames at 25 a second, of two scenes."""
    frames = [frame[:64, :96] for frame in [*make_frames(1, 1, 15), *make_frames(2, 2, 25)]]
    return tmp_path_factory.mktemp("film"), frames


@pytest.mark.parametrize(
    ("segment", "first", "last"),
    [
        (Segment(0.4, 1.0), 10, 25),
        (Segment(0.41, 1.01), 11, 26),
        (Segment(0.4, None), 10, 40),
        (Segment(0.0, 2.2), 0, 40),
        (Segment(7, 8, "frames"), 7, 8),
        (Segment(30, 40, "frames"), 30, 40),
    ],
)
def test_a_segment_is_read_as_if_it_had_been_cut_out(segment, first, last, film, write_video):
    """Frames, flow and times are those of a file that holds these frames alone."""
    folder, frames = film
    whole = write_video(folder / "whole.mkv", frames, **LOSSLESS)
    part = write_video(folder / "part.mkv", frames[first:last], **LOSSLESS)
    clip = cut_clip(SegmentSource(whole, segment, RECIPE), CLIP)
    expected = cut_clip(VideoSource(part, RECIPE), CLIP)
    assert np.array_equal(clip.rgb, expected.rgb)
    assert np.array_equal(clip.flow, expected.flow)
    assert clip.times == pytest.approx(expected.times, abs=0.0015)
    assert clip.positions.tolist() == expected.positions.tolist()


@pytest.mark.parametrize(
    ("segment", "kind", "reason"),
    [
        (Segment(3, 5), NoFrames, "not one frame in its segment t=3,5: the video has 40 frames in 1.56 s"),
        (Segment(1, 4), VideoError, "its segment t=1,4 ends after it"),
        (Segment(30, 41, "frames"), VideoError, "its segment frames=30,41 ends after it"),
        (Segment(0.401, 0.439), NoFrames, "not one frame in its segment t=0.401,0.439"),
    ],
)
def test_a_segment_that_the_video_does_not_have_is_refused(segment, kind, reason, film, write_video):
    folder, frames = film
    whole = write_video(folder / "whole.mkv", frames, **LOSSLESS)
    with pytest.raises(kind, match=reason):
        assert SegmentSource(whole, segment, RECIPE).num_frames


def test_pictures_have_numbers_and_no_seconds(tmp_path):
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), np.full((32, 32, 3), 20 * number, np.uint8))
    rgb, _, times = SegmentSource(tmp_path, Segment(4, 9, "frames"), RECIPE).read([0, 4], [])
    assert rgb[:, 0, 0, 0].tolist() == [80, 160]
    assert times == pytest.approx([0, 4 / 25])
    with pytest.raises(VideoError, match=r"its pictures have no times.*give start_frame and end_frame"):
        assert SegmentSource(tmp_path, Segment(0.1, 0.3), RECIPE).num_frames


NUMBERS = st.integers(0, 10**8).map(lambda number: number / 1000)


@given(st.sampled_from(["a.mp4", "a#t=1,2", "b/c d.avi"]), NUMBERS, st.none() | NUMBERS, st.booleans())
def test_the_name_of_a_segment_is_read_as_it_was_written(path, start, length, in_frames):
    end = None if length is None else start + length + 1
    if in_frames:
        start, end = float(int(start)), None if end is None else float(int(end) + 1)
    segment = Segment(start, None if end is None else round(end, 6), "frames" if in_frames else "t")
    assert named_segment(f"{path}#{segment}") == (path, segment)


@pytest.mark.parametrize("name", ["a.mp4", "a.mp4#t=3,2", "a.mp4#t=1", "a.mp4#frames=1.5,2", "#t=1,2", "a#t=-1,2"])
def test_other_names_are_no_segments(name):
    assert named_segment(name) == (name, None)


def table(folder: Path, rows: list[str], columns: str = "path,label,start,end") -> Path:
    for name in ("a.mp4", "b.mp4"):
        (folder / name).touch()
    path = folder / "l.csv"
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("columns", "row", "reason"),
    [
        ("path,label,start,end", "a.mp4,x,2,1", "column end: '1' is not after the start, 2"),
        ("path,label,start,end", "a.mp4,x,0:01,2", "column start: '0:01' is no time in seconds from 0"),
        ("path,label,start,end", "a.mp4,x,1,nan", "column end: 'nan' is no time"),
        ("path,label,start,end", "a.mp4,x,-1,2", "column start: '-1' is no time"),
        ("path,label,start_frame,end_frame", "a.mp4,x,1.5,3", "column start_frame: '1.5' is no number of a frame"),
        ("path,label,start,end_frame", "a.mp4,x,1,3", "column end_frame: '3', and seconds are given too"),
        ("path,label,start,end", '"a.mp4#t=1,2",x,3,4', "column path: .* names a segment, and other columns do too"),
        ("path,label,start,end", "b.mp4,x,1.0,2", "column path: 'b.mp4' is in line 2 already"),
        ("path,label,start,end", "b.mp4,y,1.0,2", "column label: label conflict: 'b.mp4' is 'x' in line 2"),
    ],
)
def test_a_wrong_segment_is_named_by_line_and_column(tmp_path, columns, row, reason):
    first = "b.mp4,x,1,2" if "frame" not in columns else "b.mp4,x,,"
    with pytest.raises(DatasetError, match=f"line 3, {reason}"):
        open_table(table(tmp_path, [first, row], columns))


def test_segments_of_a_video_with_several_groups_are_refused(tmp_path):
    rows = ["a.mp4,x,0,1,anna", "a.mp4,x,1,2,ben"]
    with pytest.raises(DatasetError, match=r"segments of 'a\.mp4' have several groups: 'anna', 'ben'"):
        open_table(table(tmp_path, rows, "path,label,start,end,group"))


def test_columns_that_are_not_read_are_named(tmp_path):
    listing = open_table(table(tmp_path, ["a.mp4,x,1,2,red", "b.mp4,y,3,4,blue"], "path,label,t_start,t_end,shirt"))
    read = "segments are read from start, end, start_frame, end_frame"
    assert listing.notes == (f"columns that are not read: 't_start', 't_end', 'shirt'; {read}",)
    assert [entry.segment for entry in listing.entries] == [None, None]


def test_a_parquet_table_has_segments_too(tmp_path):
    table(tmp_path, [])
    columns = {"path": ["a.mp4", "a.mp4", "b.mp4"], "label": ["x", "y", "x"], "camera": ["l", "r", "l"]}
    columns |= {"start_frame": [0, 10, None], "end_frame": [10.0, 20.0, None]}
    parquet.write_table(pa.table(columns), tmp_path / "l.parquet")
    listing = open_table(tmp_path / "l.parquet")
    assert [entry.path for entry in listing.entries] == ["a.mp4#frames=0,10", "a.mp4#frames=10,20", "b.mp4"]
    assert listing.notes == (
        "2 segments of 1 videos; an end is not part of its segment, and frames count from 0",
        "columns that are not read: 'camera'",
    )


def many(folder: Path, extra: str = "") -> Path:
    """Eight videos with three segments each, in classes that go across the videos; one has a whole video beside."""
    rows = []
    for number in range(8):
        (folder / f"{number}.mp4").write_text(str(number))
        rows += [f"{number}.mp4,{'xy'[(number + part) % 2]},{part},{part + 1}" for part in range(3)]
    return table(folder, [*rows, "a.mp4,x,,", "a.mp4,y,5,6", *([extra] if extra else [])])


def test_no_split_has_segments_of_a_video_on_two_sides(tmp_path):
    listing = open_table(many(tmp_path))
    names = [name for name in split_names(listing) if ":" not in name or name.endswith("7:3")]
    chosen = [*names, "leave-one-group-out", "leave-one-out", "leave-one-out:0.mp4", "leave-groups-out:1.mp4,2.mp4"]
    count = 0
    for name in chosen:
        for seed in range(5):
            for split in make_splits(listing, name, seed):
                held = hold_out_validation(listing, split, 0.3, seed) if split.train else split
                files = [
                    {listing.entries[index].file_path for index in part} for part in (held.train, held.val, held.test)
                ]
                assert sum(map(len, files)) == len(set.union(*files)), split.name
                count += 1
    assert count > 100
    assert make_split(listing).name.startswith("grouped")


def test_a_column_that_tears_a_video_apart_is_refused(tmp_path):
    rows = ["a.mp4,x,0,1,train", "a.mp4,y,1,2,test", "b.mp4,x,0,1,test", "b.mp4,y,1,2,train"]
    listing = open_table(table(tmp_path, rows, "path,label,start,end,split"))
    with pytest.raises(DatasetError, match=r"segments of '[ab]\.mp4' are in the train part and in the test part"):
        make_split(listing, "column")


@pytest.fixture(scope="module")
def films(tmp_path_factory, make_frames, make_video) -> Path:
    """Six films of two scenes each, one for each class."""
    root = tmp_path_factory.mktemp("films")
    rows = []
    for number in range(6):
        frames = [*make_frames(number, 10 + number, 15), *make_frames(20 + number, 30 + number, 20)]
        make_video(root / f"{number}.mp4", frames)
        part = "test" if number > 3 else "train"
        rows += [f"{number}.mp4,first,0,0.6,{part}", f"{number}.mp4,second,0.6,1.4,{part}"]
    (root / "l.csv").write_text("\n".join(["path,label,start,end,split", *rows]) + "\n")
    return root / "l.csv"


def test_segments_go_through_every_command(films, tmp_path, train_arguments):
    names = {f"{number}.mp4#{part}" for number in range(6) for part in ("t=0,0.6", "t=0.6,1.4")}
    report = check("csv", films, out=tmp_path / "m.csv", workers=0)
    assert {row.path for row in report.rows} == names
    assert {(row.label, row.frames, row.status) for row in report.rows} == {("first", 15, "ok"), ("second", 20, "ok")}
    assert [pair for pair in report.duplicates if pair.kind == "equal"] == []
    assert report.conflicts == ()
    assert not [pair for pair in report.duplicates if pair.first.split("#")[0] == pair.second.split("#")[0]]
    assert all(split.sound for split in report.splits)
    assert read_manifest(tmp_path / "m.csv").rows == report.rows

    recipe = train_arguments["recipe"]
    made = prepare("csv", films, store=tmp_path / "store", flow=recipe.clip.flow, workers=0)
    assert (made.made, made.frames) == (12, 6 * 35)
    assert prepare("csv", films, store=tmp_path / "store", flow=recipe.clip.flow, workers=0).kept == 12
    entry = StoredVideo(entry_path(tmp_path / "store", "0.mp4#t=0.6,1.4"))
    assert (entry.num_frames, entry.times[0]) == (20, 0)

    data = DataSettings(root=films, validation="none", manifest=tmp_path / "m.csv")
    videos = open_data(data)
    assert {videos.listing.entries[index].path for index in videos.split.test} == {n for n in names if n[0] in "45"}
    run = train(recipe.changed(data=data), out=tmp_path / "run")
    read = evaluate(run, films)
    stored = evaluate(run, films, store=tmp_path / "store")
    assert set(read.videos) == set(stored.videos) == {name for name in names if name[0] in "45"}
    assert read.probabilities == pytest.approx(stored.probabilities, abs=0.05)
    source = videos.sources(videos.split.test[:1], recipe.clip)[0]
    assert source.name == "4.mp4#t=0,0.6"
    from_store = open_data(replace(data, store=tmp_path / "store"))
    from_store.check_store(recipe.clip)

    again = check("csv", tmp_path / "m.csv", out=tmp_path / "again.csv", workers=0)
    assert {row.status for row in again.rows} == {"missing"}
    beside = films.with_name("manifest.csv")
    beside.write_bytes((tmp_path / "m.csv").read_bytes())
    again = check("csv", beside, out=tmp_path / "again.csv", workers=0)
    beside.unlink()
    assert {(row.path, row.label, row.frames) for row in again.rows} == {
        (row.path, row.label, row.frames) for row in report.rows
    }


def test_features_of_each_segment_are_kept_apart(films, tmp_path, train_arguments):
    """They are read from one file, whose bytes alone would tell them not apart."""
    recipe = train_arguments["recipe"]
    training = replace(recipe.training, freeze="all")
    features = replace(recipe.features, cache=True, folder=tmp_path / "features")
    data = DataSettings(root=films, validation="none")
    changed = recipe.changed(data=data, training=training, features=features)
    train(changed, out=tmp_path / "run")
    kept = {path.name for path in (tmp_path / "features").rglob("*.safetensors")}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*") if path.is_file()}
    assert len([name for name in kept if name.startswith("0.mp4#t=")]) >= 2
    train(changed, out=tmp_path / "again")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_copies_of_a_film_stay_on_one_side(films, tmp_path):
    rows = []
    for number in range(4):
        for name in (f"{number}.mp4", f"copy {number}.mp4"):
            (tmp_path / name).write_bytes((films.parent / f"{number}.mp4").read_bytes())
        rows += [f"{number}.mp4,first,0,0.6", f"copy {number}.mp4,second,0.6,1.4", f"copy {number}.mp4,first,0,0.6"]
    (tmp_path / "l.csv").write_text("\n".join(["path,label,start,end", *rows]) + "\n")
    videos = open_data(DataSettings(root=tmp_path / "l.csv", validation="none"))
    assert not [note for note in videos.listing.notes if "conflict" in note]
    sides = [
        {videos.listing.entries[index].file_path[-5] for index in part}
        for part in (videos.split.train, videos.split.test)
    ]
    assert sides[0].isdisjoint(sides[1])
    text = (tmp_path / "l.csv").read_text().replace("copy 0.mp4,first", "copy 0.mp4,second")
    (tmp_path / "l.csv").write_text(text)
    notes = open_data(DataSettings(root=tmp_path / "l.csv", validation="none")).listing.notes
    pair = "'0.mp4#t=0,0.6' ('first') and 'copy 0.mp4#t=0,0.6' ('second')"
    assert [note for note in notes if "conflict" in note] == [f"label conflict: the same bytes have two labels: {pair}"]


def test_a_segment_beyond_the_end_is_a_fault_of_its_row(films, tmp_path):
    text = films.read_text().replace("5.mp4,second,0.6,1.4", "5.mp4,second,9,12")
    listed = films.with_name("l2.csv")
    listed.write_text(text)
    report = check("csv", listed, out=tmp_path / "m.csv", workers=0)
    listed.unlink()
    assert [(row.path, row.status) for row in report.faults] == [("5.mp4#t=9,12", "no_frames")]
    assert "not one frame in its segment t=9,12: the video has 35 frames in 1.36 s" in report.faults[0].reason


def test_a_protocol_leaves_whole_videos_out(tmp_path):
    listing = open_table(many(tmp_path))
    folds = make_folds(listing, "leave-one-out", 0, 1, (0,))
    assert len(folds) == 9
    for fold in folds:
        split = make_split(listing, fold.split)
        assert len({listing.entries[index].file_path for index in split.test}) == 1
