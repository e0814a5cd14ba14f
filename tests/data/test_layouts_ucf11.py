"""UCF11 with the names of the real tree: class folders, group folders of another name, Annotation folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from actionfusion.data.layouts import open_dataset
from actionfusion.data.layouts.ucf11 import open_ucf11
from actionfusion.data.splits import leave_one_group_out, make_split
from actionfusion.errors import DatasetError

NAMES = {
    "basketball": "v_shooting",
    "biking": "v_biking",
    "diving": "v_diving",
    "golf_swing": "v_golf",
    "horse_riding": "v_riding",
    "soccer_juggling": "v_juggle",
    "swing": "v_swing",
    "tennis_swing": "v_tennis",
    "trampoline_jumping": "v_jumping",
    "volleyball_spiking": "v_spiking",
    "walking": "v_walk_dog",
}


def tree(root: Path, groups: int = 25, clips: int = 1) -> Path:
    for label, start in NAMES.items():
        (root / label / "Annotation").mkdir(parents=True)
        for group in range(1, groups + 1):
            folder = root / label / f"{start}_{group:02d}"
            folder.mkdir()
            for clip in range(1, clips + 1):
                (folder / f"{start}_{group:02d}_{clip:02d}.mpg").touch()
        (root / label / "Annotation" / f"{start}_01_01.xgtf").touch()
    return root


@pytest.mark.parametrize("pointed", ["UCF11_updated_mpg", ".", "UCF11_updated_mpg/walking"])
def test_the_set_as_it_is_unpacked(tmp_path: Path, pointed: str) -> None:
    root = tree(tmp_path / "UCF11_updated_mpg")
    listing = open_dataset("ucf11", tmp_path / pointed)
    assert listing.describe() == f"ucf11: 11 classes, 275 videos, 275 groups, found in {root}"
    assert listing.labels == tuple(sorted(NAMES))
    assert listing.entries[0].path == "basketball/v_shooting_01/v_shooting_01_01.mpg"
    assert listing.entries[-1].group == "walking/g25"
    above = ("walking is one class of it, so the folder above was taken",) if pointed.endswith("walking") else ()
    assert listing.notes == (
        *above,
        "275 of the set's 1,600 videos are here",
    )
    assert make_split(listing).name == "grouped 7:3, seed 0"


def test_the_doubled_folder_of_the_archive_is_seen_through(tmp_path: Path) -> None:
    root = tree(tmp_path / "UCF11_updated_mpg" / "UCF11_updated_mpg", groups=2)
    assert open_ucf11(tmp_path / "UCF11_updated_mpg").root == root
    assert open_ucf11(tmp_path).root == root


def test_the_usual_protocol_makes_25_splits(tmp_path: Path) -> None:
    listing = open_ucf11(tree(tmp_path / "UCF11_updated_mpg"))
    splits = leave_one_group_out(listing)
    assert [split.name for split in splits] == [f"leave one group out: g{group:02d}" for group in range(1, 26)]
    for split in splits:
        assert len(split.test) == 11
        assert not split.leaks(listing).groups


def test_clips_without_group_folders_and_with_missing_groups(tmp_path: Path) -> None:
    root = tmp_path / "UCF11"
    for label, start in list(NAMES.items())[:3]:
        (root / label).mkdir(parents=True)
        for group in (1, 2):
            (root / label / f"{start}_{group:02d}_01.avi").touch()
    (root / "jumping").mkdir()
    (root / "jumping" / "mine.avi").touch()
    listing = open_ucf11(root)
    assert [entry.group for entry in listing.entries][:2] == ["basketball/g01", "basketball/g02"]
    assert "8 of the 11 classes have no video here: 'golf_swing', 'horse_riding', 'soccer_juggling' and 5 more" in (
        listing.notes
    )
    assert "1 folders are no class of UCF11: 'jumping'" in listing.notes
    assert "4 classes have fewer than 25 groups: 'basketball (2)', 'biking (2)', 'diving (2)' and 1 more" in (
        listing.notes
    )
    assert "1 videos are not named v_<name>_NN_MM and have no group: 'jumping/mine.avi'" in listing.notes


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "UCF11_updated_mpg", groups=2)
    (root / "biking" / "v_biking_01" / "v_biking_01_01.avi").touch()
    with pytest.raises(DatasetError, match=r"same video as 'biking/v_biking_01/v_biking_01_01.avi'"):
        open_ucf11(root)


def test_a_folder_without_ucf11_is_refused(tmp_path: Path) -> None:
    (tmp_path / "top" / "jump").mkdir(parents=True)
    (tmp_path / "top" / "jump" / "a.mpg").touch()
    with pytest.raises(DatasetError, match="no UCF11 class folder"):
        open_ucf11(tmp_path / "top")
