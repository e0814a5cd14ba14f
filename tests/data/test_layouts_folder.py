"""A folder of one's own: classes, parts, odd names, loops, and everything that can be wrong with a root."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from actionfusion.data.layouts import LAYOUTS, open_dataset
from actionfusion.data.layouts.folder import open_folder
from actionfusion.data.splits import make_split
from actionfusion.errors import DatasetError, SettingsError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


PLAIN = ("jump/a.mp4", "jump/b.MOV", "run/c.avi", "run/d.webm")
PARTS = ("train/jump/a.mp4", "train/run/b.mp4", "val/jump/c.mp4", "val/run/d.mp4", "test/jump/e.mp4", "test/run/f.mp4")


@pytest.mark.parametrize("pointed", ["clips", "."])
def test_a_folder_for_each_class(tmp_path: Path, pointed: str) -> None:
    root = touch(tmp_path / "clips", *PLAIN)
    listing = open_dataset("folder", tmp_path / pointed)
    assert listing.describe() == f"folder: 2 classes, 4 videos, groups not known, found in {root}"
    assert [entry.path for entry in listing.entries] == sorted(PLAIN)
    assert listing.notes == ()


@pytest.mark.parametrize("pointed", ["clips", "."])
def test_parts_above_the_classes(tmp_path: Path, pointed: str) -> None:
    root = touch(tmp_path / "clips", *PARTS)
    listing = open_folder(tmp_path / pointed)
    assert listing.root == root
    assert listing.labels == ("jump", "run")
    split = make_split(listing)
    assert split == make_split(listing, "folders")
    assert split.name == "folders: train, val, test"
    assert [[listing.entries[index].path for index in part] for part in (split.train, split.val, split.test)] == [
        list(PARTS[:2]), list(PARTS[2:4]), list(PARTS[4:]),
    ]  # fmt: skip


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Training", "Validation"), ("TRAIN", "valid")])
def test_without_a_test_folder_val_is_tested_on_and_that_is_said(tmp_path: Path, train: str, val: str) -> None:
    touch(tmp_path, f"{train}/jump/a.mp4", f"{train}/run/b.mp4", f"{val}/jump/c.mp4", f"{val}/run/d.mp4")
    split = make_split(open_folder(tmp_path), "folders")
    assert (split.name, len(split.train), split.val, len(split.test)) == ("folders: train, val as test", 2, (), 2)
    assert split.notes == ("there is no test/, so val/ is tested on and may not choose the weights as well",)


def test_train_alone_makes_no_split(tmp_path: Path) -> None:
    listing = open_folder(touch(tmp_path, "train/jump/a.mp4", "train/jump/b.mp4", "train/run/c.mp4", "train/run/d.mp4"))
    assert listing.labels == ("jump", "run")
    assert listing.official == {}
    assert "there is train/ alone, which makes no split" in listing.notes
    assert make_split(listing).name.startswith("stratified random")


@pytest.mark.parametrize("pointed", ["run", "train", "train/run"])
def test_the_folder_above_the_given_one_is_never_taken(tmp_path: Path, pointed: str) -> None:
    """The neighbours of what was given are not what was meant, in a layout that is named too."""
    touch(tmp_path, "run/a.mp4", "jump/b.mp4", *PARTS)
    if pointed == "train":
        assert [entry.path for entry in open_dataset("folder", tmp_path / pointed).entries] == [
            "jump/a.mp4",
            "run/b.mp4",
        ]
        return
    above = (tmp_path / pointed).parent
    with pytest.raises(DatasetError, match=f"the folder above it has them: give {above} if that is meant"):
        open_dataset("folder", tmp_path / pointed)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("videos_train", "videos_val", "videos_test"),
        ("train_256", "val_256", "test_256"),
        ("Train Set", "Dev-Set", "TestSet"),
        ("rawframes_training", "rawframes_validation", "rawframes_testing"),
    ],
)
def test_the_usual_spellings_of_parts_are_known_above_and_below_the_classes(
    tmp_path: Path, train: str, val: str, test: str
) -> None:
    spelled = {"train": train, "val": val, "test": test}
    above = [[spelled[part], label, name] for part, label, name in (path.split("/") for path in PARTS)]
    below = [[label, part, name] for part, label, name in above]
    for number, paths in enumerate((above, below)):
        listing = open_folder(touch(tmp_path / str(number), *map("/".join, paths)))
        assert listing.labels == ("jump", "run")
        split = make_split(listing)
        for part, name in spelled.items():
            own = {listing.entries[index].path for index in getattr(split, part)}
            assert own == {"/".join(path) for path in paths if name in path}


def test_val_and_test_alone_are_parts_and_no_classes(tmp_path: Path) -> None:
    listing = open_folder(touch(tmp_path, *PARTS[2:]))
    assert (listing.labels, dict(listing.official)) == (("jump", "run"), {})
    assert listing.notes == ("there is test/ and val/ alone, which makes no split",)


def test_several_folders_of_one_part_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train_1/jump/a.mp4", "test_1/jump/b.mp4", "train_2/jump/b.mp4", "test_2/jump/a.mp4")
    with pytest.raises(DatasetError, match="several folders of one part: 'test_1', 'test_2', 'train_1' and 1 more"):
        open_folder(tmp_path)


def test_videos_in_no_part_of_their_class_are_counted(tmp_path: Path) -> None:
    listing = open_folder(touch(tmp_path, "jump/train/a.mp4", "jump/test/b.mp4", "run/c.mp4"))
    assert len(listing.official["folders"].train) == len(listing.official["folders"].test) == 1
    assert listing.notes == (
        "1 videos are in no train, val or test folder of their class, and in no part of that split",
    )


def test_folders_that_are_data_sets_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"old/{path}" for path in PARTS), *(f"new/{path}" for path in PARTS))
    with pytest.raises(DatasetError, match="holds 'test', 'train', 'val' with a folder for each class") as caught:
        open_folder(tmp_path)
    assert caught.value.subject == str(tmp_path / "new")


@pytest.mark.parametrize(
    ("names", "said"), [(("jump", "run"), True), (("001", "002"), False), (("train", "test"), False)]
)
def test_the_same_folders_in_every_folder_are_refused_or_said(
    tmp_path: Path, names: tuple[str, ...], said: bool
) -> None:
    """Videos by person and then by class look like classes by person; numbers are no class names."""
    touch(tmp_path, *(f"{person}/{name}/{person}.mp4" for person in ("anna", "ben") for name in names))
    notes = open_dataset("folder", tmp_path).notes
    line = "the same folders are in each class: 'jump', 'run'; if those are the classes, sort by them"
    assert notes == ((line,) if said else ())
    if said:
        with pytest.raises(DatasetError, match=r"if 'anna', 'ben' are, say --data\.dataset folder"):
            open_dataset(None, tmp_path)
    else:
        assert open_dataset(None, tmp_path).labels == ("anna", "ben")


def test_what_lies_beside_the_parts_is_said(tmp_path: Path) -> None:
    listing = open_folder(touch(tmp_path, *PARTS, "unsorted/jump/x.mp4"))
    assert len(listing.entries) == 6
    assert listing.notes == ("1 folders beside its parts were left out: 'unsorted'",)


def test_a_class_may_be_called_train_or_test(tmp_path: Path) -> None:
    listing = open_folder(touch(tmp_path, "train/a.mp4", "plane/b.mp4", "test/c.mp4"))
    assert listing.labels == ("plane", "test", "train")
    assert listing.official == {}


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("test/swim/x.mp4", "class 'swim' is only in the test part \\(1 videos\\)"),
        ("train/swim/x.mp4", "class 'swim' is only in the training part \\(1 videos\\)"),
    ],
)
def test_a_label_on_one_side_alone_is_refused(tmp_path: Path, extra: str, reason: str) -> None:
    listing = open_folder(touch(tmp_path, *PARTS, extra))
    with pytest.raises(DatasetError, match=reason):
        make_split(listing, "folders")


def test_spellings_of_one_class_are_noted(tmp_path: Path) -> None:
    listing = open_dataset("folder", touch(tmp_path, *PARTS, "test/Jump/x.mp4"))
    assert listing.notes == ("classes that differ only in how they are written: 'Jump', 'jump'",)


def test_a_class_may_have_folders_inside(tmp_path: Path) -> None:
    touch(tmp_path / "clips", "jump/day 1/a.mp4", "jump/day 2/a.mp4", "run/day 1/deep/b.mp4")
    listing = open_folder(tmp_path / "clips")
    assert listing.labels == ("jump", "run")
    assert listing.entries[0].path == "jump/day 1/a.mp4"


def test_groups_come_from_file_names(tmp_path: Path) -> None:
    touch(tmp_path, "bend/daria_bend.avi", "bend/eli_bend.avi", "wave1/daria_wave1.avi", "wave1/eli_wave1.avi")
    listing = open_dataset("folder", tmp_path, group_pattern=r"(?P<group>[a-z]+)_")
    assert listing.groups == ("daria", "eli")
    assert make_split(listing, "leave-one-group-out:eli").test == (1, 3)


def test_odd_names_survive(tmp_path: Path) -> None:
    names = [
        "日本語 ärger.mp4",
        "quote\"s and 'these'.mp4",
        "two\nlines.mp4",
        "x" * 240 + ".mp4",
        " blank.mp4",
        "a,b;c.mp4",
    ]
    label = "Sprünge\nund 'mehr'"
    touch(tmp_path, *(f"{label}/{name}" for name in names), *(f"run/{name}" for name in names), "run/two\nlines.t\nxt")
    listing = open_folder(tmp_path)
    assert {Path(entry.path).name for entry in listing.entries} == set(names)
    assert all(listing.path(index).exists() for index in range(len(listing.entries)))
    for name in ("stratified-7:3", "random-7:3", f"leave-one-out:{listing.entries[1].path}"):
        assert "\n" not in make_split(listing, name).describe()
    assert all("\n" not in line for line in (listing.describe(), *listing.notes))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not let such a name be made")
def test_a_name_that_is_no_text_is_left_out_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, *PLAIN)
    with open(os.fsencode(tmp_path / "run") + b"/\xff.mp4", "wb"):  # noqa: PTH123 - a Path cannot spell this name
        pass
    listing = open_folder(tmp_path)
    assert len(listing.entries) == 4
    assert listing.notes == (r"1 names are not valid UTF-8 and were left out, rename them: '\udcff.mp4'",)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = touch(tmp_path / "clips", *PLAIN)
    touch(tmp_path / "elsewhere", "swim/e.mp4")
    (root / "swim").symlink_to(tmp_path / "elsewhere" / "swim")
    (root / "jump" / "again").symlink_to(root / "jump")
    (root / "run" / "up").symlink_to(root)
    (root / "run" / "gone.mp4").symlink_to(root / "nowhere.mp4")
    (root / "run" / "self.mp4").symlink_to(root / "run" / "self.mp4")
    listing = open_folder(root)
    assert [entry.path for entry in listing.entries] == [*sorted(PLAIN), "swim/e.mp4"]
    assert listing.notes == (
        "2 links lead back into their own folder and were ignored: 'again', 'up'",
        "2 links lead nowhere and were ignored: 'gone.mp4', 'self.mp4'",
    )


def test_what_is_no_video_is_counted(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *PLAIN,
        "jump/a.txt",
        "jump/b.txt",
        "run/Thumbs.db",
        "run/README",
        "run/.cache",
        ".git/x.mp4",
        "top.csv",
    )
    touch(tmp_path, "pictures/1.jpg")
    listing = open_folder(tmp_path)
    assert len(listing.entries) == 4
    assert listing.notes == (
        "no video in 1 folders: 'pictures'",
        "6 files that are no video were ignored (1 without ending, 1 .csv, 1 .db, 1 .jpg, 2 .txt)",
        "2 hidden files or folders were ignored",
    )


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in {"csv", "shapes"}])
def test_a_root_that_is_none_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.mp4").touch()
    (tmp_path / "nothing" / "inside").mkdir(parents=True)
    for given, reason in (
        ("absent", "there is no such file or folder"),
        ("empty", "is empty"),
        ("file.mp4", "is a file, not a folder"),
        ("nothing", "in it or one level below"),
        ("x" * 300, "cannot be looked at"),
        ("a\0b", "cannot be looked at"),
    ):
        with pytest.raises(DatasetError, match=reason) as caught:
            open_dataset(name, tmp_path / given)
        assert "\n" not in str(caught.value)
        assert caught.value.subject == str(tmp_path / given)


def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Patched, since the super-user, who runs tests in containers, may read everything.
    touch(tmp_path, *PLAIN)
    plain = Path.iterdir

    def guarded(folder: Path) -> object:
        if folder.name == "run":
            raise PermissionError(13, "Permission denied")
        return plain(folder)

    monkeypatch.setattr(Path, "iterdir", guarded)
    with pytest.raises(
        DatasetError, match=r"run: cannot be read \(Permission denied\); give yourself the right"
    ) as caught:
        open_folder(tmp_path)
    assert caught.value.subject == str(tmp_path / "run")


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *PLAIN, "jump/" + "d/" * 20 + "a.mp4")
    with pytest.raises(DatasetError, match="is 16 folders deep"):
        open_folder(tmp_path)


def test_the_listing_does_not_depend_on_the_order_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *PARTS)
    before = open_folder(tmp_path)
    plain = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(sorted(plain(folder), reverse=True)))
    assert open_folder(tmp_path) == before


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'kinetics' is no layout; choose one of ucf101, ucf11, ucfsports"):
        open_dataset("kinetics", tmp_path)
