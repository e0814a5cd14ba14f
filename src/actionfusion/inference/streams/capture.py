"""The capture thread: it decodes a source, collects each sample's frames, and waits for a source that went away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from threading import Event, Thread
from typing import Self

from actionfusion.errors import VideoError, VideoMissing
from actionfusion.inference.streams.latest import LatestBuffer
from actionfusion.video.live import Losses, OpenSource, Picture, open_source
from actionfusion.video.rates import WHOLE, FrameRates, Thinning
from actionfusion.video.reading import Frame
from actionfusion.video.samples import FrameCollector, FrameGroup
from actionfusion.video.sources import Source

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between the first tries to reach a source again, doubled from try to try, and at most."""

# A thread within FFmpeg cannot be stopped; it ends by itself when the source sends something, or closes.
_PATIENCE = 2.0


@dataclass(frozen=True, eq=False)
class Captured:
    """A sampled frame, complete with those that its flow needs.

    Attributes:
        group: the frames.
        newest: seconds from the start of the stream of the newest frame that was needed for it.
        at: time on the clock when that frame came.
        connection: number of the connection, from 1; frames of different connections are unrelated.
    """

    group: FrameGroup
    newest: float
    at: float
    connection: int


@dataclass(frozen=True)
class OutageNote:
    """A notice that a camera or server is away, or is back.

    Attributes:
        number: which outage, from 1; 0 before the source was there at all.
        seconds: for how long so far.
        reason: why it could not be read, without secrets.
        next_try: seconds until the next; None where it is back.
    """

    number: int
    seconds: float
    reason: str
    next_try: float | None = None


@dataclass(frozen=True)
class Timer:
    """Time as the capture sees it.

    Attributes:
        now: seconds of a clock that never goes back.
        pause: waits for so many seconds, or until the event is set.
    """

    now: Callable[[], float] = time.monotonic
    pause: Callable[[Event, float], object] = Event.wait


Opener = Callable[..., AbstractContextManager[OpenSource]]


class Capture:
    """Reads a source in a thread of its own, from ``with`` to its end.

    Args:
        source: where the video comes from.
        collector: of the stream's first frame; its interval and L.
        size: height and width that frames are scaled to.
        live: drop what is not taken in time, and play a file at its own pace.
        wait: seconds to wait for a source that went away, for each time; None for ever, but not for one that was
            never there; 0 not at all.
        timer: time.
        rates: of the run's training videos; a source that states a far higher rate is thinned to it.
        opener: as `open_source`.

    Attributes:
        buffer: of captured samples that wait, and of the error that ended the capture.
        losses: of frames that cannot be decoded.
        outages: times that the source went away.
        frames: how many came.
        pace: how they are taken, known once the source is open.
    """

    def __init__(
        self,
        source: Source,
        collector: FrameCollector,
        size: int,
        *,
        live: bool = False,
        wait: float | None = None,
        timer: Timer = Timer(),
        rates: FrameRates | None = None,
        opener: Opener = open_source,
    ) -> None:
        self.buffer: LatestBuffer[Captured, OutageNote] = LatestBuffer()
        self.losses = Losses()
        self.outages = self.frames = 0
        self.pace = WHOLE
        self._rates = rates
        self._source, self._given, self._collector, self._size = source, collector, collector, size
        self._live, self._wait, self._timer, self._opener = live, wait, timer, opener
        self._connection = 0
        self._stop = Event()
        self._thread = Thread(target=self._run, name="actionfusion capture", daemon=True)
        # The moment of the first frame of all; times of later connections are counted from it.
        self._began = 0.0
        # When the outage that goes on began, if one does.
        self._left: float | None = None
        self._pause = FIRST_PAUSE

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.buffer.close()
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            self._capture()
        except BaseException as error:  # noqa: BLE001 - raised again where the items are taken
            self.buffer.end(error)
        else:
            self.buffer.end()

    def _capture(self) -> None:
        while not self._stop.is_set():
            try:
                if self._connect():
                    return
                failure: VideoError = VideoMissing(self._source.name, "it stopped sending", "start it again")
            except VideoError as error:
                failure = error
            if not self._stop.is_set():
                self._pause_before_next_try(failure)

    def _pause_before_next_try(self, failure: VideoError) -> None:
        """Note the outage, and pause before the next try to reach the source.

        Raises:
            VideoError: waiting was not asked for, is of no use, or has lasted long enough.
        """
        was_there, now = self._connection > 0, self._timer.now()
        if self._left is None:
            hopeless = not was_there and (self._wait is None or not isinstance(failure, VideoMissing))
            if not self._source.is_live or hopeless or self._wait == 0:
                raise failure
            self._left = now
            self.outages += was_there
        away = now - self._left
        if self._wait is not None and away >= self._wait:
            missed = "it went away and was not back after" if was_there else "it did not come within"
            reason = f"{missed} {self._wait:g} s ({failure.reason})"
            raise VideoMissing(self._source.name, reason, "check it, or wait longer with --wait")
        pause = self._pause if self._wait is None else min(self._pause, self._wait - away)
        self.buffer.note(OutageNote(self.outages, away, failure.reason, pause))
        self._timer.pause(self._stop, pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _connect(self) -> bool:
        """Capture until the source ends, and return whether that is the end of the video."""
        with self._opener(self._source, self.losses, stopped=self._stop.is_set) as opened:
            whole = opened.says_its_length
            if self._rates is not None:
                self.pace = self._rates.pace(opened.rate)
                given = self._given
                self._collector = FrameCollector(self.pace.interval(given.every), given.length)
            may_drop = self._live or (self._source.is_live and not whole)
            with closing(opened.pictures(self._size)) as pictures:
                collector, newest = self._collect(pictures, may_drop=may_drop)
            if whole and newest is not None:
                for group in collector.finish():
                    self._put(group, newest, may_drop=may_drop)
            return whole

    def _collect(
        self, pictures: Iterator[Picture], *, may_drop: bool
    ) -> tuple[FrameCollector, tuple[float, float] | None]:
        """Put the samples of a connection into the buffer.

        Returns:
            The collector after its last frame, and that frame's time in the stream and on the clock.
        """
        collector, base, newest, taken = self._collector, 0.0, None, 0
        # A stated rate may be that of fields; times are right.
        thinned = Thinning(self.pace) if self.pace.step > 1 else None
        for index, picture in enumerate(pictures):
            if index == 0:
                base = self._begin_connection()
            if self._live and self._source.kind == "file":
                self._timer.pause(self._stop, max(0.0, self._began + picture.time - self._timer.now()))
            if self._stop.is_set():
                break
            self.frames += 1
            newest = base + picture.time, self._timer.now()
            if thinned is not None and not thinned.takes(picture.time):
                continue
            if collector.wants(taken):
                collector, group = collector.push(Frame(taken, newest[0], picture.image()))
                if group:
                    self._put(group, newest, may_drop=may_drop)
                    self._pause = FIRST_PAUSE
            taken += 1
        return collector, newest

    def _begin_connection(self) -> float:
        """End an outage if there is one, and return the seconds from the stream's first frame to this connection's."""
        now = self._timer.now()
        if self._left is not None:
            self.buffer.note(OutageNote(self.outages, now - self._left, "it is back"))
            self._left = None
        if not self._connection:
            self._began = now
        self._connection += 1
        return now - self._began

    def _put(self, group: FrameGroup, newest: tuple[float, float], *, may_drop: bool) -> None:
        self.buffer.put(Captured(group, *newest, self._connection), may_drop=may_drop)
