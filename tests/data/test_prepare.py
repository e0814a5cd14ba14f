"""The prepared store is filled once, whole, and the same whatever happens on the way."""

import errno
import hashlib
import io
import os
import shutil
import subprocess
from collections import Counter, namedtuple

import av
import cv2
import numpy as np
import pytest

from actionfusion.data import prepare as prepare_module
from actionfusion.data import source_videos
from actionfusion.data.entry_lock import lock_entry
from actionfusion.data.prepare import prepare
from actionfusion.data.store import StoredVideo, entry_path
from actionfusion.errors import DatasetError, SettingsError, VideoDamaged, VideoMissing
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.video_source import VideoSource

RECIPE = FlowRecipe("farneback", 10.0, 32)


def make_video(path, seed=0, count=8):
    """A short MPEG-4 AVI of a texture that moves by a pixel or two a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, 64, 80 + 2 * count, 3))
    texture = cv2.GaussianBlur(noise[0, ..., :1], (0, 0), 3)[..., None] + cv2.GaussianBlur(noise[1], (0, 0), 6)
    texture = (10 + 235 * (texture - texture.min()) / np.ptp(texture)).astype(np.uint8)
    # Written through a file object: FFmpeg takes some of the names that the tests try for addresses.
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 80, 64, "yuv420p", 2_000_000
        for index in range(count):
            picture = np.ascontiguousarray(texture[:, index : index + 80])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    path.write_bytes(buffer.getvalue())
    return path


def make_root(root, count, frames=8):
    names = [f"class {index % 2}/v_{index:02d}.avi" for index in range(count)]
    for index, name in enumerate(names):
        make_video(root / name, index, frames)
    return [(root / name, name) for name in names]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    make_root(folder, 6)
    return folder


@pytest.fixture(scope="module")
def items(root):
    return [(path, path.relative_to(root).as_posix()) for path in sorted(root.rglob("*.avi"))]


def contents(store):
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(items, tmp_path_factory):
    store = tmp_path_factory.mktemp("undisturbed")
    prepare(items, store, RECIPE, workers=0)
    return store


@pytest.fixture
def copied(items, undisturbed, tmp_path):
    """A store of its own for a test, and the videos of it, free to be changed."""
    shutil.copytree(undisturbed, tmp_path / "store")
    videos = []
    for path, name in items:
        target = tmp_path / "root" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
        videos.append((target, name))
    return tmp_path / "store", videos


def inodes(store):
    return {path.name: path.stat().st_ino for path in store.rglob("*.zip")}


def test_every_frame_and_field_of_every_video(items, undisturbed):
    assert sorted(contents(undisturbed)) == sorted(f"{name}.zip" for _, name in items)
    for path, name in items:
        stored, video = StoredVideo(entry_path(undisturbed, name)), VideoSource(path, RECIPE)
        rgb, codes, times = stored.read(range(8), range(7))
        real_rgb, real_codes, real_times = video.read(range(8), range(7))
        np.testing.assert_array_equal(times, real_times)
        assert np.abs(rgb.astype(int) - real_rgb).mean() < 3.0
        assert np.abs(RECIPE.decode(codes) - RECIPE.decode(real_codes)).mean() < 0.02
        assert (stored.source.name, stored.source.size) == (name, path.stat().st_size)
        assert stored.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_processes_make_the_same_store(items, undisturbed, tmp_path):
    seen = []
    report = prepare(items, tmp_path, RECIPE, workers=2, progress=lambda *done: seen.append(done))
    assert contents(tmp_path) == contents(undisturbed)
    assert (report.made, report.kept, report.failures, report.frames) == (6, 0, (), 48)
    assert report.size == sum(path.stat().st_size for path in tmp_path.rglob("*.zip"))
    assert report.estimated_size == pytest.approx(report.size, rel=0.1)
    assert [(done, total) for done, total, _ in seen] == [(done, 6) for done in range(1, 7)]
    assert sorted(name for _, _, name in seen) == sorted(name for _, name in items)


def test_rerun_keeps_all(items, undisturbed):
    before = inodes(undisturbed)
    report = prepare(items, undisturbed, RECIPE, workers=0)
    assert (report.made, report.kept, report.estimated_size) == (0, 6, None)
    assert report.frames == 48
    assert inodes(undisturbed) == before


def test_rerun_makes_what_is_missing(items, undisturbed, copied):
    store, videos = copied
    before = inodes(store)
    entry_path(store, videos[2][1]).unlink()
    report = prepare(videos, store, RECIPE, workers=0)
    assert (report.made, report.kept) == (1, 5)
    assert contents(store) == contents(undisturbed)
    assert sum(before[name] == inode for name, inode in inodes(store).items()) >= 5


@pytest.mark.parametrize("change", [{"recipe": FlowRecipe("farneback", 5.0, 32)}, {"quality": 80}])
def test_another_recipe_or_quality_is_made_anew(copied, change):
    store, videos = copied
    settings = {"recipe": RECIPE, **change}
    assert prepare(videos[:2], store, workers=0, **settings).made == 2
    assert prepare(videos[:2], store, workers=0, **settings).kept == 2
    assert StoredVideo(entry_path(store, videos[0][1])).recipe == settings["recipe"]
    assert prepare(videos, store, RECIPE, workers=0).made == 2


def test_another_source_is_made_anew(copied):
    store, videos = copied
    source, name = videos[0]
    status = source.stat()
    make_video(source, seed=99)
    assert prepare(videos, store, RECIPE, workers=0).made == 1
    assert StoredVideo(entry_path(store, name)).source.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    # Of the same length, and with its old date put back: only the hash tells.
    data = bytearray(source.read_bytes())
    data[-20] ^= 1
    source.write_bytes(data)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.utime(entry_path(store, name), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prepare(videos, store, RECIPE, workers=0).kept == 6
    assert prepare(videos, store, RECIPE, workers=0, verify=True).made == 1


def test_a_new_date_alone_is_no_other_source(copied, monkeypatch):
    store, videos = copied
    for path in [*(source for source, _ in videos), *store.rglob("*.zip")]:
        os.utime(path)
    assert prepare(videos, store, RECIPE, workers=0).kept == 6
    # The dates agree again, so that the next run has nothing to hash.
    monkeypatch.setattr(prepare_module, "source_hash", lambda source: pytest.fail("hashed again"))
    assert prepare(videos, store, RECIPE, workers=0).kept == 6


def test_a_damaged_entry_is_made_anew(undisturbed, copied):
    store, videos = copied
    cut, flipped = (entry_path(store, name) for _, name in videos[:2])
    cut.write_bytes(cut.read_bytes()[:-100])
    data = bytearray(flipped.read_bytes())
    data[600] ^= 255
    times = flipped.stat()
    flipped.write_bytes(data)
    os.utime(flipped, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert prepare(videos, store, RECIPE, workers=0).made == 1
    assert contents(store) != contents(undisturbed)
    assert prepare(videos, store, RECIPE, workers=1, verify=True).made == 1
    assert contents(store) == contents(undisturbed)


def test_videos_that_fail_are_reported_and_the_rest_goes_on(copied):
    store, videos = copied
    shutil.rmtree(store)
    root = videos[0][0].parents[1]
    (root / "text.avi").write_text("no video")
    whole = videos[1][0].read_bytes()
    (root / "cut.avi").write_bytes(whole[: len(whole) * 2 // 3])
    (root / "folder.avi").mkdir()
    (root / "loop.avi").symlink_to("loop.avi")
    os.mkfifo(root / "pipe.avi")
    names = ("text.avi", "cut.avi", "folder.avi", "gone.avi", "loop.avi", "pipe.avi")
    broken = [(root / name, name) for name in names]
    report = prepare([broken[0], *videos, *broken[1:]], store, RECIPE, workers=2)
    assert (report.made, len(report.failures)) == (6, 6)
    assert [(failure.name, failure.kind) for failure in report.failures] == [
        ("text.avi", "not_a_video"),
        ("cut.avi", "damaged"),
        ("folder.avi", "no_frames"),
        ("gone.avi", "missing"),
        ("loop.avi", "missing"),
        ("pipe.avi", "missing"),
    ]
    for failure in report.failures:
        assert failure.message.startswith(f"{failure.source}: ")
        assert "\n" not in failure.message
    assert len(contents(store)) == 6
    # A second run tries them again, and says the same.
    assert prepare([*broken, *videos], store, RECIPE, workers=0).failures == report.failures


def test_an_old_entry_of_a_video_now_broken_goes_but_not_that_of_a_missing_one(copied):
    store, videos = copied
    videos[0][0].write_text("no video any more")
    videos[1][0].unlink()
    report = prepare(videos, store, RECIPE, workers=0)
    assert [failure.kind for failure in report.failures] == ["not_a_video", "missing"]
    assert not entry_path(store, videos[0][1]).exists()
    assert entry_path(store, videos[1][1]).exists()


def test_a_library_in_trouble_costs_one_video(items, tmp_path, monkeypatch):
    real = source_videos.iterate_frames

    def troubled(path, **settings):
        if "v_03" in str(path):
            raise LookupError("unheard of")
        return real(path, **settings)

    monkeypatch.setattr(source_videos, "iterate_frames", troubled)
    report = prepare(items, tmp_path, RECIPE, workers=0)
    assert report.made == 5
    assert [(failure.kind, "LookupError: unheard of" in failure.message) for failure in report.failures] == [
        ("error", True)
    ]


def test_a_source_that_changes_meanwhile_is_not_taken(items, tmp_path, monkeypatch):
    source = tmp_path / "growing.avi"
    shutil.copy(items[0][0], source)
    real = source_videos.iterate_frames

    def slow(path, **settings):
        for frame in real(path, **settings):
            yield frame
            with source.open("ab") as file:
                file.write(b"more")

    monkeypatch.setattr(source_videos, "iterate_frames", slow)
    report = prepare([(source, "growing.avi")], tmp_path / "store", RECIPE, workers=0)
    assert "changed while it was read" in report.failures[0].message
    assert contents(tmp_path / "store") == {}


def test_folders_of_pictures(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "Diving Side" / "001"
    folder.mkdir(parents=True)
    pictures = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8).repeat(12, 1).repeat(12, 2)
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"frame {index}.png"), picture[:, :, ::-1])
    item = (folder, "Diving Side/001")
    assert prepare([item], tmp_path / "store", RECIPE, workers=0).made == 1
    video = StoredVideo(tmp_path / "store/Diving Side/001.zip")
    rgb, _, times = video.read(range(12), [])
    # In the order of the numbers, so that 10 comes after 9.
    errors = [
        [np.abs(a.astype(int) - cv2.resize(b, (32, 32), interpolation=cv2.INTER_AREA)).mean() for b in pictures]
        for a in rgb
    ]
    np.testing.assert_array_equal(np.argmin(errors, axis=1), np.arange(12))
    assert (np.diff(times) > 0).all()
    # Straight from the pictures come the same frames and fields, but for the JPEGs of the store.
    direct = source_videos.PictureFolderSource(folder, RECIPE)
    assert direct.num_frames == video.num_frames == 12
    for ours, stored in zip(direct.read([0, 5], [2, 3]), video.read([0, 5], [2, 3]), strict=True):
        assert ours.shape == stored.shape
        assert np.abs(ours.astype(float) - stored).mean() < 3
    assert prepare([item], tmp_path / "store", RECIPE, workers=0).kept == 1
    for broken in (b"broken", b""):
        (folder / "frame 5.png").write_bytes(broken)
        failure = prepare([item], tmp_path / "store", RECIPE, workers=0).failures[0]
        assert failure.kind == "damaged"
        assert "frame 5.png" in failure.message
        with pytest.raises(VideoDamaged, match=r"frame 5\.png"):
            direct.read([5], [])
    with pytest.raises(VideoMissing):
        _ = source_videos.PictureFolderSource(tmp_path / "gone", RECIPE).num_frames


ODD_NAMES = [
    "ünï/日本語 \U0001f600.avi",
    "a'b\"c\nd.avi",
    " leading/-rf.avi",
    "#%?*:.avi",
    "x" * 251 + ".avi",
    "é" * 125 + ".avi",
    os.fsdecode(b"latin-\xe9.avi"),
]


def test_odd_names(tmp_path, undisturbed, items):
    videos = []
    for name in ODD_NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(items[0][0], tmp_path / name)
        videos.append((tmp_path / name, name))
    report = prepare(videos, tmp_path / "store", RECIPE, workers=1)
    assert report.failures == ()
    for name in ODD_NAMES:
        assert StoredVideo(entry_path(tmp_path / "store", name)).source.name == name
    assert prepare(videos, tmp_path / "store", RECIPE, workers=0).kept == len(videos)


def test_a_path_too_long_for_the_store_is_reported(items, tmp_path):
    deep = "/".join(["d" * 200] * 25) + "/a.avi"
    report = prepare([*items[:2], (items[2][0], deep)], tmp_path, RECIPE, workers=0)
    assert report.made == 2
    assert report.failures[0].kind == "dataset"
    assert "rename the video" in report.failures[0].message


def test_names_that_cannot_be_are_refused_before_work(items, tmp_path):
    with pytest.raises(DatasetError, match="no path within a data set"):
        prepare([(items[0][0], "../a.avi")], tmp_path, RECIPE, workers=0)
    with pytest.raises(DatasetError, match="2 videos would have this one entry"):
        prepare([items[0], items[0]], tmp_path, RECIPE, workers=0)
    assert contents(tmp_path) == {}
    assert prepare([], tmp_path / "new", RECIPE).made == 0


@pytest.mark.parametrize("settings", [{"workers": -1}, {"quality": 0}])
def test_settings_that_cannot_be(items, tmp_path, settings):
    with pytest.raises(SettingsError):
        prepare(items, tmp_path, RECIPE, **settings)


def leave_partial(store, items):
    """What a killed writer leaves."""
    path = entry_path(store, items[0][1])
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_entry(path) as new:
        new.stream.write(b"half of it")
        new.stream.flush()
        left = next(path.parent.glob(".*.partial"))
        copy = path.with_name("copy")
        shutil.copy(left, copy)
    copy.rename(left)
    return left


def test_leftovers_are_removed(items, undisturbed, tmp_path):
    left = leave_partial(tmp_path, items)
    stray = tmp_path / "class 0" / left.name.replace(left.name[1:9], "01234567")
    shutil.copy(left, stray)
    (tmp_path / ".keep.partial").write_text("not ours")
    prepare(items, tmp_path, RECIPE, workers=0)
    (tmp_path / ".keep.partial").unlink()
    assert contents(tmp_path) == contents(undisturbed)
    leave_partial(tmp_path, items)
    assert prepare(items, tmp_path, RECIPE, workers=0).kept == 6
    assert contents(tmp_path) == contents(undisturbed)


def test_no_room_is_said_before_the_work(items, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DatasetError, match=r"about 0\.\d MB are needed for 6 videos, and 0\.0 MB are free"):
        prepare(items, tmp_path, RECIPE, workers=0)
    assert contents(tmp_path) == {}
    assert prepare(items, tmp_path, RECIPE, workers=0, check_space=False).made == 6
    # What would be replaced counts as room.
    assert prepare(items, tmp_path, FlowRecipe("farneback", 5.0, 32), workers=0, quality=60).made == 6


def test_a_disk_that_fills_up(items, undisturbed, tmp_path, monkeypatch):
    calls = Counter()
    real = os.fsync

    def fsync(descriptor):
        calls["fsync"] += 1
        if calls["fsync"] == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DatasetError, match=r"the disk is full .*; 2 of 6 videos are in it; free some space"):
        prepare(items, tmp_path, RECIPE, workers=0)
    assert len(contents(tmp_path)) == 2
    assert prepare(items, tmp_path, RECIPE, workers=0).made == 4
    assert contents(tmp_path) == contents(undisturbed)


def test_a_disk_that_is_really_full(items, undisturbed, small_disk):
    biggest = max(path.stat().st_size for path in undisturbed.rglob("*.zip"))
    disk = small_disk(f"size={(biggest * 4) // 4096 * 4096}")
    with pytest.raises(DatasetError, match="are needed"):
        prepare(items, disk, RECIPE, workers=0)
    with pytest.raises(DatasetError, match="the disk is full"):
        prepare(items, disk, RECIPE, workers=2, check_space=False)
    made = contents(disk)
    assert 1 <= len(made) < 6
    assert made.items() <= contents(undisturbed).items()
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
    assert prepare(items, disk, RECIPE, workers=0).made == 6 - len(made)
    assert contents(disk) == contents(undisturbed)


def test_a_store_that_cannot_be_written(items, small_disk, undisturbed):
    disk = small_disk("size=8m")
    shutil.copytree(undisturbed, disk / "store")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    # Nothing to write, no fault.
    assert prepare(items, disk / "store", RECIPE, workers=0).kept == 6
    with pytest.raises(DatasetError, match=r"cannot be written .*Read-only file system.*choose a folder"):
        prepare(items, disk / "store", FlowRecipe("dis", 20.0, 32), workers=0)
    with pytest.raises(DatasetError, match="cannot be written"):
        prepare(items, disk / "other", RECIPE, workers=0)


def test_a_store_that_is_a_file(items, tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        prepare(items, tmp_path / "store", RECIPE, workers=0)


def test_real_clips(tmp_path, shared_data):
    root = shared_data / "UCF-101"
    items = [(path, path.relative_to(root).as_posix()) for path in sorted(root.rglob("*.avi"))[::100]]
    recipe = FlowRecipe("dis", 20.0, 64)
    report = prepare(items, tmp_path, recipe, workers=0)
    assert report.failures == ()
    for path, name in items:
        settings = ClipSettings(5, 4, recipe)
        real, stored = (
            cut_clip(VideoSource(path, recipe), settings),
            cut_clip(StoredVideo(entry_path(tmp_path, name)), settings),
        )
        np.testing.assert_array_equal(real.positions, stored.positions)
        np.testing.assert_array_equal(real.times, stored.times)
        assert np.abs(real.rgb.astype(int) - stored.rgb).mean() < 4.0
        assert np.abs(recipe.decode(real.flow) - recipe.decode(stored.flow)).mean() < 0.02
