"""Every layout is on an address what it is on the same tree of this machine, and every fault is one line."""

import os
import shutil
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest

from actionfusion.__main__ import main
from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.layouts import open_dataset
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.storage import to_path


def ucf101(top):
    for label in ("Archery", "HandstandPushups"):
        for group in (1, 2, 3):
            add(top / "UCF-101" / label / f"v_{label.replace('standP', 'StandP')}_g{group:02d}_c01.avi")
    lists = top / "ucfTrainTestlist"
    add(lists / "classInd.txt", "1 Archery\r\n2 HandstandPushups\r\n")
    add(
        lists / "trainlist01.txt",
        "Archery/v_Archery_g01_c01.avi 1\nHandstandPushups/v_HandStandPushups_g01_c01.avi 2\n",
    )
    add(lists / "testlist01.txt", "Archery/v_Archery_g02_c01.avi\nHandstandPushups/v_HandStandPushups_g02_c01.avi\n")
    add(top / "UCF-101" / "Archery" / ".hidden.avi")
    add(top / "UCF-101" / "readme.txt")


def ucf11(top):
    for label, start in (("basketball", "v_shooting"), ("walking", "v_walk_dog")):
        for group in (1, 2):
            add(top / "UCF11_updated_mpg" / label / f"{start}_{group:02d}" / f"{start}_{group:02d}_01.mpg")
        add(top / "UCF11_updated_mpg" / label / "Annotation" / f"{start}_01_01.xgtf")


def ucfsports(top):
    root = top / "ucf_sports_actions" / "ucf action"
    for number in (1, 2):
        add(root / "Golf-Swing-Back" / f"{number:03d}" / f"3206-12_7000{number}.avi")
        add(root / "Golf-Swing-Back" / f"{number:03d}" / "3206-12_70000.jpg")
        add(root / "Golf-Swing-Back" / f"{number:03d}" / "gt" / "1.txt")
        for picture in (1, 10, 2):
            add(root / "Diving-Side" / f"{number:03d}" / f"picture {picture}.jpg")
    add(root / "Run-Side" / "001" / "jpeg" / "1.JPG")
    add(root / "Thumbs.db")


def hmdb51(top):
    names = [f"(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_{number}.avi" for number in range(3)]
    for name in names:
        add(top / "hmdb51_org" / "cartwheel" / "cartwheel" / name)
        add(top / "hmdb51_org" / "sword" / "sword" / name.replace("cartwheel", "sword"))
    for label in ("cartwheel", "sword"):
        lines = [f"{name.replace('cartwheel', label)} {mark} \n" for name, mark in zip(names, (1, 2, 0), strict=True)]
        add(top / "testTrainMulti_7030_splits" / f"{label}_test_split1.txt", "".join(lines))


def folder(top):
    for part in ("train", "Test"):
        for label in ("wave left", "[jump]"):
            add(top / part / label / "deep" / f"{part} é.mp4")
            add(top / part / label / "a::b.mov")
    add(top / "other" / "x" / "y.mp4")
    add(top / "train" / "wave left" / "notes.txt")


def csv(top):
    rows = ["path,label,group,split,status", "clips/a.avi,jump,anna,train,ok", "clips\\b.avi,run,ben,test,ok"]
    rows += ["../outside/c.avi,run,,train,ok", "clips/frames,jump,anna,test,ok", "clips/gone.avi,run,,,damaged"]
    add(top / "tables" / "videos.csv", "\n".join(rows))
    for name in ("tables/clips/a.avi", "tables/clips/b.avi", "outside/c.avi", "tables/clips/frames/1.png"):
        add(top / name)


def add(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, newline="")


TREES = {
    "ucf101": (ucf101, ("UCF-101", "", "UCF-101/Archery")),
    "ucf11": (ucf11, ("UCF11_updated_mpg", "", "UCF11_updated_mpg/walking")),
    "ucfsports": (ucfsports, ("ucf_sports_actions/ucf action", "ucf_sports_actions", "")),
    "hmdb51": (hmdb51, ("hmdb51_org", "", "hmdb51_org/sword")),
    "folder": (folder, ("", "train")),
    "csv": (csv, ("tables/videos.csv", "tables")),
}


