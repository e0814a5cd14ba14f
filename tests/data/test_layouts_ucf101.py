"""UCF101 as it is unpacked, in part, and broken.  The videos are empty files: no layout opens one."""

from __future__ import annotations

from pathlib import Path

import pytest

from actionfusion.data.layouts import open_dataset
from actionfusion.data.layouts.ucf101 import open_ucf101
from actionfusion.data.splits import make_split
from actionfusion.errors import DatasetError

CLASSES = ("ApplyEyeMakeup", "Archery", "HandstandPushups", "YoYo")
# The real set spells this class in two ways: the folder and classInd.txt with a small s, the files with a large one.
IN_FILES = {"HandstandPushups": "HandStandPushups"}


def name(label: str, group: int, clip: int) -> str:
    return f"v_{IN_FILES.get(label, label)}_g{group:02d}_c{clip:02d}.avi"


def tree(top: Path, videos: str = "UCF-101", groups: int = 9, clips: int = 2) -> Path:
    for label in CLASSES:
        folder = top / videos / label
        folder.mkdir(parents=True)
        for group in range(1, groups + 1):
            for clip in range(1, clips + 1):
                (folder / name(label, group, clip)).touch()
    return top / videos


def lists(folder: Path, groups: int = 9, clips: int = 2, ending: str = "\n") -> Path:
    """The official three splits' shape: groups 1-3, 4-6 and 7-9 are tested in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classInd.txt").write_text("".join(f"{n} {c}{ending}" for n, c in enumerate(CLASSES, 1)), newline="")
    for number in (1, 2, 3):
        sides: dict[str, list[str]] = {"train": [], "test": []}
        for index, label in enumerate(CLASSES, 1):
            for group in range(1, groups + 1):
                tested = (group - 1) // 3 == number - 1
                for clip in range(1, clips + 1):
                    line = f"{label}/{name(label, group, clip)}"
                    sides["test" if tested else "train"].append(line if tested else f"{line} {index}")
        for part, lines in sides.items():
            (folder / f"{part}list{number:02d}.txt").write_text(
                "".join(f"{line}{ending}" for line in lines), newline=""
            )
    return folder


def test_the_set_as_it_is_unpacked(tmp_path: Path) -> None:
    root = tree(tmp_path)
    lists(tmp_path / "ucfTrainTestlist", ending="\r\n")
    listing = open_dataset("ucf101", root)
    assert listing.describe() == f"ucf101: 4 classes, 72 videos, 36 groups, found in {root}"
    assert listing.labels == CLASSES
    assert listing.entries[0].path == "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"
    assert listing.entries[0].group == "ApplyEyeMakeup/g01"
    assert listing.notes == ("72 of the set's 13,320 videos are here",)
    assert list(listing.official) == ["official-1", "official-2", "official-3"]
    for number in (1, 2, 3):
        split = make_split(listing, f"official-{number}")
        assert split.name == f"ucf101 official {number}"
        assert (len(split.train), len(split.test)) == (48, 24)
        assert not split.leaks(listing).groups
        tested = {listing.entries[index].fold for index in split.test}
        assert tested == {f"g{group:02d}" for group in range(3 * number - 2, 3 * number + 1)}


@pytest.mark.parametrize(
    "where",
    [
        "UCF-101/ucfTrainTestlist",
        "ucfTrainTestlist",
        "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
        "../ucfTrainTestlist",
        "UCF-101",
        "splits_classification",
    ],
)
@pytest.mark.parametrize("pointed", ["UCF-101", ".", "UCF-101/Archery"])
def test_root_and_lists_are_found_one_level_around(tmp_path: Path, where: str, pointed: str) -> None:
    top = tmp_path / "data"
    root = tree(top)
    lists(top / where)
    listing = open_ucf101(top / pointed)
    assert listing.root == root
    assert len(listing.official) == 3
    assert not any("Testlist" in note or "splits_" in note for note in listing.notes)


def test_a_subset_of_classes_and_videos_works(tmp_path: Path) -> None:
    root = tree(tmp_path)
    lists(tmp_path / "ucfTrainTestlist")
    for file in (root / "YoYo").iterdir():
        file.unlink()
    (root / "YoYo").rmdir()
    (root / "Archery" / name("Archery", 1, 1)).unlink()
    (root / "Archery" / name("Archery", 9, 2)).unlink()
    listing = open_ucf101(root)
    assert listing.labels == CLASSES[:3]
    assert "1 of the 4 classes of classInd.txt have no video here: 'YoYo'" in listing.notes
    assert (
        "official split 1: videos that are not here: 13 of 48 in trainlist01.txt, 7 of 24 in testlist01.txt"
        in listing.notes
    )
    split = make_split(listing, "official-1")
    assert (len(split.train), len(split.test)) == (35, 17)


def test_classes_come_in_the_official_order_and_others_last(tmp_path: Path) -> None:
    root = tree(tmp_path)
    folder = lists(tmp_path / "ucfTrainTestlist")
    numbered = "1 YoYo\n2 Archery\n3 HandStandPushups\n"
    (folder / "classInd.txt").write_text(numbered)
    for number in (1, 2, 3):
        (folder / f"trainlist{number:02d}.txt").write_text(f"YoYo/{name('YoYo', 4, 1)} 1\n")
        (folder / f"testlist{number:02d}.txt").write_text(f"YoYo/{name('YoYo', 5, 1)}\n")
    listing = open_ucf101(root)
    # The index's spelling is the label, and the folder that the index does not know comes last.
    assert listing.labels == ("YoYo", "Archery", "HandStandPushups", "ApplyEyeMakeup")
    assert "1 folders are no class of classInd.txt and come last: 'ApplyEyeMakeup'" in listing.notes


def test_without_lists_groups_make_the_split(tmp_path: Path) -> None:
    listing = open_ucf101(tree(tmp_path))
    assert listing.official == {}
    assert any(note.startswith("official lists: no folder ucfTrainTestlist") for note in listing.notes)
    assert make_split(listing).name == "grouped 7:3, seed 0"


def test_missing_list_files_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path)
    folder = lists(tmp_path / "ucfTrainTestlist")
    (folder / "testlist02.txt").unlink()
    (folder / "testlist03.txt").write_text("Archery/v_Archery_g99_c01.avi\n")
    listing = open_ucf101(root)
    assert "official split 2: testlist02.txt not found" in listing.notes
    assert "official split 3 is not offered: one of its parts has no video here" in listing.notes
    assert list(listing.official) == ["official-1"]
    with pytest.raises(DatasetError, match="has no split 'official-2'; choose one of official-1"):
        make_split(listing, "official-2")


def test_videos_in_another_container_are_found_in_the_lists(tmp_path: Path) -> None:
    root = tree(tmp_path)
    lists(tmp_path / "ucfTrainTestlist")
    for file in list(root.rglob("*.avi")):
        file.rename(file.with_suffix(".mp4"))
    assert len(make_split(open_ucf101(root), "official-1").train) == 48


def test_what_does_not_belong_is_left_out_and_counted(tmp_path: Path) -> None:
    root = tree(tmp_path)
    lists(tmp_path / "ucfTrainTestlist")
    (root / ".DS_Store").touch()
    (root / "Archery" / "._v_Archery_g01_c01.avi").touch()
    (root / "Archery" / "notes.txt").touch()
    (root / "Archery" / "own clip.avi").touch()
    (root / "Bowling").mkdir()
    (root / "loose.avi").touch()
    (root / "YoYo" / "v_Bowling_g01_c01.avi").touch()
    notes = open_ucf101(root).notes
    assert "2 hidden files or folders were ignored" in notes
    assert "1 files that are no video were ignored (1 .txt)" in notes
    assert "no video in 1 folders: 'Bowling'" in notes
    assert "1 videos are outside any class folder and were left out: 'loose.avi'" in notes
    assert "1 videos are not named v_<Class>_gNN_cNN and have no group: 'Archery/own clip.avi'" in notes
    assert "1 videos are in another folder than the class of their name: 'YoYo/v_Bowling_g01_c01.avi'" in notes
    assert "official split 1: 2 videos are in neither list" in notes
    assert all("\n" not in note for note in notes)


@pytest.mark.parametrize("twin", ["Archery/v_Archery_g01_c01.mp4", "YoYo/v_Archery_g01_c01.avi"])
def test_two_files_of_one_name_are_refused(tmp_path: Path, twin: str) -> None:
    root = tree(tmp_path)
    (root / twin).touch()
    with pytest.raises(DatasetError, match=r"is by its name the same video as .*v_Archery_g01_c01"):
        open_ucf101(root)


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("trainlist01.txt", "v_Archery_g01_c01.avi 2", "line 49 is 'v_Archery_g01_c01.avi 2', not <Class>/<video>.avi"),
        (
            "trainlist01.txt",
            "Archery/v_Archery_g11_c01.avi 3",
            "line 49 gives Archery the number 3, classInd.txt gives",
        ),
        ("testlist02.txt", f"YoYo/{name('YoYo', 4, 1)}", "line 25 names .* again, it is on line 19 already"),
        ("testlist03.txt", f"YoYo/{name('YoYo', 1, 1)}", "line 25 is in trainlist03.txt too, on line 37"),
        ("classInd.txt", "five Rowing", "line 5 is 'five Rowing', not a number and a class"),
        ("classInd.txt", "6 yoyo", "line 5 names class 'yoyo' again"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path: Path, file: str, line: str, reason: str) -> None:
    root = tree(tmp_path)
    folder = lists(tmp_path / "ucfTrainTestlist")
    with (folder / file).open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(DatasetError, match=reason) as caught:
        open_ucf101(root)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path)
    folder = lists(tmp_path / "ucfTrainTestlist")
    (folder / "testlist01.txt").write_bytes(b"Archery/\xff\xfe.avi\n")
    with pytest.raises(DatasetError, match=r"testlist01.txt: is no text at byte 8"):
        open_ucf101(root)


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path)
    folder = lists(tmp_path / "ucfTrainTestlist")
    (folder / "testlist02.txt").unlink()
    (folder / "testlist02.txt").mkdir()
    with pytest.raises(DatasetError, match=r"testlist02.txt: cannot be read \(Is a directory\)"):
        open_ucf101(root)


def test_lists_without_an_index_do(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (lists(tmp_path / "ucfTrainTestlist") / "classInd.txt").unlink()
    listing = open_ucf101(root)
    assert listing.labels == CLASSES
    assert len(make_split(listing, "official-3").test) == 24


def test_a_class_in_one_list_alone_is_refused_when_the_split_is_used(tmp_path: Path) -> None:
    root = tree(tmp_path)
    lists(tmp_path / "ucfTrainTestlist")
    for group in range(4, 10):
        for clip in (1, 2):
            (root / "Archery" / name("Archery", group, clip)).unlink()
    listing = open_ucf101(root)
    with pytest.raises(DatasetError, match=r"ucf101 official 1: class 'Archery' is only in the test part \(6 videos\)"):
        make_split(listing, "official-1")
    with pytest.raises(DatasetError, match="class 'Archery' is only in the training part"):
        make_split(listing, "official-2")


def test_a_folder_without_ucf101_is_refused(tmp_path: Path) -> None:
    (tmp_path / "top" / "jump").mkdir(parents=True)
    (tmp_path / "top" / "jump" / "a.mp4").touch()
    with pytest.raises(DatasetError, match="no UCF101 class folder with videos like"):
        open_ucf101(tmp_path / "top")


def test_two_sets_side_by_side_must_be_chosen_from(tmp_path: Path) -> None:
    tree(tmp_path, "first")
    tree(tmp_path, "second")
    with pytest.raises(DatasetError, match=r"several folders in it look like .*'first', 'second'; point at one"):
        open_ucf101(tmp_path)
