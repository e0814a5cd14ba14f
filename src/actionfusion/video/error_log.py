"""Hear what FFmpeg logs as an error while it reads a video.

Some damage it covers up: a page of Ogg whose checksum is wrong is left out, a slice of FFV1 is copied from the picture
before.  The log is the only place where it says so.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from threading import Lock

import av.logging as ffmpeg

# Errors by FFmpeg's own word that say nothing of the pictures: how each begins.
_HARMLESS = (
    "Referenced QT chapter track not found",  # chapters are not read
    "Failed to open codec in avformat_find_stream_info",  # the decoder itself will say why
    "mmco: unref short failure",  # a picture before an open group is to be forgotten; one that is missed is told of
)

logging.getLogger("libav").addHandler(logging.NullHandler())  # nothing of it is for standard error


class ErrorLog:
    """Errors that FFmpeg logs in this thread while ``heard`` is entered.

    Attributes:
        at_opening: the first that the demuxer logged when the file was opened, or None.  What decoders log then, while
            the beginning of the file is looked into, they log again when it is decoded.
    """

    def __init__(self) -> None:
        self.at_opening: str | None = None
        self._entries: list[tuple[str, str]] = []
        self._ignored: Collection[str] = ()
        self._container = ""

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen while the block lasts, which is one call of FFmpeg: videos of one thread take turns."""
        with ffmpeg.Capture() as logged:
            try:
                yield
            finally:
                entries = [(name, " ".join(text.split())) for level, name, text in logged if level <= ffmpeg.ERROR]
                self._entries += [entry for entry in entries if not entry[1].startswith(_HARMLESS)]

    def opened(self, container: str, other_codecs: Collection[str]) -> None:
        """Tell that the file is open.

        Args:
            container: FFmpeg's name of it, which its demuxer logs under.
            other_codecs: names of what is not video, whose faults are of no account.
        """
        self._container, self._ignored = container, frozenset(other_codecs)
        self.at_opening = self.take(of_container=True)

    def take(self, *, of_container: bool = False) -> str | None:
        """Return the first error since the last call, or None; only the demuxer's ``of_container``."""
        entries, self._entries = self._entries, []
        heard = (name == self._container if of_container else name not in self._ignored for name, _ in entries)
        return next((text for (_, text), counts in zip(entries, heard, strict=True) if counts), None)


class _Level:
    """FFmpeg's level of logging, one for the whole process: errors while any video is read."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._holders = 0
        self._before: tuple[int | None, bool] = (None, True)

    def hold(self) -> None:
        with self._lock:
            if not self._holders:
                self._before = ffmpeg.get_level(), ffmpeg.get_skip_repeated()
                ffmpeg.set_level(max(self._before[0] or 0, ffmpeg.ERROR))
                ffmpeg.set_skip_repeated(False)  # else the same fault in a second file would not be told
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders:
                ffmpeg.set_level(self._before[0])
                ffmpeg.set_skip_repeated(self._before[1])


_level = _Level()


@contextmanager
def errors_logged() -> Iterator[None]:
    """Have FFmpeg log errors while the block lasts; any threads may enter it at once."""
    _level.hold()
    try:
        yield
    finally:
        _level.release()
