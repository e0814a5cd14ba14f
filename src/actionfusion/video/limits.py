"""Limits that a process which reads the videos of strangers sets beside those that hold for every video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actionfusion.errors import CodecRefused, VideoTooLarge

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_CONVERT = "convert it with FFmpeg, for example to H.264 in MP4"


@dataclass(frozen=True)
class ReadingLimits:
    """What a video may have at most, where a limit is given.

    Args:
        pixels: of a picture.
        frames: packets of the video stream, which are its frames or a few more.
        seconds: from its first packet to its last.
        codecs: FFmpeg's names of the decoders that may run.
        watch: called with the number of packets read so far, in each pass over the file.
    """

    pixels: int | None = None
    frames: int | None = None
    seconds: float | None = None
    codecs: frozenset[str] | None = None
    watch: Callable[[int], object] | None = None


_NONE = ReadingLimits()
_limits: ContextVar[ReadingLimits] = ContextVar("limits", default=_NONE)


@contextmanager
def limiting(limits: ReadingLimits) -> Iterator[None]:
    """Hold this thread's reading to limits while the block lasts."""
    token = _limits.set(limits)
    try:
        yield
    finally:
        _limits.reset(token)


def allowed_pixels(usual: int) -> int:
    """Give the pixels that a picture may have, of those that any may."""
    limits = _limits.get()
    return usual if limits.pixels is None else min(usual, limits.pixels)


def refuse_codec(name: str, stream: VideoStream) -> None:
    """Raise CodecRefused for a stream of the video ``name`` whose decoder may not run."""
    codecs, codec = _limits.get().codecs, stream.codec_context.name
    if codecs is not None and codec not in codecs:
        raise CodecRefused(name, f"its codec {codec} is not taken here", _CONVERT)


class PacketCount:
    """Counts the packets of one pass over a video.

    Args:
        name: of the video, for errors.
        stream: whose packets they are.
    """

    def __init__(self, name: str, stream: VideoStream) -> None:
        self._name, self._unit = name, stream.time_base
        self._limits = _limits.get()
        self._count = 0
        self._first: int | None = None

    def add(self, packet: Packet[VideoStream]) -> None:
        """Count a packet.

        Raises:
            VideoTooLarge: it is one too many, or too late.
        """
        limits = self._limits
        self._count += 1
        if limits.frames is not None and self._count > limits.frames:
            raise VideoTooLarge(self._name, f"it has over {limits.frames} frames", "cut it into shorter videos")
        stamp = packet.pts if packet.pts is not None else packet.dts
        if limits.seconds is not None and stamp is not None and self._unit is not None:
            self._first = stamp if self._first is None else min(self._first, stamp)
            if float((stamp - self._first) * self._unit) > limits.seconds:
                reason = f"it lasts over {limits.seconds:g} seconds"
                raise VideoTooLarge(self._name, reason, "cut it into shorter videos")
        if limits.watch is not None:
            limits.watch(self._count)
