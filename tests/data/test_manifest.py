"""The manifest comes back as it was written, and what a person wrote into it wrongly is named by line and column."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actionfusion.data.layouts import open_dataset
from actionfusion.data.listing import Listing, VideoEntry
from actionfusion.data.manifest import COLUMNS, ManifestRow, read_manifest, write_manifest
from actionfusion.errors import DatasetError, SettingsError

text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(lambda s: s.strip() == s)
odd_text = st.one_of(text, st.sampled_from(['a "b"', "a,b", "a\nb", "tab\there", "日本語", "é", "'", ";"]))
rows = st.lists(
    st.builds(
        ManifestRow,
        path=odd_text,
        label=text,
        group=st.none() | text,
        frames=st.integers(1, 10**6),
        fps=st.none() | st.floats(0.1, 1000),
        width=st.integers(0, 10_000),
        height=st.integers(0, 10_000),
        codec=st.sampled_from(["h264", "mpeg4", ""]),
        rotation=st.sampled_from([0, 90, 180, 270]),
        hash=st.sampled_from(["", "ab" * 32]),
        status=st.sampled_from(["ok", "damaged", "too_short"]),
        reason=st.just("") | odd_text,
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row.path,
)


def test_the_columns_of_the_contract_come_first():
    assert COLUMNS[:12] == (
        *("path", "label", "group", "frames", "fps", "width"),
        *("height", "codec", "rotation", "hash", "status", "reason"),
    )


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.parquet"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(written=rows)
def test_it_comes_back_as_it_was_written(tmp_path, name, written):
    write_manifest(tmp_path / name, written)
    assert list(read_manifest(tmp_path / name).rows) == written


def test_an_ending_that_is_no_tables_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="does not end like a table"):
        write_manifest(tmp_path / "manifest.xls", [])


LISTING = Listing("folder", Path("/data"), (VideoEntry("a/1.avi", "a"), VideoEntry("b/2.avi", "b")), ("a", "b"))
GOOD = [ManifestRow("a/1.avi", "a", "g1", 30, 25.0), ManifestRow("b/2.avi", "b", None, 31, None)]


def edited(path: Path, old: str, new: str) -> Path:
    write_manifest(path, GOOD)
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",30,", ",thirty,", "line 2, column frames: 'thirty' is no whole number"),
        (",30,", ",-1,", "line 2, column frames: '-1'"),
        (",30,", f",{'1' * 30},", "line 2, column frames: '1111111111"),
        (",30,", ",0,", "line 2, column frames: 0, and the status is ok"),
        (",25.0,", ",fast,", "line 2, column fps: 'fast' is no rate"),
        (",25.0,", ",nan,", "line 2, column fps: 'nan'"),
        ("b/2.avi", "a/1.avi", "line 3, column path: 'a/1.avi' is in line 2 already"),
        ("b/2.avi,b", "b/2.avi,", "line 3, column label: is empty"),
        (",ok,", ",,", "line 2, column status: is empty"),
        (",ok,,", ",ok,,x/9.avi", "line 2, column double_of: there is no row of 'x/9.avi'"),
        ("path,label", "file,label", "line 1 has no column 'path'"),
        (",frames,", ",frames,frames,", "line 1 names column 'frames' twice"),
        (",31,", ",31,,,,,,,,,,,", "line 3 has 23 cells where the header has 13"),
        ("a/1.avi,", '"a/1.avi,', "line 2 is no CSV"),
    ],
)
def test_what_was_edited_wrongly_is_named(tmp_path, old, new, said):
    with pytest.raises(DatasetError) as raised:
        read_manifest(edited(tmp_path / "m.csv", old, new))
    # The table's own reader names a column that is missing in other words.
    told = str(raised.value)
    assert "m.csv" in told
    assert "\n" not in told
    assert said in told or ("no column" in said and "has no column path" in told)


def test_no_manifest_and_an_empty_one(tmp_path):
    with pytest.raises(DatasetError, match="no such manifest"):
        read_manifest(tmp_path / "m.csv")
    write_manifest(tmp_path / "m.csv", [])
    with pytest.raises(DatasetError, match="no rows"):
        read_manifest(tmp_path / "m.csv")


def apply(tmp_path, rows, listing=LISTING):
    write_manifest(tmp_path / "m.csv", rows)
    return read_manifest(tmp_path / "m.csv").applied_to(listing)


def test_a_listing_learns_groups_frames_and_duplicates(tmp_path):
    twin = ManifestRow("b/2.avi", "b", None, 31, None, double_of="a/1.avi")
    listing = apply(tmp_path, [ManifestRow("a/1.avi", "a", "g1", 30, double_of="a/1.avi"), twin])
    assert [(entry.group, entry.frames, entry.double_of) for entry in listing.entries] == [
        ("g1", 30, "a/1.avi"),
        (None, 31, "a/1.avi"),
    ]


def test_videos_that_are_not_ok_are_left_out_and_said(tmp_path):
    listing = apply(tmp_path, [GOOD[0], ManifestRow("b/2.avi", "b", None, 3, status="damaged", reason="cut")])
    assert [entry.path for entry in listing.entries] == ["a/1.avi"]
    assert listing.labels == ("a",)
    assert any(
        "1 videos that the manifest says are not ok were left out (1 damaged): 'b/2.avi'" in n for n in listing.notes
    )


def test_a_manifest_of_other_videos_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"has no row for 'b/2\.avi'"):
        apply(tmp_path, GOOD[:1])
    with pytest.raises(DatasetError, match="line 3, column label: 'c', and the data set says 'b'"):
        apply(tmp_path, [GOOD[0], ManifestRow("b/2.avi", "c", None, 31)])
    with pytest.raises(DatasetError, match="no video in it is ok"):
        apply(tmp_path, [ManifestRow(row.path, row.label, status="damaged") for row in GOOD])
    listing = apply(tmp_path, [*GOOD, ManifestRow("c/3.avi", "c", None, 30)])
    assert "1 rows of the manifest have no video here: 'c/3.avi'" in listing.notes


def test_a_manifest_in_the_data_sets_folder_is_a_table_of_it(tmp_path, make_frames, make_video):
    for path in ("a/1.mp4", "b/2.mp4"):
        make_video(tmp_path / path, make_frames(count=3))
    rows = [ManifestRow("a/1.mp4", "a", "g1", 3), ManifestRow("b/2.mp4", "b", None, 3, status="damaged")]
    write_manifest(tmp_path / "manifest.csv", rows)
    listing = open_dataset("csv", tmp_path / "manifest.csv")
    assert [(entry.path, entry.label, entry.group) for entry in listing.entries] == [("a/1.mp4", "a", "g1")]
