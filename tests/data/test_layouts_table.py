"""Tables of videos: CSV, TSV and Parquet, and every way to edit one wrongly."""

from __future__ import annotations

import builtins
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from actionfusion.data.layouts import open_dataset
from actionfusion.data.layouts.table import open_table
from actionfusion.data.listing import Listing
from actionfusion.data.splits import make_split
from actionfusion.errors import DatasetError

ROWS = [
    ("jump/anna.mp4", "jump", "anna", "train"),
    ("jump/ben.mp4", "jump", "ben", "test"),
    ("run/anna.mp4", "run", "anna", "Train"),
    ("run/ben.mp4", "run", "ben", "test"),
    ("run/carl.mp4", "run", "", "val"),
    ("run/dora.mp4", "run", "", ""),
]
HEADER = "path,label,group,split"


def videos(folder: Path) -> Path:
    for path, *_ in ROWS:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def write(folder: Path, text: str, name: str = "clips.csv") -> Path:
    file = videos(folder) / name
    file.write_text(text, encoding="utf-8", newline="")
    return file


def text(delimiter: str = ",", ending: str = "\n") -> str:
    lines = [HEADER.replace(",", delimiter), *(delimiter.join(row) for row in ROWS)]
    return "".join(line + ending for line in lines)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("clips.csv", text()),
        ("clips.CSV", text(ending="\r\n")),
        ("clips.csv", "\ufeff" + text(";")),
        ("clips.tsv", text("\t")),
        ("clips.csv", text().replace("\n", "\n\n")),
        ("clips.csv", text().replace(",", ", ").replace("path, label", "Path, LABEL")),
        ("clips.csv", text().replace("jump/", "jump\\")),
    ],
)
@pytest.mark.parametrize("pointed", ["", "."])
def test_a_table_of_text(tmp_path: Path, name: str, content: str, pointed: str) -> None:
    file = write(tmp_path, content, name)
    check(open_dataset("csv", file), tmp_path)
    check(open_dataset("csv", tmp_path / pointed), tmp_path)


def check(listing: Listing, root: Path) -> None:
    assert listing.describe() == f"csv: 2 classes, 6 videos, 2 groups, found in {root}"
    assert [(entry.path, entry.label, entry.group) for entry in listing.entries] == [
        (path, label, group or None) for path, label, group, _ in ROWS
    ]
    assert listing.notes == ("1 videos have an empty split and are in no part of it",)
    split = make_split(listing, "column")
    assert split == make_split(listing)
    assert (split.name, split.train, split.val, split.test) == ("column: split", (0, 2), (4,), (1, 3))


def test_a_parquet_table(tmp_path: Path) -> None:
    videos(tmp_path)
    columns = list(zip(*ROWS, strict=True))
    table = pa.table(
        {
            "Path": columns[0],
            "label": pa.array(columns[1]).dictionary_encode(),
            "group": [group or None for group in columns[2]],
            "split": columns[3],
            "frames": [7] * len(ROWS),
        }
    )
    parquet.write_table(table, tmp_path / "clips.parquet")
    check(open_table(tmp_path / "clips.parquet"), tmp_path)


def test_labels_may_be_numbers_in_parquet(tmp_path: Path) -> None:
    videos(tmp_path)
    parquet.write_table(pa.table({"path": [ROWS[0][0], ROWS[2][0]], "label": [3, 4]}), tmp_path / "c.parquet")
    listing = open_table(tmp_path)
    assert listing.labels == ("3", "4")
    assert listing.official == {}


def test_columns_that_are_not_there_are_no_fault(tmp_path: Path) -> None:
    file = write(tmp_path, "label,path\njump,jump/anna.mp4\nrun,run/ben.mp4\n")
    listing = open_table(file)
    assert listing.groups == ()
    assert listing.official == {}
    assert listing.notes == ()


def test_rows_that_a_manifest_found_broken_are_left_out(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "path,label,group,frames,status,reason\n"
        "jump/anna.mp4,jump,,30,ok,\n"
        "run/ben.mp4,run,,30,ok,\n"
        "run/gone.mp4,run,,0,missing,there is no file\n"
        "run/carl.mp4,run,,2,too_short,\n",
    )
    listing = open_table(file)
    assert [entry.path for entry in listing.entries] == ["jump/anna.mp4", "run/ben.mp4"]
    assert listing.notes == ("2 rows have a status other than ok and were left out (1 missing, 1 too_short)",)


def test_videos_outside_the_tables_folder(tmp_path: Path) -> None:
    videos(tmp_path / "videos")
    (tmp_path / "tables").mkdir()
    file = tmp_path / "tables" / "clips.csv"
    file.write_text(f"path,label\n../videos/jump/anna.mp4,jump\n{tmp_path}/videos/run/ben.mp4,run\n")
    listing = open_table(file)
    assert listing.root == tmp_path
    assert [entry.path for entry in listing.entries] == ["videos/jump/anna.mp4", "videos/run/ben.mp4"]


