"""The layout of a folder is recognised from what is in it, cautiously: in doubt it is a folder of classes, or refused.

The videos are empty files: no layout opens one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from upath import UPath

from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.layouts import LAYOUTS, SIGNS, open_dataset
from actionfusion.errors import DatasetError

TREES = {
    "ucf101": [
        f"{label}/v_{label}_g{group:02d}_c{clip:02d}.avi"
        for label in ("Archery", "YoYo")
        for group in (1, 2, 3)
        for clip in (1, 2)
    ],
    "ucf11": [
        f"{label}/{start}_{group:02d}/{start}_{group:02d}_01.mpg"
        for label, start in (("basketball", "v_shooting"), ("walking", "v_walk_dog"))
        for group in (1, 2, 3)
    ],
    "ucfsports": [f"{label}/00{n}/3206-12_7000{n}.avi" for label in ("Diving-Side", "Lifting") for n in (1, 2, 3)],
    "hmdb51": [
        f"{label}/Film_{n}_{label}_f_cm_np1_ri_bad_{n}.avi" for label in ("brush_hair", "sword") for n in (1, 2, 3)
    ],
    "folder": [f"{label}/{name}.mp4" for label in ("jump", "wave") for name in ("anna_1", "ben_1", "carl_1")],
}
DOUBLED = [f"{name.split('/')[0]}/{name}" for name in TREES["hmdb51"]]
PARTS = [f"{part}/{name}" for part in ("train", "test") for name in TREES["folder"]]


def plant(root: Path, names: Iterable[str]) -> Path:
    """Distinct files, so that no two count as duplicates."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def table(path: Path, names: Iterable[str]) -> Path:
    path.write_text("path,label\n" + "".join(f"{name},{name.split('/')[-2]}\n" for name in names))
    return path


@pytest.mark.parametrize(
    ("layout", "names", "sign"),
    [
        ("ucf101", TREES["ucf101"], "names like v_Archery_g01_c01.avi"),
        ("ucf11", TREES["ucf11"], "names like v_shooting_01_01.mpg"),
        ("ucfsports", TREES["ucfsports"], "class folders like Diving-Side, and numbered sequences in them"),
        ("hmdb51", TREES["hmdb51"], "names like Film_1_brush_hair_f_cm_np1_ri_bad_1.avi"),
        ("hmdb51", DOUBLED, "names like Film_1_brush_hair_f_cm_np1_ri_bad_1.avi"),
        ("folder", TREES["folder"], "a folder for each class"),
        ("folder", PARTS, "a folder for each class in each of test, train"),
    ],
)
@pytest.mark.parametrize("below", [False, True], ids=["itself", "one level below"])
def test_each_layout_is_recognised_and_opens(tmp_path, layout, names, sign, below):
    root = plant(tmp_path / "given" / "inner" if below else tmp_path / "given", names)
    listing = open_dataset(None, tmp_path / "given")
    assert (listing.dataset, listing.recognised_by, listing.root) == (layout, sign, root)
    assert listing.describe_choice() == [f"layout: {layout} (chosen: {sign}; --data.dataset sets it)"]
    named = open_dataset(layout, tmp_path / "given")
    assert named.describe_choice() == []
    assert (named.entries, named.labels, named.official) == (listing.entries, listing.labels, listing.official)


def test_a_table_is_recognised_by_itself_and_in_a_folder_without_classes(tmp_path):
    plant(tmp_path / "other", TREES["folder"])
    paths = [str(tmp_path / "other" / name) for name in TREES["folder"]]
    (tmp_path / "lists").mkdir()
    given = table(tmp_path / "lists" / "mine.csv", paths)
    assert open_dataset(None, given).recognised_by == "mine.csv is a table"
    listing = open_dataset(None, tmp_path / "lists")
    assert (listing.dataset, len(listing.entries)) == ("csv", 6)
    assert listing.recognised_by == "mine.csv in it is a table with columns path and label"


def test_generated_clips_are_recognised_by_the_file_of_their_settings(shapes_root):
    listing = open_dataset(None, shapes_root)
    assert (listing.dataset, listing.recognised_by) == ("shapes", "its shapes.json")
    assert all(entry.group for entry in listing.entries)


def test_lists_beside_the_videos_are_found_as_the_layout_finds_them(tmp_path):
    plant(tmp_path / "UCF-101", TREES["ucf101"])
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 YoYo\n")
    for part, groups in (("train", (1, 2)), ("test", (3,))):
        kept = [name for name in TREES["ucf101"] if any(f"_g{group:02d}_" in name for group in groups)]
        (lists / f"{part}list01.txt").write_text("".join(f"{name}\n" for name in kept))
    for given in (tmp_path, tmp_path / "UCF-101"):
        assert list(open_dataset(None, given).official) == ["official-1"]


