"""Clips of many videos, cut in threads: in order, bounded, and nothing left behind."""

import threading
from contextlib import closing

import cv2
import numpy as np
import pytest

from actionfusion.errors import DatasetError, SettingsError, VideoMissing
from actionfusion.video.clip import Clip
from actionfusion.video.clip_reader import CLIPS_A_WORKER, clips_ahead
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.threads import ReadingStopped, check_stop, flow_threads

BOTH = pytest.mark.parametrize("overlap", [False, True])


def _clip(number: int) -> Clip:
    empty = np.zeros((1, 3, 16, 16), np.uint8)
    return Clip(empty, empty, np.array([float(number)]), np.array([number]), FlowRecipe("dis", size=16))


@pytest.fixture(autouse=True)
def nothing_left():
    """No thread, and OpenCV as it was."""
    before = threading.active_count(), cv2.getNumThreads()
    yield
    assert (threading.active_count(), cv2.getNumThreads()) == before


@BOTH
@pytest.mark.parametrize("workers", [0, 1, 2, 5, None])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 23])
def test_every_video_in_its_place_with_its_clip_or_its_error(count, workers, overlap):
    def cut(number):
        if number % 3 == 1:
            raise VideoMissing(number, "there is none", "look elsewhere")
        return _clip(number)

    rows = list(clips_ahead(cut, iter(range(count)), workers=workers, overlap=overlap))
    assert [video for video, _ in rows] == list(range(count))
    for video, clip in rows:
        if video % 3 == 1:
            assert isinstance(clip, VideoMissing)
            assert clip.subject == str(video)
        else:
            assert clip.positions[0] == video


@BOTH
@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_clips_than_said_are_begun_however_slow_the_caller_is(workers, overlap):
    begun = []
    lock = threading.Lock()

    def cut(number):
        with lock:
            begun.append(number)
        return _clip(number)

    with closing(clips_ahead(cut, iter(range(100)), workers=workers, overlap=overlap)) as clips:
        for taken, _ in enumerate(clips, 1):
            # That in the caller's hands, and those that wait.
            assert len(begun) <= taken - 1 + CLIPS_A_WORKER * workers
            if taken == 20:
                break
    assert len(begun) <= 19 + CLIPS_A_WORKER * workers


@BOTH
@pytest.mark.parametrize(("clips_each", "videos"), [(1, 4), (2, 2), (3, 2), (10, 2)])
def test_of_several_clips_a_video_fewer_videos_are_in_memory(clips_each, videos, overlap):
    """Two workers have room for four clips, and for one video each at the least."""
    begun = []
    lock = threading.Lock()

    def cut(number):
        with lock:
            begun.append(number)
        return [_clip(number)] * clips_each

    with closing(clips_ahead(cut, iter(range(50)), workers=2, overlap=overlap, clips_each=clips_each)) as found:
        for taken, (_, clips) in enumerate(found, 1):
            assert len(clips) == clips_each
            assert len(begun) <= taken - 1 + videos
    assert sorted(begun) == list(range(50))


def test_threads_work_at_the_same_time():
    together = threading.Barrier(3, timeout=20)

    def cut(number):
        together.wait()
        return _clip(number)

    assert len(list(clips_ahead(cut, range(6), workers=3))) == 6


def test_overlap_is_cutting_while_the_caller_works_and_turns_are_not():
    done = {number: threading.Event() for number in range(4)}

    def cut(number):
        done[number].set()
        return _clip(number)

    with closing(clips_ahead(cut, iter(range(4)), workers=1, overlap=True)) as clips:
        next(clips)
        assert done[1].wait(20)  # while this caller works on the first
        assert not done[2].is_set()
        next(clips)
        assert done[2].wait(20)
    done = {number: threading.Event() for number in range(6)}
    with closing(clips_ahead(cut, iter(range(6)), workers=2)) as clips:
        for taken in range(4):
            next(clips)
            assert [each.is_set() for each in done.values()] == [True] * 4 + [False] * 2, taken
        next(clips)
        assert all(each.is_set() for each in done.values())


@BOTH
@pytest.mark.parametrize("stop", [KeyboardInterrupt, GeneratorExit, RuntimeError])
def test_a_caller_who_goes_away_stops_those_at_work(stop, overlap):
    """However long their videos are."""
    at_work, stopped = threading.Semaphore(0), []

    def cut(number):
        if number == 0 or (not overlap and number < 4):
            return _clip(number)
        at_work.release()
        try:
            while True:
                check_stop()
        except ReadingStopped:
            stopped.append(number)
            raise

    def consume():
        with closing(clips_ahead(cut, range(50), workers=2, overlap=overlap)) as clips:
            for _ in clips:
                if overlap:
                    assert at_work.acquire(timeout=20)
                raise stop

    with pytest.raises(stop):
        consume()
    assert len(stopped) <= 2
    assert bool(stopped) == overlap


def test_a_fault_of_the_caller_is_raised_in_its_place():
    def cut(number):
        if number == 3:
            raise DatasetError("store", "is of another size", "prepare it again")
        return _clip(number)

    clips = clips_ahead(cut, range(10), workers=2)
    assert [next(clips)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DatasetError):
        next(clips)


def test_the_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr("actionfusion.video.clip_reader.usable_cores", lambda: 8)
    shares = {}

    def cut(number):
        shares[number] = flow_threads()
        return _clip(number)

    for count, threads in ((1, cv2.getNumThreads()), (2, 4), (3, 2), (30, 1)):
        shares.clear()
        list(clips_ahead(cut, range(count)))
        assert set(shares.values()) == {threads}, count


def test_a_negative_number_of_workers():
    with pytest.raises(SettingsError, match="workers"):
        next(clips_ahead(_clip, [1, 2], workers=-1))