def test_odd_names_and_folders_of_pictures(tmp_path: Path) -> None:
    names = ['say "hi".mp4', "two\nlines.mp4", "comma, here.mp4", "日本語.mp4", "no ending"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.jpg").touch()
    quoted = [f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names]
    file = tmp_path / "clips.csv"
    file.write_text("path,label\n" + "".join(f"{name},odd\n" for name in [*quoted, "frames"]), newline="")
    listing = open_table(file)
    assert {entry.path for entry in listing.entries} == {*names, "frames"}
    assert [entry.path for entry in listing.entries if entry.kind == "frames"] == ["frames"]
    assert listing.notes == ("1 files do not end like a video: 'no ending'",)


def test_val_stands_in_for_test_and_that_is_said(tmp_path: Path) -> None:
    file = write(tmp_path, "path,label,split\njump/anna.mp4,jump,train\njump/ben.mp4,jump,val\n")
    split = make_split(open_table(file), "column")
    assert (split.name, split.train, split.val, split.test) == ("column: split, val as test", (0,), (), (1,))
    assert len(split.notes) == 1


def test_a_column_of_one_part_is_not_offered(tmp_path: Path) -> None:
    file = write(tmp_path, "path,label,split\njump/anna.mp4,jump,train\njump/ben.mp4,jump,train\n")
    listing = open_table(file)
    assert listing.official == {}
    assert listing.notes == ("column split is not offered: it names no video for training, or none for testing",)


GOOD = "jump/anna.mp4,jump,anna,train\n"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (",jump,ben,test\n", "line 3, column path: is empty"),
        ("jump/ben.mp4, ,ben,test\n", "line 3, column label: is empty"),
        ("jump/ben.mp4,jump,ben,tset\n", "line 3, column split: 'tset' is none of train, val and test"),
        ("\njump/../jump/anna.mp4,jump,anna,test\n", "line 4, column path: .* is in line 2 already"),
        ("\njump/../jump/anna.mp4,run,anna,test\n", "line 4, column label: label conflict: .* is 'jump' in line 2"),
        ("run,jump,ben,test\n", "line 3, column path: 'run' is a folder without pictures"),
        ("jump/ben.mp4,jump,ben\n", "line 3 has 3 cells where the header has 4"),
        ("jump/ben.mp4,jump,ben,test,,\n", "line 3 has 6 cells where the header has 4"),
        ('"jump/ben.mp4,jump,ben,test\n', "line 3 is no CSV"),
        ('"a\nb",,"ben",test\n', "line 3, column label: is empty"),
        ("a\0b.mp4,jump,ben,test\n", "line 3"),
    ],
)
def test_a_wrong_row_is_named_by_line_and_column(tmp_path: Path, rows: str, reason: str) -> None:
    file = write(tmp_path, f"{HEADER}\n{GOOD}{rows}")
    with pytest.raises(DatasetError, match=reason) as caught:
        open_table(file)
    assert caught.value.subject == str(file)
    assert "\n" not in str(caught.value)


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    (tmp_path / "two\nlines.mp4").touch()
    file = write(tmp_path, f'{HEADER}\n"two\nlines.mp4",jump,,\n{GOOD}jump,jump,,\n')
    with pytest.raises(DatasetError, match="line 5, column path"):
        open_table(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        (f"{HEADER}\n", "has a header and no rows"),
        ("file,label\na,b\n", "line 1 has no column path, only 'file', 'label'"),
        ("a,b\nc,d\n", "line 1 has no column path and no column label, only 'a', 'b'"),
        ("path,label,path\na,b,c\n", "line 1 names column 'path' twice"),
        ("path,label,status\njump/anna.mp4,jump,damaged\n", "every row has a status other than ok"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        open_table(write(tmp_path, content))


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    file.write_bytes(b"path,label\nj\xe4ger.mp4,jump\n")
    with pytest.raises(DatasetError, match="is no UTF-8 text at byte 12; save it as UTF-8"):
        open_table(file)


def test_a_table_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, text())

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DatasetError, match=r"clips.csv: cannot be read \(Permission denied\)"):
        open_table(file)


def test_a_wrong_parquet_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos(tmp_path)
    file = tmp_path / "clips.parquet"
    file.write_bytes(b"not parquet at all")
    with pytest.raises(DatasetError, match="is no readable Parquet file"):
        open_table(file)
    parquet.write_table(pa.table({"file": ["a"], "label": ["b"]}), file)
    with pytest.raises(DatasetError, match="its schema has no column path"):
        open_table(file)
    parquet.write_table(pa.table({"path": [ROWS[0][0], None], "label": ["a", "b"]}), file)
    with pytest.raises(DatasetError, match="row 2, column path: is empty"):
        open_table(file)
    plain = builtins.__import__

    def without_pyarrow(name: str, *rest: object, **named: object) -> object:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return plain(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(DatasetError, match="pip install pyarrow"):
        open_table(file)


def test_the_table_must_be_found(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (tmp_path / "list.txt").touch()
    with pytest.raises(DatasetError, match=r"holds no .csv, .tsv or .parquet file"):
        open_table(top)
    with pytest.raises(DatasetError, match="is no table by its ending"):
        open_table(tmp_path / "list.txt")
    with pytest.raises(DatasetError, match="there is no such file or folder"):
        open_table(tmp_path / "absent.csv")
    write(top, text(), "a.csv")
    write(top, text(), "b.csv")
    with pytest.raises(DatasetError, match=r"holds several tables: 'a.csv', 'b.csv'"):
        open_table(top)