@pytest.fixture
def everywhere(shelf, memory, tmp_path):
    """Puts a tree behind addresses, and gives these."""

    def put(tree):
        shutil.copytree(tree, shelf / "top" / tree.name)
        with zipfile.ZipFile(tmp_path / "tree.zip", "w") as archive:
            for file in sorted(path for path in tree.rglob("*") if path.is_file()):
                name = file.relative_to(tree).as_posix()
                fsspec.filesystem("memory").pipe_file(f"/top/{tree.name}/{name}", file.read_bytes())
                archive.write(file, f"{tree.name}/{name}")
        return [f"shelf://top/{tree.name}", f"memory://top/{tree.name}", f"zip://{tree.name}::{tmp_path}/tree.zip"]

    return put


@pytest.mark.parametrize("layout", TREES)
def test_the_same_is_found_as_here(layout, everywhere, tmp_path):
    plant, pointed = TREES[layout]
    plant(tmp_path / "tree")
    addresses = everywhere(tmp_path / "tree")
    for inner in pointed:
        local = open_dataset(layout, tmp_path / "tree" / inner)
        assert local.entries
        for address in addresses:
            top = to_path(address)
            remote = open_dataset(layout, str(top / inner) if inner else address)
            assert (remote.entries, remote.labels, remote.official) == (local.entries, local.labels, local.official)
            assert remote.notes == local.notes
            named = str(local.root).replace(str(tmp_path / "tree"), address.partition("::")[0])
            assert str(remote.root).partition("::")[0] == named
            assert remote.describe().partition(", found in ")[0] == local.describe().partition(", found in ")[0]
            assert remote.describe().endswith(f"found in {remote.root}")
            assert all(remote.path(index).exists() for index in range(len(remote.entries)))


def test_one_listing_a_folder_tells_all(everywhere, tmp_path, monkeypatch):
    from shelf_filesystem import ShelfFileSystem

    for number in range(30):
        add(tmp_path / "tree" / f"class {number % 3}" / f"{number}.avi")
    address = everywhere(tmp_path / "tree")[0]
    asked = []
    real = ShelfFileSystem.info
    monkeypatch.setattr(ShelfFileSystem, "info", lambda self, path, **_: asked.append(path) or real(self, path))
    assert len(open_dataset("folder", address).entries) == 30
    assert not [path for path in asked if path.endswith(".avi")]


def test_faults_are_one_line_with_the_address(everywhere, tmp_path):
    add(tmp_path / "tree" / "file.avi")
    add(tmp_path / "tree" / "table.csv", "path,label\nfile.avi,jump\n,run\n")
    (tmp_path / "tree" / "nothing").mkdir()
    for address in everywhere(tmp_path / "tree")[:2]:
        top = to_path(address)
        for layout, given, message in (
            ("folder", top / "gone", "there is no such file or folder"),
            ("ucf101", top / "file.avi", "is a file, not a folder"),
            ("csv", top / "table.csv", "line 3, column path: is empty"),
            ("csv", top / "file.avi", "is no table by its ending"),
        ):
            with pytest.raises(DatasetError, match=message) as caught:
                open_dataset(layout, given)
            assert caught.value.subject == str(given)
    with pytest.raises(DatasetError, match="there is no such file or folder"):
        open_dataset("folder", f"zip://x::{tmp_path}/gone.zip")
    (tmp_path / "broken.zip").write_text("no archive")
    with pytest.raises(DatasetError, match=r"cannot be looked at \(File is not a zip file\)"):
        open_dataset("folder", f"zip://x::{tmp_path}/broken.zip")


