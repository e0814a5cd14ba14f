"""A prepared video gives back what was put in, and tells when it cannot."""

import errno
import gc
import io
import json
import shutil
import struct
import subprocess
import weakref
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actionfusion.data.store import Contents, SourceIdentity, StoredVideo, check_quality, entry_path, write_stored_video
from actionfusion.errors import DatasetError, NoFrames, SettingsError
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.flow import FlowRecipe, compute_flow
from actionfusion.video.reading import Frame

SIZE = 48
RECIPE = FlowRecipe("farneback", 10.0, SIZE)
SOURCE = SourceIdentity("class/a.avi", 1234, "ab" * 32)
NUM_FRAMES = 9


def moving_frames(count, shift, size=SIZE):
    """A texture, less coloured than bright and dark as real ones are, that moves by ``shift`` pixels a frame."""
    rng = np.random.default_rng(5)
    margin = 8 + int(abs(shift) * count)
    noise = rng.normal(size=(2, size + 2 * margin, size + 2 * margin, 3))
    texture = cv2.GaussianBlur(noise[0, ..., :1], (0, 0), 2.5)[..., None] + cv2.GaussianBlur(noise[1], (0, 0), 5.0)
    texture = (texture - texture.min()) / np.ptp(texture) * 235 + 10
    frames = []
    for index in range(count):
        move = np.float32([[1, 0, shift * index - margin], [0, 1, -margin]])
        image = cv2.warpAffine(texture, move, (size, size), flags=cv2.INTER_CUBIC)
        frames.append(Frame(index, index / 25, np.clip(image, 0, 255).astype(np.uint8)))
    return frames


def write(path, frames, recipe=RECIPE, quality=95):
    with path.open("wb") as stream:
        write_stored_video(stream, frames, Contents.of_flow(recipe), SOURCE, quality)
    return path


@pytest.fixture(scope="module")
def frames():
    return moving_frames(NUM_FRAMES, 0.7)


@pytest.fixture(scope="module")
def entry(tmp_path_factory, frames):
    return write(tmp_path_factory.mktemp("store") / "a.avi.zip", frames)


@pytest.fixture(scope="module")
def content(entry):
    """All pictures of the entry, read in one go."""
    return StoredVideo(entry).read(range(NUM_FRAMES), range(NUM_FRAMES - 1))


def rewritten(path, **changes):
    """The same entry with another index."""
    with zipfile.ZipFile(path) as archive:
        parts = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for info, data in parts:
            if info.filename == "clip.json":
                index = {name: value for name, value in (json.loads(data) | changes).items() if value is not None}
                archive.writestr(info, json.dumps(index).encode())
            else:
                archive.writestr(info, data)
    return path


def test_an_entry_of_version_0_1_is_read(entry, content, tmp_path):
    old = rewritten(Path(shutil.copy(entry, tmp_path)), format=1, frame_size=None, has_flow=None)
    video = StoredVideo(old)
    assert video.contents == Contents.of_flow(RECIPE)
    for before, now in zip(content, video.read(range(NUM_FRAMES), range(NUM_FRAMES - 1)), strict=True):
        np.testing.assert_array_equal(before, now)


def test_without_flow_none_is_computed_or_read(frames, tmp_path, monkeypatch, content):
    monkeypatch.setattr("actionfusion.video.flow.cv2.calcOpticalFlowFarneback", None)
    path = tmp_path / "a.avi.zip"
    with path.open("wb") as stream:
        write_stored_video(stream, frames, Contents(RECIPE, SIZE, has_flow=False), SOURCE, 95)
    video = StoredVideo(path)
    rgb, codes, _ = video.read(range(NUM_FRAMES), [])
    np.testing.assert_array_equal(rgb, content[0])
    assert codes.shape == (0, SIZE, SIZE, 2)
    assert cut_clip(video, ClipSettings(4, 2, RECIPE, streams=("rgb",))).flow is None
    with pytest.raises(DatasetError, match="was prepared without flow"):
        cut_clip(video, ClipSettings(4, 2, RECIPE))


