"""HMDB51 with the real tree's names: brackets, exclamation marks, doubled folders, lists with blanks at line ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from actionfusion.data.layouts import open_dataset
from actionfusion.data.layouts.hmdb51 import open_hmdb51
from actionfusion.data.splits import make_split
from actionfusion.errors import DatasetError

VIDEOS = {
    "brush_hair": [f"April_09_brush_hair_u_nm_np1_ba_goo_{n}.avi" for n in range(3)]
    + [f"My_Hair_Routine_brush_hair_h_nm_np1_le_goo_{n}.avi" for n in range(3)],
    "cartwheel": [f"(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_{n}.avi" for n in range(3)]
    + [f"Acrobacias_de_un_fenomeno_cartwheel_f_cm_np1_ba_bad_{n}.avi" for n in range(3)],
    "sword": [f"AHF_longsword_against_Rapier_and_Dagger_Fight_sword_f_cm_np2_ri_bad_{n}.avi" for n in range(6)],
    "sword_exercise": [f"Blade_Of_Fury_-_Scene_1_sword_exercise_f_cm_np1_ri_med_{n}.avi" for n in range(6)],
}


def tree(root: Path, *, doubled: bool = False) -> Path:
    for label, names in VIDEOS.items():
        folder = root / label / label if doubled else root / label
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    return root


def lists(folder: Path) -> Path:
    """In split s, of each class the videos 0-2 train, 3 and 4 are tested and 5 is in neither, turned by s."""
    folder.mkdir(parents=True)
    for label, names in VIDEOS.items():
        for number in (1, 2, 3):
            marks = [(1, 1, 1, 2, 2, 0)[(index + number - 1) % 6] for index in range(6)]
            lines = [f"{name} {mark} \n" for name, mark in zip(names, marks, strict=True)]
            (folder / f"{label}_test_split{number}.txt").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("pointed", ["hmdb51_org", ".", "hmdb51_org/sword"])
@pytest.mark.parametrize(
    "where", ["testTrainMulti_7030_splits", "hmdb51_org/testTrainMulti_7030_splits", "annotations"]
)
def test_the_set_as_it_is_unpacked(tmp_path: Path, pointed: str, where: str, doubled: bool) -> None:
    root = tree(tmp_path / "hmdb51_org", doubled=doubled)
    lists(tmp_path / where)
    listing = open_dataset("hmdb51", tmp_path / pointed)
    assert listing.describe() == f"hmdb51: 4 classes, 24 videos, 6 groups, found in {root}"
    assert listing.labels == ("brush_hair", "cartwheel", "sword", "sword_exercise")
    above = ("sword is one class of it, so the folder above was taken",) if pointed.endswith("sword") else ()
    assert listing.notes == (
        *above,
        "24 of the set's 6,766 videos and 4 of its 51 classes are here",
    )
    for number in (1, 2, 3):
        split = make_split(listing, f"official-{number}")
        assert (split.name, len(split.train), len(split.test)) == (f"hmdb51 official {number}", 12, 8)
    tested = {Path(listing.entries[index].path).name for index in make_split(listing, "official-1").test}
    assert tested == {name for names in VIDEOS.values() for name in names[3:5]}


def test_the_film_is_the_group(tmp_path: Path) -> None:
    listing = open_hmdb51(tree(tmp_path / "hmdb51_org"))
    assert listing.groups == (
        "(Rad)Schlag_die_Bank!",
        "AHF_longsword_against_Rapier_and_Dagger_Fight",
        "Acrobacias_de_un_fenomeno",
        "April_09",
        "Blade_Of_Fury_-_Scene_1",
        "My_Hair_Routine",
    )


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    root = tree(tmp_path / "hmdb51_org")
    folder = lists(tmp_path / "testTrainMulti_7030_splits")
    (folder / "sword_test_split2.txt").unlink()
    (root / "cartwheel" / VIDEOS["cartwheel"][0]).unlink()
    (root / "cartwheel" / "own.avi").touch()
    for label in VIDEOS:
        (folder / f"{label}_test_split3.txt").write_text("nobody_jump_f_cm_np1_le_med_0.avi 1\n")
    listing = open_hmdb51(root)
    assert "1 videos are not named in the set's way and have no group: 'cartwheel/own.avi'" in listing.notes
    assert "official split 1: 1 of its 24 videos are not here" in listing.notes
    assert "official split 2: 1 lists not found: 'sword_test_split2.txt'" in listing.notes
    assert "official split 3 is not offered: one of its parts has no video here" in listing.notes
    assert list(listing.official) == ["official-1", "official-2"]
    assert any("no testTrainMulti_7030_splits" in note for note in open_hmdb51(tree(tmp_path / "x" / "y" / "z")).notes)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("April_09_brush_hair_u_nm_np1_ba_goo_9.avi 3", "line 7 is .* not <video>.avi and 0, 1 or 2"),
        ("April_09_brush_hair_u_nm_np1_ba_goo_9.avi", "line 7 is"),
        (
            "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 2",
            "line 7 names 'April_09_brush_hair_u_nm_np1_ba_goo_0.avi' again",
        ),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    root = tree(tmp_path / "hmdb51_org")
    folder = lists(tmp_path / "testTrainMulti_7030_splits")
    with (folder / "brush_hair_test_split2.txt").open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(DatasetError, match=reason) as caught:
        open_hmdb51(root)
    assert caught.value.subject.endswith("brush_hair_test_split2.txt")


def test_archives_that_are_not_unpacked_are_named(tmp_path: Path) -> None:
    for label in VIDEOS:
        (tmp_path / f"{label}.rar").touch()
    with pytest.raises(DatasetError, match=r"holds only archives .*'brush_hair.rar'.*; unpack them first"):
        open_hmdb51(tmp_path)