def test_a_far_side_that_fails_on_the_way_is_no_traceback(everywhere, tmp_path, monkeypatch, capsys):
    from shelf_filesystem import ShelfFileSystem

    ucf101(tmp_path / "tree")
    address = everywhere(tmp_path / "tree")[0]
    monkeypatch.setenv("SHELF_FAULTS", "reads classInd.txt")
    (Path(os.environ["SHELF"]) / "top/tree/ucfTrainTestlist/classInd.txt").write_text("1 Archery\n" * 500)
    with pytest.raises(DatasetError, match=r"classInd\.txt: cannot be read \(the line went dead"):
        open_dataset("ucf101", address)
    real = ShelfFileSystem.info

    def info(self, path, **_):
        if path.endswith("trainlist02.txt"):
            raise ConnectionResetError("reset by ftp://anna:secret@host")
        return real(self, path)

    monkeypatch.setenv("SHELF_FAULTS", "")
    monkeypatch.setattr(ShelfFileSystem, "info", info)
    (Path(os.environ["SHELF"]) / "top/tree/ucfTrainTestlist/classInd.txt").write_text("1 Archery\n2 HandstandPushups\n")
    assert main(["prepare", "ucf101", address, "--store", str(tmp_path / "store"), "--workers", "0"]) == 1
    said = capsys.readouterr().err
    assert said == (
        f"error: {address}: cannot be read (reset by ftp://anna@host); check the connection and your rights.\n"
    )


def test_a_folder_that_leads_into_itself_ends(everywhere, tmp_path):
    add(tmp_path / "tree" / "jump" / "a.avi")
    address = everywhere(tmp_path / "tree")[0]
    (Path(os.environ["SHELF"]) / "top/tree/jump/again").symlink_to("..")
    with pytest.raises(DatasetError, match="folders deep"):
        open_dataset("folder", address)


def test_a_table_here_of_videos_elsewhere(everywhere, tmp_path):
    csv(tmp_path / "tree")
    everywhere(tmp_path / "tree")
    table = tmp_path / "list.csv"
    table.write_text("path,label\nmemory://top/tree/outside/c.avi,run\nmemory://top/tree/tables/clips/a.avi,jump\n")
    listing = open_dataset("csv", table)
    assert str(listing.root) == "memory://top/tree"
    assert [entry.path for entry in listing.entries] == ["outside/c.avi", "tables/clips/a.avi"]
    (tmp_path / "b.avi").touch()
    table.write_text("path,label\nmemory://top/tree/outside/c.avi,run\nb.avi,jump\n")
    with pytest.raises(DatasetError, match="several drives or servers"):
        open_dataset("csv", table)
    table.write_text("path,label\nfoo://c.avi,run\n")
    with pytest.raises(SettingsError, match="'foo' is no kind of address"):
        open_dataset("csv", table)


def test_a_parquet_table(everywhere, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    add(tmp_path / "tree" / "a.avi")
    parquet.write_table(pyarrow.table({"path": ["a.avi"], "label": ["jump"]}), tmp_path / "tree" / "t.parquet")
    for address in everywhere(tmp_path / "tree"):
        assert [entry.path for entry in open_dataset("csv", address).entries] == ["a.avi"]


def test_clips_are_cut_from_a_remote_video_as_from_a_local_one(everywhere, shapes_root, scratch):
    from actionfusion.training.recipe import load_recipe
    from actionfusion.video.clip import cut_clip

    clip = load_recipe("tiny").clip
    settings = DataSettings(root=everywhere(shapes_root)[1], split="folders", validation="test")
    remote, local = open_data(settings), open_data(DataSettings(root=shapes_root, split="folders", validation="test"))
    assert remote.digest() == local.digest()
    sources = [data.sources(data.split.test[:2], clip) for data in (remote, local)]
    for one, other in zip(*sources, strict=True):
        far, near = cut_clip(one.open(), clip), cut_clip(other.open(), clip)
        np.testing.assert_array_equal(far.rgb, near.rgb)
        np.testing.assert_array_equal(far.flow, near.flow)
    video = sources[0][0].open()
    assert video.num_frames > 0
    assert len(list(scratch.iterdir())) == 2
    del video
    assert list(scratch.iterdir()) == []
