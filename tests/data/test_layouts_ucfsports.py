"""UCF Sports with the real tree's 13 folders, spaces, brackets, gt folders, and sequences of pictures alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from actionfusion.data.layouts import open_dataset
from actionfusion.data.layouts.tree import frame_files
from actionfusion.data.layouts.ucfsports import open_ucfsports
from actionfusion.data.splits import leave_one_out, make_split, random_7_3
from actionfusion.errors import DatasetError

# The set's own page: ten actions and their videos.
PUBLISHED = {
    "Diving": 14,
    "Golf Swing": 18,
    "Kicking": 20,
    "Lifting": 6,
    "Riding Horse": 12,
    "Running": 13,
    "SkateBoarding": 12,
    "Swing-Bench": 20,
    "Swing-Side": 13,
    "Walking": 22,
}
FOLDERS = {
    "Diving-Side": 14,
    "Golf-Swing-Back": 5,
    "Golf-Swing-Front": 8,
    "Golf-Swing-Side": 5,
    "Kicking-Front": 10,
    "Kicking-Side": 10,
    "Lifting": 6,
    "Riding-Horse": 12,
    "Run-Side": 13,
    "SkateBoarding-Front": 12,
    "Swing-Bench": 20,
    "Swing-SideAngle": 13,
    "Walk-Front": 22,
}


def tree(root: Path) -> Path:
    for folder, count in FOLDERS.items():
        for number in range(1, count + 1):
            sequence = root / folder / f"{number:03d}"
            (sequence / "gt").mkdir(parents=True)
            (sequence / "gt" / "4475-2_70045.tif.txt").touch()
            if folder == "Diving-Side" and number >= 8:
                for frame in (99, 100, 101):
                    (sequence / f"4475-6_700{frame}.jpg").touch()
                continue
            (sequence / ("7608-9_70(2)151.avi" if folder.startswith("Golf") else "3206-12_70000.avi")).touch()
            if folder != "Golf-Swing-Back":
                (sequence / "3206-12_70000.jpg").touch()
    return root


@pytest.mark.parametrize("pointed", ["ucf_sports_actions/ucf action", "ucf_sports_actions", ".", "{}/Kicking-Front"])
def test_the_set_as_it_is_unpacked(tmp_path: Path, pointed: str) -> None:
    root = tree(tmp_path / "ucf_sports_actions" / "ucf action")
    (root / "Thumbs.db").touch()
    listing = open_dataset("ucfsports", tmp_path / pointed.format("ucf_sports_actions/ucf action"))
    assert listing.root == root
    assert Counter(entry.label for entry in listing.entries) == PUBLISHED
    assert listing.labels == tuple(PUBLISHED)
    expected = "ucfsports: 10 classes, 150 videos (7 as folders of pictures), groups not known, found in"
    assert listing.describe() == f"{expected} {root}"
    above = ("Kicking-Front is one class of it, so the folder above was taken",) if "Kicking" in pointed else ()
    assert listing.notes == (*above, "1 files that are no video were ignored (1 .db)")
    frames = [entry for entry in listing.entries if entry.kind == "frames"]
    assert [entry.path for entry in frames] == [f"Diving-Side/{number:03d}" for number in range(8, 15)]
    assert listing.path(listing.entries.index(frames[0])).is_dir()
    assert "Golf-Swing-Front/002/7608-9_70(2)151.avi" in {entry.path for entry in listing.entries}


def test_the_papers_split_and_the_usual_one(tmp_path: Path) -> None:
    listing = open_ucfsports(tree(tmp_path / "ucf action"))
    assert make_split(listing).name == "stratified random 7:3, seed 0, repeat 1"
    # Ou and Sun report 100 % on what must have been 45 videos.
    assert len(random_7_3(listing)[0].test) == 45
    assert len(list(leave_one_out(listing))) == 150
    with pytest.raises(DatasetError, match="groups of its videos are not known"):
        make_split(listing, "grouped-7:3")


def test_odd_sequences_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "ucf_action")
    (root / "Lifting" / "001" / "second.avi").touch()
    (root / "Lifting" / "002" / "3206-12_70000.avi").unlink()
    (root / "Lifting" / "002" / "3206-12_70000.jpg").unlink()
    (root / "Run-Side" / "001" / "3206-12_70000.avi").unlink()
    (root / "Run-Side" / "001" / "jpeg").mkdir()
    (root / "Run-Side" / "001" / "3206-12_70000.jpg").rename(root / "Run-Side" / "001" / "jpeg" / "1.jpg")
    (root / "Rowing").mkdir()
    (root / "Swimming" / "001").mkdir(parents=True)
    (root / "Swimming" / "001" / "a.avi").touch()
    (root / "Walk-Front").rename(root / "walk front")
    listing = open_ucfsports(root)
    notes = listing.notes
    assert "1 sequences hold more than one video, the first was taken: 'Lifting/001'" in notes
    assert "no video in 2 folders: 'Lifting/002', 'Rowing'" in notes
    assert "1 folders are none of the set's 13 and are classes of their own: 'Swimming'" in notes
    assert "Run-Side/001/jpeg" in {entry.path for entry in listing.entries if entry.kind == "frames"}
    assert listing.labels == tuple(sorted([*PUBLISHED, "Swimming"]))
    assert Counter(entry.label for entry in listing.entries)["Walking"] == 22


def test_a_part_of_the_set_works_and_is_said(tmp_path: Path) -> None:
    sequence = tmp_path / "ucf action" / "Kicking-Side" / "004"
    sequence.mkdir(parents=True)
    (sequence / "a.avi").touch()
    listing = open_ucfsports(tmp_path / "ucf action")
    assert listing.labels == ("Kicking",)
    assert listing.notes == (
        "1 of the set's 150 videos are here",
        "9 of the 10 classes have no video here: 'Diving', 'Golf Swing', 'Lifting' and 6 more",
    )


def test_pictures_of_a_sequence_come_in_order_of_time(tmp_path: Path) -> None:
    for number in (101, 9, 99, 100, 1000):
        (tmp_path / f"4475-6_7{number}.jpg").touch()
    (tmp_path / "boxes.txt").touch()
    (tmp_path / ".hidden.jpg").touch()
    assert [file.stem for file in frame_files(tmp_path)] == [
        "4475-6_79", "4475-6_799", "4475-6_7100", "4475-6_7101", "4475-6_71000",
    ]  # fmt: skip


def test_a_folder_without_ucfsports_is_refused(tmp_path: Path) -> None:
    (tmp_path / "top" / "jump").mkdir(parents=True)
    (tmp_path / "top" / "jump" / "a.avi").touch()
    with pytest.raises(DatasetError, match="no UCF Sports class folder"):
        open_ucfsports(tmp_path / "top")