def test_groups_that_are_recognised_are_not_torn_apart_and_the_layout_is_recorded(tmp_path):
    root = plant(tmp_path / "clips", TREES["ucf101"])
    videos = open_data(DataSettings(root, validation="none"))
    assert videos.settings.dataset == "ucf101"
    assert videos.split.name == "grouped 7:3, seed 0"
    assert videos.leaks("test").test_videos == 0
    assert open_data(DataSettings(root, "folder", validation="none")).settings.dataset == "folder"


@pytest.mark.parametrize(
    "names",
    [
        [*TREES["ucf101"], "YoYo/holiday.mp4"],
        [name.replace("Archery/", "sports/") for name in TREES["ucf101"]],
        [*TREES["ucf11"], "cooking/v_cook_01/v_cook_01_01.mpg"],
        [*TREES["ucf11"], "walking/holiday.mp4"],
        [*TREES["ucfsports"], "Yoga/001/a.avi"],
        [f"{label}/anna/{n}.avi" for label in ("Diving-Side", "Lifting") for n in (1, 2)],
        [*TREES["hmdb51"], "sword/holiday.mp4"],
    ],
    ids=[
        "another name",
        "own classes",
        "another class",
        "a loose video",
        "another folder",
        "no numbers",
        "another film",
    ],
)
def test_what_does_not_all_look_like_a_known_set_is_a_folder_of_classes(tmp_path, names):
    assert open_dataset(None, plant(tmp_path / "clips", names)).dataset == "folder"


@pytest.mark.parametrize(
    ("names", "listed", "looks"),
    [
        (["Lifting/v_Lifting_g01_c01.avi", "Lifting/001/a.avi", "Run-Side/001/b.avi"], False, ("ucf101", "ucfsports")),
        (TREES["folder"], True, ("csv", "folder")),
        (TREES["ucf101"], True, ("ucf101", "csv")),
    ],
)
def test_what_looks_like_two_layouts_is_refused_until_one_is_named(tmp_path, names, listed, looks):
    root = plant(tmp_path / "clips", names)
    if listed:
        table(root / "list.csv", names)
    with pytest.raises(DatasetError, match=rf"looks like {looks[0]} \(.+\) and {looks[1]} \(.+--data\.dataset"):
        open_dataset(None, root)
    for layout in looks:
        assert open_dataset(layout, root).dataset == layout


def test_another_table_beside_the_classes_does_not_count(tmp_path):
    root = plant(tmp_path / "clips", TREES["folder"])
    (root / "weather.csv").write_text("day,rain\n1,2\n")
    assert open_dataset(None, root).dataset == "folder"


def test_the_folder_above_is_never_taken(tmp_path):
    plant(tmp_path / "clips", [*TREES["folder"], *PARTS])
    for given, said in (("jump", "holds no folder for each class"), ("train", "is only one part of the data set")):
        with pytest.raises(DatasetError, match=rf"/{given}: {said}.*; give {tmp_path}/clips"):
            open_dataset(None, tmp_path / "clips" / given)
    assert open_dataset("folder", tmp_path / "clips" / "train").root == tmp_path / "clips" / "train"
    with pytest.raises(DatasetError, match=f"give {tmp_path}/clips"):
        open_dataset("folder", tmp_path / "clips" / "jump")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("absent", "there is no such file or folder"),
        ("film.mp4", "is a file, and no table of videos"),
        ("empty", "is empty"),
        ("archive", r"holds only archives|no folder for each class"),
    ],
)
def test_what_holds_no_videos_is_named(tmp_path, given, said):
    plant(tmp_path, ["film.mp4", "archive/videos.zip"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=rf"{given}: .*{said}"):
        open_dataset(None, tmp_path / given)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("below", [False, True])
def test_an_address_is_recognised_too(below):
    top = UPath("memory://bucket/clips")
    for name in TREES["ucf101"]:
        path = (top / "UCF-101" if below else top) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    listing = open_dataset(None, "memory://bucket/clips")
    assert (listing.dataset, len(listing.groups)) == ("ucf101", 6)
    with pytest.raises(DatasetError, match="the folder above it does"):
        open_dataset(None, f"memory://bucket/clips/{'UCF-101/' if below else ''}YoYo")


def test_a_single_class_is_refused(tmp_path):
    root = plant(tmp_path / "clips", TREES["folder"][:3])
    with pytest.raises(DatasetError, match="videos of one class alone, 'jump'"):
        open_data(DataSettings(root))


def test_every_layout_has_its_signs():
    assert SIGNS.keys() | {"folder"} == LAYOUTS.keys()


def test_classes_are_told_with_their_counts_and_not_all_of_many(tmp_path):
    names = [f"class {n:02d}/{clip}.avi" for n in range(15) for clip in range(n % 3 + 1)]
    line = open_dataset(None, plant(tmp_path / "clips", names)).describe_classes()
    assert line.startswith("classes: class 00 (1), class 01 (2), class 02 (3), class 03 (1), ")
    assert line.endswith("class 11 (3) and 3 more")