def test_frames_may_have_another_size_than_flow(tmp_path):
    frames, path = moving_frames(NUM_FRAMES, 0.7, size=96), tmp_path / "a.avi.zip"
    with path.open("wb") as stream:
        write_stored_video(stream, frames, Contents(RECIPE, 96), SOURCE, 95)
    clip = cut_clip(StoredVideo(path), ClipSettings(4, 2, RECIPE, size=96))
    assert clip.rgb.shape == (4, 3, 96, 96)
    assert clip.flow.shape == (4, 4, SIZE, SIZE)
    small = [cv2.resize(frame.image, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for frame in frames]
    wanted = RECIPE.decode(compute_flow(small, [0], RECIPE))
    read = RECIPE.decode(StoredVideo(path).read([0], [0])[1])
    assert np.abs(read - wanted).mean() < 0.05


def test_pictures_and_flow_come_back_within_the_loss_of_jpeg(entry, frames):
    video = StoredVideo(entry)
    rgb, codes, times = video.read(range(NUM_FRAMES), range(NUM_FRAMES - 1))
    originals = np.stack([frame.image for frame in frames])
    wanted = RECIPE.decode(compute_flow(originals, range(NUM_FRAMES - 1), RECIPE))
    assert rgb.dtype == codes.dtype == np.uint8
    assert np.abs(rgb.astype(int) - originals).mean() < 2.0
    error = np.abs(RECIPE.decode(codes) - wanted)
    assert error.mean() < 0.02
    assert error.max() < 0.5
    np.testing.assert_array_equal(times, [frame.time for frame in frames])
    assert (video.num_frames, video.recipe, video.source, video.quality) == (NUM_FRAMES, RECIPE, SOURCE, 95)


@pytest.mark.parametrize("shift", [0.3, -0.7, 1.3])
def test_sub_pixel_motion_is_kept(tmp_path, shift):
    frames = moving_frames(4, shift, 96)
    recipe = FlowRecipe("dis", 20.0, 96)
    _, codes, _ = StoredVideo(write(tmp_path / "a.zip", frames, recipe)).read([], range(3))
    middle = recipe.decode(codes)[:, 16:-16, 16:-16].mean(axis=(1, 2))
    np.testing.assert_allclose(middle, np.broadcast_to([shift, 0], (3, 2)), atol=0.1)


def test_no_motion_is_exactly_no_motion(tmp_path, frames):
    still = [replace(frames[0], index=index, time=index / 25) for index in range(3)]
    _, codes, _ = StoredVideo(write(tmp_path / "a.zip", still)).read([], [0, 1])
    assert (codes == 128).all()


def test_any_zip_tool_and_any_jpeg_reader_opens_it(entry, content):
    rgb, codes, _ = content
    with zipfile.ZipFile(entry) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert len(names) == 2 * NUM_FRAMES
        index = json.loads(archive.read("clip.json"))
        picture = np.asarray(Image.open(io.BytesIO(archive.read("rgb/00000003.jpg"))))
        planes = np.asarray(Image.open(io.BytesIO(archive.read("flow/0000003.jpg"))))
    assert index["recipe"] == {"engine": "farneback", "bound": 10.0, "size": SIZE}
    assert (index["format"], index["frames"], index["quality"]) == (2, NUM_FRAMES, 95)
    assert index["source"] == {"name": "class/a.avi", "size": 1234, "sha256": "ab" * 32}
    assert np.abs(picture.astype(int) - rgb[3]).max() <= 4  # another decoder's rounding
    np.testing.assert_allclose(planes.reshape(2, SIZE, SIZE), codes[3].transpose(2, 0, 1), atol=1)


@pytest.mark.skipif(shutil.which("unzip") is None, reason="no unzip on this machine")
def test_unzip_finds_no_fault_and_gives_readable_files(entry, tmp_path):
    done = subprocess.run(["unzip", "-q", entry, "-d", tmp_path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 2 * NUM_FRAMES
    assert (tmp_path / "clip.json").stat().st_mode & 0o777 == 0o644


def test_same_video_gives_the_same_bytes(entry, frames, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert write(tmp_path / "b.zip", iter(frames)).read_bytes() == entry.read_bytes()
    other = write(tmp_path / "c.zip", frames, quality=90)
    assert other.stat().st_size < entry.stat().st_size


@given(st.sets(st.integers(0, NUM_FRAMES - 1)), st.sets(st.integers(0, NUM_FRAMES - 2)))
@settings(max_examples=30, deadline=None)
def test_any_choice_reads_the_same_pictures(entry, content, frames, fields):
    rgb, codes, times = StoredVideo(entry).read(sorted(frames), sorted(fields))
    np.testing.assert_array_equal(rgb, content[0][sorted(frames)])
    np.testing.assert_array_equal(codes, content[1][sorted(fields)])
    np.testing.assert_array_equal(times, content[2][sorted(frames)])


@pytest.mark.parametrize(("count", "length"), [(1, 2), (4, 4), (17, 6)])
def test_clips_of_any_length_are_cut(entry, content, count, length):
    clip = cut_clip(StoredVideo(entry), ClipSettings(count, length, RECIPE))
    assert clip.rgb.shape == (count, 3, SIZE, SIZE)
    assert clip.flow.shape == (count, 2 * length, SIZE, SIZE)
    np.testing.assert_array_equal(clip.rgb, content[0][clip.positions].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(clip.times, content[2][clip.positions])
    last = int(clip.positions[-1])
    fields = np.clip(np.arange(last - length // 2, last + length // 2), 0, NUM_FRAMES - 2)
    np.testing.assert_array_equal(clip.flow[-1, ::2], content[1][fields, ..., 0])
    np.testing.assert_array_equal(clip.flow[-1, 1::2], content[1][fields, ..., 1])


def test_video_of_one_frame(tmp_path, frames):
    video = StoredVideo(write(tmp_path / "a.zip", frames[:1]))
    clip = cut_clip(video, ClipSettings(3, 4, RECIPE))
    assert video.num_frames == 1
    assert (clip.flow == 128).all()


@pytest.mark.parametrize("index", [-1, NUM_FRAMES])
def test_frames_that_are_not_there(entry, index):
    with pytest.raises(IndexError):
        StoredVideo(entry).read([index], [])
    with pytest.raises(IndexError):
        StoredVideo(entry).read([], [index - 1 if index > 0 else index])


@pytest.mark.parametrize("row", [3, NUM_FRAMES, 2 * NUM_FRAMES - 2, 2 * NUM_FRAMES - 1])
def test_beyond_two_gibibytes_the_directory_has_longer_records(entry, frames, content, monkeypatch, row):
    # The limit is moved into this small file instead; zipfile writes the same structure from there on.
    with zipfile.ZipFile(entry) as archive:
        limit = archive.infolist()[row].header_offset - 1
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    large = write(entry.with_name("large.zip"), frames)
    monkeypatch.undo()
    longer = 2 * NUM_FRAMES - row
    assert large.stat().st_size == entry.stat().st_size + 12 * longer + 76  # the zip64 end record with its locator
    for got, wanted in zip(StoredVideo(large).read(range(NUM_FRAMES), range(NUM_FRAMES - 1)), content, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_more_pictures_than_a_plain_zip_counts(tmp_path, frames, content, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)
    large = write(tmp_path / "b.zip", frames)
    monkeypatch.undo()
    video = StoredVideo(large)
    assert video.num_frames == NUM_FRAMES
    np.testing.assert_array_equal(video.read([4], [])[0][0], content[0][4])


def test_a_changed_byte_never_changes_a_picture(entry, content, tmp_path):
    data = entry.read_bytes()
    path = tmp_path / "a.zip"
    found = 0

    @given(st.integers(0, len(data) - 1), st.integers(1, 255))
    @settings(max_examples=150, deadline=None)
    def check(place, change):
        nonlocal found
        path.write_bytes(data[:place] + bytes([data[place] ^ change]) + data[place + 1 :])
        try:
            read = StoredVideo(path).read(range(NUM_FRAMES), range(NUM_FRAMES - 1))
        except DatasetError:
            found += 1
            with pytest.raises(DatasetError):
                StoredVideo(path).verify()
        else:
            for got, wanted in zip(read, content, strict=True):
                np.testing.assert_array_equal(got, wanted)

    check()
    assert found > 50
    StoredVideo(entry).verify()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_file_cut_off_is_no_entry(entry, tmp_path_factory, data):
    whole = entry.read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut.zip"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DatasetError, match="run prepare again"):
        StoredVideo(path)


def test_what_is_no_entry_is_named(tmp_path, entry, frames):
    with pytest.raises(DatasetError, match="not in the prepared store"):
        StoredVideo(tmp_path / "missing.zip")
    with pytest.raises(DatasetError, match="cannot be read"):
        StoredVideo(tmp_path)
    foreign = tmp_path / "foreign.zip"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DatasetError, match="no whole entry"):
        StoredVideo(foreign)
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(entry) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(DatasetError, match="no whole entry"):
        StoredVideo(packed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "format 3, where this version reads 1 to 2"),
        ({"frames": 4}, "no whole entry"),
        ({"recipe": {"engine": "magic"}}, "no whole entry"),
        ({"source": None}, "no whole entry"),
        ({"times": "soon"}, "no whole entry"),
        ({"frame_size": 10**6}, "no whole entry"),
        ({"frame_size": 0}, "no whole entry"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, entry, change, message):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(entry) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist()[:-1]:
            new.writestr(name, old.read(name))
        new.writestr("clip.json", json.dumps(json.loads(old.read("clip.json")) | change))
    with pytest.raises(DatasetError, match=message):
        StoredVideo(path)


def test_pictures_in_another_order_are_refused(tmp_path, entry):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(entry) as old, zipfile.ZipFile(path, "w") as new:
        for name in sorted(old.namelist(), key=lambda name: (name == "clip.json", name)):
            new.writestr(name, old.read(name))
    with pytest.raises(DatasetError, match=r"rgb/00000001\.jpg in it is damaged"):
        StoredVideo(path).read([1], [])


def test_an_entry_replaced_while_open_is_noticed(tmp_path, frames):
    video = StoredVideo(write(tmp_path / "a.zip", frames))
    write(tmp_path / "a.zip", frames, quality=50)
    with pytest.raises(DatasetError, match="damaged"):
        video.read([NUM_FRAMES - 1], [])


def test_two_frames_at_a_time_are_held(frames, tmp_path):
    alive = weakref.WeakSet()
    most = 0

    class Watched(np.ndarray):
        __hash__ = object.__hash__

    def stream():
        nonlocal most
        for frame in frames:
            image = frame.image.copy().view(Watched)
            alive.add(image)
            most = max(most, len(alive))
            watched = Frame(frame.index, frame.time, image)
            del image
            yield watched
            del watched
            gc.collect()

    write(tmp_path / "a.zip", stream())
    assert 1 <= most <= 2


def test_no_frames_make_no_entry(tmp_path):
    with pytest.raises(NoFrames, match=r"class/a\.avi"):
        write(tmp_path / "a.zip", [])


@pytest.mark.parametrize("share", [0, 0.1, 0.99])
def test_a_stream_that_takes_no_more_raises(entry, frames, share):
    room = int(entry.stat().st_size * share)

    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() + len(data) > room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    with pytest.raises(OSError, match="No space left"):
        write_stored_video(Full(), frames, Contents.of_flow(RECIPE), SOURCE, 95)
    gc.collect()  # an archive left half open would complain here


@pytest.mark.parametrize("quality", [0, 101])
def test_quality_has_a_range(quality):
    with pytest.raises(SettingsError, match="JPEG quality"):
        check_quality(quality)


NAMES = [
    "a.avi",
    "Golf-Swing Back/001/x.avi",
    "ünï/日本語 \U0001f600.mp4",
    "a'b\"c\nd.avi",
    " .avi",
    "-rf.avi",
    "#%?.avi",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_as_they_are(name):
    assert entry_path(Path("/store"), name) == Path("/store") / (name + ".zip")


@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=300), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_long_names_fit_and_stay_apart(text, more):
    names = {text + "x" * more, text + "x" * (more + 1), text + "x" * more + ".avi"} - {".", ".."}
    entries = {entry_path(Path("/store"), name) for name in names}
    assert len(entries) == len(names)
    for path in entries:
        assert path.parent == Path("/store")
        assert len(path.name.encode()) <= 255
        assert path.name.endswith(".zip")


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "../a.avi", "a/../../b.avi", "a\0b.avi", ".."])
def test_names_that_leave_the_store_are_refused(name):
    with pytest.raises(DatasetError, match="no path within a data set"):
        entry_path(Path("/store"), name)


def test_directory_is_read_as_the_zip_format_says(entry):
    """Held against the fields as PKWARE's application note places them, unpacked one by one."""
    data = entry.read_bytes()
    count, _, start = struct.unpack("<HLL", data[-22:][10:20])
    video = StoredVideo(entry)
    place = start
    for row in range(count - 1):
        crc, size, _, name_length, extra, comment = struct.unpack("<LLLHHH", data[place + 16 : place + 34])
        offset = struct.unpack("<L", data[place + 42 : place + 46])[0]
        name = data[place + 46 : place + 46 + name_length]
        assert (extra, comment) == (0, 0)
        assert video._pictures.names[row] == name
        assert video._pictures.starts[row] == offset + 30 + name_length
        assert (video._pictures.sizes[row], video._pictures.checksums[row]) == (size, crc)
        place += 46 + name_length


def test_times_that_decrease_are_no_whole_entry(frames, tmp_path):
    """Clips are cut by time's order; a stranger's entry that runs backwards would be played forwards."""
    times = [frame.time for frame in frames]
    times[4], times[5] = times[5], times[4]
    path = write(tmp_path / "a.zip", [replace(frame, time=time) for frame, time in zip(frames, times, strict=True)])
    with pytest.raises(DatasetError, match="no whole entry of a prepared store"):
        StoredVideo(path)
