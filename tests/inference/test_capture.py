"""What is captured of a source that is fast, endless, or goes away: with a clock of the test's own."""

import threading
import weakref
from contextlib import contextmanager

import numpy as np
import pytest

from actionfusion.errors import NotAVideo, VideoMissing
from actionfusion.inference.streams.capture import Capture, Captured, OutageNote, Timer
from actionfusion.video.live import Picture
from actionfusion.video.samples import FrameCollector
from actionfusion.video.sources import Source, find_source

CAMERA = Source("camera", "camera 0", "/dev/video0")
FILE = Source("file", "clip.mp4", "clip.mp4")


class Clock:
    """Stands still but for pauses, which it keeps."""

    def __init__(self):
        self.moment, self.pauses = 100.0, []
        self.timer = Timer(lambda: self.moment, self._pause)

    def _pause(self, stop, seconds):
        self.pauses.append(seconds)
        self.moment += seconds


class Script:
    """An opener that gives one connection after the other: an error, or pictures that end by an error or none."""

    def __init__(self, *connections, whole=False):
        self.connections, self.says_its_length, self.rate = list(connections), whole, 25.0

    @contextmanager
    def __call__(self, source, losses, *, stopped):
        self.connection = self.connections.pop(0)
        if isinstance(self.connection, Exception):
            raise self.connection
        yield self

    def pictures(self, size):
        for number, entry in enumerate(self.connection):
            if isinstance(entry, Exception):
                raise entry
            if callable(entry):
                entry()
                continue
            yield Picture(number / 25, lambda: np.full((size, size, 3), 7, np.uint8))


def frames(count):
    return [None] * count


def gone(reason="it broke off"):
    return VideoMissing("camera 0", reason, "start it again")


def capture(script, source=CAMERA, *, every=4, length=2, **options):
    return Capture(source, FrameCollector(every, length), 8, opener=script, **options)


def test_a_slow_reader_gets_the_newest_sample_and_the_count_of_the_rest():
    """The camera waits for a signal, so what the reader finds does not depend on any clock."""
    go_on, sent = threading.Semaphore(0), threading.Semaphore(0)

    def wait():
        sent.release()
        go_on.acquire()

    # After frame 4k + 4 the sample of frame 4k + 3 is whole: 1, then 3, then 1 samples between the reader's looks.
    script = Script([*frames(5), wait, *frames(12), wait, *frames(4), wait, gone()])
    with capture(script, wait=0) as captured:
        reader = iter(captured.buffer)
        sent.acquire()
        assert next(reader).group.position == 3
        go_on.release()
        sent.acquire()
        # 7 and 11 were whole before 15; the pictures of a connection are numbered, the pauses of the script are not.
        newest = next(reader)
        assert (newest.group.position, captured.buffer.dropped) == (15, 2)
        go_on.release()
        sent.acquire()
        assert (next(reader).group.position, captured.buffer.dropped) == (19, 2)
        go_on.release()
        with pytest.raises(VideoMissing):
            next(reader)


def test_a_file_waits_for_its_reader_unless_it_is_to_be_live():
    with capture(Script(frames(200), whole=True), FILE) as captured:
        assert [entry.group.position for entry in captured.buffer] == list(range(3, 200, 4))
        assert captured.buffer.dropped == 0


def test_a_live_file_is_played_at_its_own_pace():
    clock = Clock()
    with capture(Script(frames(9), whole=True), FILE, live=True, timer=clock.timer) as captured:
        found = list(captured.buffer)
    assert clock.moment - 100 == pytest.approx(8 / 25)
    assert found[-1].at == pytest.approx(100 + 8 / 25)


def test_an_endless_source_with_a_reader_that_stands_still_keeps_to_its_memory():
    alive = most = 0
    done = threading.Event()

    def freed():
        nonlocal alive
        alive -= 1

    class Endless(Script):
        def pictures(self, size):
            nonlocal alive, most
            for number in range(3000):
                image = np.zeros((size, size, 3), np.uint8)
                weakref.finalize(image, freed)
                alive += 1
                yield Picture(number / 25, lambda image=image: image)
                most = max(most, alive)
            done.set()
            raise gone()

    with capture(Endless(frames(1)), every=4, length=2, wait=0) as captured:
        assert done.wait(60)
    # A group that waits, one that is made, and the pictures that the next one may need.
    assert most <= 3 * (4 + 2 + 2)
    assert captured.buffer.dropped == 3000 // 4 - 2


