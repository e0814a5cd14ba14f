"""A file decoded whole is not decoded to its end again, unless it is another one now."""

import os
import time
from contextlib import closing

import numpy as np
import pytest

from actionfusion.errors import VideoDamaged, VideoMissing
from actionfusion.video import reading, whole_files
from actionfusion.video.clip import ClipSettings, FrameCountChanged, cut_clip
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.reading import iterate_frames
from actionfusion.video.video_source import VideoSource

RECIPE = FlowRecipe("dis", 10.0, 32)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the pictures that are decoded; files count as settled at once, and nothing is known before."""
    monkeypatch.setattr(whole_files, "_TICK", 0)
    monkeypatch.setattr(whole_files, "_known", {})
    pictures = []
    decode = reading._decode

    def counting(*arguments):
        for picture in decode(*arguments):
            pictures.append(picture.pts)
            yield picture

    monkeypatch.setattr(reading, "_decode", counting)
    return pictures


@pytest.fixture
def path(tmp_path, write_video):
    return write_video(tmp_path / "a.mkv", count=40)


def read(path, frames, num_frames=None):
    """Read as training does, which opens a video anew for each clip."""
    source = VideoSource(path, RECIPE, num_frames)
    images, _, times = source.read(frames, [])
    return images, times, source.num_frames


def test_the_second_reading_ends_with_the_last_frame_asked_for(path, decoded):
    first = read(path, [2, 9])
    assert len(decoded) == 40
    second = read(path, [2, 9])
    assert len(decoded) == 50
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert second[2] == 40


def test_clips_are_the_same_and_cheaper(path, decoded):
    settings = ClipSettings(3, 2, RECIPE)
    clips = [cut_clip(VideoSource(path, RECIPE), settings, lambda _: np.array([1, 4, 7])) for _ in range(2)]
    assert len(decoded) == 40 + 9
    np.testing.assert_array_equal(clips[0].rgb, clips[1].rgb)
    np.testing.assert_array_equal(clips[0].flow, clips[1].flow)


def _in_place(path, data):
    time.sleep(0.02)  # one tick of the clock of most file systems
    path.write_bytes(data)


def _with_old_times(path, data):
    before = path.stat()
    _in_place(path, data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _as_another_file(path, data):
    other = path.with_name("other")
    other.write_bytes(data)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("write", [_in_place, _with_old_times, _as_another_file])
def test_a_changed_file_is_decoded_to_its_end(path, decoded, write):
    whole = path.read_bytes()
    read(path, [0])
    half = len(whole) // 2
    write(path, whole[:half] + bytes(100) + whole[half + 100 :])
    with pytest.raises(VideoDamaged):
        read(path, [0])


def test_a_damaged_or_missing_file_is_never_known(path, decoded, tmp_path):
    path.write_bytes(path.read_bytes()[:-500])
    for _ in range(2):
        with pytest.raises(VideoDamaged):
            read(path, [0])
    with pytest.raises(VideoMissing):
        read(tmp_path / "gone.avi", [0])


def test_a_reading_that_was_left_early_says_nothing(path, decoded):
    with closing(iterate_frames(path)) as frames:
        next(frames)
    decoded.clear()
    read(path, [0])
    assert len(decoded) == 40


def test_a_file_that_changes_while_it_is_read_is_not_remembered(path, decoded):
    for frame in iterate_frames(path):
        if frame.index == 20:
            os.utime(path)
    decoded.clear()
    read(path, [0])
    assert len(decoded) == 40


def test_a_file_just_written_is_not_remembered(path, decoded, monkeypatch):
    monkeypatch.setattr(whole_files, "_TICK", 3600 * 10**9)
    for _ in range(2):
        read(path, [0])
    assert len(decoded) == 80


def test_a_wrong_number_of_frames_is_told_all_the_same(path, decoded):
    read(path, [0])
    source = VideoSource(path, RECIPE, 50)
    decoded.clear()
    with pytest.raises(FrameCountChanged):
        source.read([0], [])
    assert (decoded, source.num_frames) == ([], 40)
    assert VideoSource(path, RECIPE).num_frames == 40


def test_the_oldest_is_forgotten(tmp_path, write_video, decoded, monkeypatch):
    monkeypatch.setattr(whole_files, "_MOST_KNOWN", 2)
    paths = [write_video(tmp_path / f"{number}.avi", count=3) for number in range(3)]
    for path in paths:
        read(path, [0])
    for path, expected in zip(paths[::-1], (1, 1, 3), strict=True):
        decoded.clear()
        read(path, [0])
        assert len(decoded) == expected