def entries(captured):
    return [entry if isinstance(entry, OutageNote) else entry.group.position for entry in captured.buffer]


def test_a_camera_that_left_is_waited_for_ever_longer_and_the_window_begins_anew():
    clock = Clock()
    away = [gone("no such device")] * 8
    script = Script([*frames(9), gone()], *away, [*frames(9), gone("end")], NotAVideo("camera 0", "x", "y"))
    with capture(script, wait=None, timer=clock.timer) as captured:
        reader = iter(captured.buffer)
        notes, samples = [], []
        while len(samples) < 2 or not any(note.next_try is None for note in notes):
            entry = next(reader)
            (samples if isinstance(entry, Captured) else notes).append(entry)
            if isinstance(entry, Captured) and entry.connection == 2:
                break
    assert clock.pauses[:9] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    back = next(note for note in notes if note.next_try is None)
    assert back.seconds == pytest.approx(121.5)
    assert {note.number for note in notes} == {1}
    assert samples[-1].connection == 2
    assert samples[-1].group.position in (3, 7)  # counted from the first frame of the new connection
    assert samples[-1].group.time == pytest.approx(121.5 + samples[-1].group.position / 25)
    assert captured.outages >= 1


@pytest.mark.parametrize(("wait", "pauses"), [(0, []), (0.2, [0.2]), (5, [0.5, 1, 2, 1.5])])
def test_waiting_has_its_end(wait, pauses):
    clock = Clock()
    script = Script([*frames(9), gone()], *[gone("no such device")] * 9)
    with capture(script, wait=wait, timer=clock.timer) as captured, pytest.raises(VideoMissing) as failure:
        list(captured.buffer)
    assert clock.pauses == pauses
    assert captured.outages == 1 - (wait == 0)
    message = str(failure.value)
    assert ("--wait" in message) == bool(wait)
    assert f"not back after {wait:g} s" in message or not wait


def test_who_was_never_there_is_waited_for_only_when_asked():
    clock = Clock()
    with capture(Script(gone()), timer=clock.timer) as captured, pytest.raises(VideoMissing, match="broke off"):
        list(captured.buffer)
    assert clock.pauses == []
    script = Script(gone(), gone(), [*frames(9), gone()], *[gone()] * 9)
    found = []
    with capture(script, wait=3, timer=clock.timer) as captured, pytest.raises(VideoMissing):
        found.extend(each for each in captured.buffer)
    assert [entry.number for entry in found if isinstance(entry, OutageNote)][:3] == [0, 0, 0]
    assert captured.outages == 1


def test_a_server_that_sends_no_video_is_not_waited_for():
    script = Script(NotAVideo("http://a", "no video", "check"))
    with capture(script, find_source("http://a"), wait=100) as captured, pytest.raises(NotAVideo):
        list(captured.buffer)


def test_the_pauses_stay_long_while_a_source_comes_back_without_a_sample():
    clock = Clock()
    flaps = [[*frames(2), gone()]] * 4
    script = Script([*frames(9), gone()], *flaps, [*frames(9), gone()], *[gone()] * 2, NotAVideo("a", "b", "c"))
    with pytest.raises(IndexError), capture(script, timer=clock.timer) as captured:
        list(captured.buffer)
    assert clock.pauses[:6] == [0.5, 1, 2, 4, 8, 0.5]


def test_a_finite_stream_over_a_server_is_read_whole_and_ends():
    with capture(Script(frames(50), whole=True), find_source("http://a/clip.ts")) as captured:
        assert [entry.group.position for entry in captured.buffer] == list(range(3, 50, 4))


def test_the_thread_ends_with_its_reader():
    with capture(Script(frames(10**6), whole=True), FILE) as captured:
        next(iter(captured.buffer))
    captured._thread.join(10)
    assert not captured._thread.is_alive()
