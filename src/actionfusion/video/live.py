"""Read live video: pictures as they come, and a count of what was lost.

A file is read as everywhere: strictly, by `iterate_frames`.  A pipe, camera or server cannot be read twice, so what
cannot be decoded is counted and left out; frames are numbered as if there had been nothing in its place.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from errno import EINVAL, EIO
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import av

from actionfusion.errors import NotAVideo, SettingsError, VideoDamaged, VideoError, VideoMissing, VideoUnreadable
from actionfusion.video.beginning import Beginning
from actionfusion.video.containers import (
    CONVERT,
    FETCH_AGAIN,
    PIXEL_LIMIT,
    VIDEO_DEMUXERS,
    choose_stream,
    error_text,
)
from actionfusion.video.error_log import ErrorLog, errors_logged
from actionfusion.video.pictures import PictureConverter, UInt8Array
from actionfusion.video.rates import frame_rate
from actionfusion.video.reading import frame_interval, iterate_frames, pictures_of, strict_decoder
from actionfusion.video.sources import STANDARD_INPUT, Source, refuse_terminal

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

OPEN_TIMEOUT = READ_TIMEOUT = 10.0
"""Seconds in which a camera or server must answer, and send the next picture."""

MAX_LOST_IN_A_ROW = 250
"""Packets without a picture after which a stream is called unreadable: ten seconds of most cameras."""

# Seconds by which the times of neighbouring pictures may differ; more is a source that began to count anew.
_LARGEST_STEP = 10.0
_POLL = 0.2
_NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS: the container states none
_CHECK_ADDRESS = "check the address, and that it sends video"
_CHECK_CAMERA = "check that it is plugged in, free and yours to use"


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of a live video.

    Attributes:
        time: seconds from the first one of its connection.
        image: makes the RGB array ``[size, size, 3]``; only before the next picture is read.
    """

    time: float
    image: Callable[[], UInt8Array]


@dataclass
class Losses:
    """Losses of a live video.

    Attributes:
        frames: packets that cannot be decoded, and pictures that the decoder marks as damaged; not those before the
            first picture of a stream that was joined midway.
    """

    frames: int = 0


class OpenSource(Protocol):
    """A source that is open.

    Attributes:
        says_its_length: whether its end is the end of the video, and not of a connection.
    """

    says_its_length: bool

    @property
    def rate(self) -> float | None:
        """The frames a second that it states, where it does."""
        ...

    def pictures(self, size: int) -> Generator[Picture, None, None]:
        """Yield all pictures in order, scaled to ``size``."""
        ...


@contextmanager
def open_source(
    source: Source, losses: Losses, *, stopped: Callable[[], bool] = lambda: False, opener: Callable[..., Any] = av.open
) -> Iterator[OpenSource]:
    """Open a source; it is closed at the end in any case.

    Args:
        source: which.
        losses: to count in.
        stopped: asked while a pipe gives nothing; True ends its reading.
        opener: as ``av.open``.

    Raises:
        VideoMissing: no such file, camera or server.
        VideoUnreadable: it cannot be read, or does not answer.
        NotAVideo, NoVideoStream, VideoDamaged, VideoTooLarge: as ``open_video``.
    """
    if source.kind == "file":
        yield _File(source.address)
    elif source.kind == "pipe":
        with errors_logged(), _open_pipe(source, stopped, opener) as container:
            yield _Stream(source, container, losses, says_its_length=True)
    else:
        with errors_logged(), _open_by_name(source, opener) as container:
            says_its_length = source.kind == "server" and source.format is None and container.size > 0
            yield _Stream(source, container, losses, says_its_length=says_its_length)


class _File:
    says_its_length = True

    def __init__(self, path: str) -> None:
        self._path = path

    @property
    def rate(self) -> float | None:
        return frame_rate(self._path)

    def pictures(self, size: int) -> Generator[Picture, None, None]:
        with closing(iterate_frames(self._path, size=size)) as frames:
            for frame in frames:
                yield Picture(frame.time, lambda image=frame.image: image)  # type: ignore[misc]


class _Pipe:
    """A pipe as PyAV reads it: it waits in short turns, so that it can be stopped."""

    def __init__(self, file: int, stopped: Callable[[], bool]) -> None:
        self._file, self._stopped = file, stopped
        self.count = 0

    def read(self, size: int) -> bytes:
        # Windows can wait for sockets only.
        while sys.platform != "win32" and not select.select([self._file], [], [], _POLL)[0]:
            if self._stopped():
                return b""
        data = b"" if self._stopped() else os.read(self._file, size)
        self.count += len(data)
        return data


@contextmanager
def _open_pipe(source: Source, stopped: Callable[[], bool], opener: Callable[..., Any]) -> Iterator[InputContainer]:
    refuse_terminal(source)
    with _pipe_file(source) as file:
        pipe = _Pipe(file, stopped)
        options = {"format_whitelist": ",".join((*VIDEO_DEMUXERS, "mjpeg")), "protocol_whitelist": "none"}
        try:
            container = opener(
                pipe, "r", options=dict(PIXEL_LIMIT), container_options=options, metadata_errors="replace"
            )
        except (av.FFmpegError, OSError) as error:
            if not pipe.count:
                raise NotAVideo(source.name, "it ended without a byte", "check the program that writes it") from error
            remedy = "write a container that can be read from its start on, such as mpegts, matroska or yuv4mpegpipe"
            raise NotAVideo(source.name, f"no video was recognised in it ({error_text(error)})", remedy) from error
        with container:
            yield container


@contextmanager
def _pipe_file(source: Source) -> Iterator[int]:
    if source.address == STANDARD_INPUT:
        yield sys.stdin.fileno()
        return
    try:
        file = os.open(source.address, os.O_RDONLY)
    except OSError as error:
        raise VideoUnreadable.because_of(error, source.name, f"it cannot be opened ({error_text(error)})") from error
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _open_by_name(source: Source, opener: Callable[..., Any]) -> Iterator[InputContainer]:
    failure: VideoError | None = None
    began = monotonic()
    try:
        with ErrorLog().heard():  # it may name the address with its password, which is for no log
            container = opener(
                _address(source),
                "r",
                format=source.format,
                container_options=dict(source.options),
                options=dict(PIXEL_LIMIT),
                timeout=(OPEN_TIMEOUT, READ_TIMEOUT),
                metadata_errors="replace",
            )
    except (av.FFmpegError, OSError, ValueError) as error:
        failure = _opening_failure(source, error, monotonic() - began)
    # Raised here, because FFmpeg's own error holds the address with its password, and a traceback would show it.
    if failure:
        raise failure
    with container:
        yield container


def _address(source: Source) -> str:
    """Give the address for FFmpeg; Windows names its cameras."""
    if source.format != "dshow":
        return source.address
    cameras = [each.name for each in av.enumerate_input_devices("dshow") if "video" in each.media_types]
    number = int(source.address)
    if number >= len(cameras):
        raise VideoMissing(source.name, f"there are {len(cameras)} cameras", _CHECK_CAMERA)
    return f"video={cameras[number]}"


def _opening_failure(source: Source, error: Exception, seconds: float) -> VideoError:
    if isinstance(error, VideoError):
        return error
    remedy = _CHECK_CAMERA if source.kind == "camera" else _CHECK_ADDRESS
    if "tls_verify" in source.options:
        remedy += "; a certificate that no authority signed must be in the file that SSL_CERT_FILE names"
    # FFmpeg's RTSP calls what it was interrupted in damage.
    if seconds >= OPEN_TIMEOUT:
        return VideoUnreadable(source.name, f"no answer within {OPEN_TIMEOUT:g} s", remedy)
    if isinstance(error, av.error.InvalidDataError):
        return NotAVideo(source.name, "no video was recognised in what it sends", _CHECK_ADDRESS)
    if source.kind == "server" and getattr(error, "errno", None) == EINVAL:
        reason = "what it sends is no container of video that is read; playlists (m3u8, sdp) are not"
        return NotAVideo(source.name, reason, "give the address of the stream itself")
    # A ValueError that is not FFmpeg's own is PyAV's, about a device that it does not know.
    if isinstance(error, av.error.ProtocolNotFoundError) or not isinstance(error, av.FFmpegError | OSError):
        reason = f"the FFmpeg that PyAV brings cannot open it ({_cause(error)})"
        return NotAVideo(source.name, reason, "let another program read it and pipe to -")
    if source.options.get("max_redirects") == "0" and getattr(error, "errno", None) == EIO:
        remedy += "; if the server leads to another address, give that one, or --redirects to follow it"
    failure = VideoMissing if isinstance(error, FileNotFoundError) else VideoUnreadable
    return failure(source.name, f"it cannot be opened ({_cause(error)})", remedy)


def _cause(error: Exception) -> str:
    """Describe an error without the address, which FFmpeg puts behind its own words."""
    return getattr(error, "strerror", None) or type(error).__name__


class _Stream:
    """A pipe, camera or server."""

    def __init__(self, source: Source, container: InputContainer, losses: Losses, *, says_its_length: bool) -> None:
        self.says_its_length = says_its_length
        self._source, self._container, self._losses = source, container, losses
        self._stream = choose_stream(source.name, container)

    @property
    def rate(self) -> float | None:
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else None

    def pictures(self, size: int) -> Generator[Picture, None, None]:
        if size < 1:
            raise SettingsError("size", f"{size} px is no size for a frame", "take 1 or more")
        clock = StreamClock(frame_interval(self._stream))
        unit = float(self._stream.time_base) if self._stream.time_base else None
        # FFmpeg would invent times, 25 pictures a second, at any rate of the camera.
        by_arrival = not self.says_its_length and bool(self._container.format.flags & _NO_TIMESTAMPS)
        convert: PictureConverter | None = None
        with closing(_decoded(self._source, self._container, self._stream, self._losses)) as pictures:
            for picture in pictures:
                # The picture's own `time` is no number for those that the decoder gives at the end.
                stated = None if picture.pts is None or unit is None else picture.pts * unit
                time = clock.time(monotonic() if by_arrival else stated)
                convert = convert or PictureConverter(picture, size)
                yield Picture(time, _converting(self._source, convert, picture))


def _converting(source: Source, convert: PictureConverter, picture: VideoFrame) -> Callable[[], UInt8Array]:
    def image() -> UInt8Array:
        try:
            return convert(picture)
        except av.FFmpegError as error:
            reason = f"its colours cannot be converted (matrix {picture.colorspace})"
            raise VideoDamaged(source.name, reason, CONVERT) from error

    return image


class StreamClock:
    """Times of the pictures of a live video: they grow strictly, and go on if the source starts to count again.

    Args:
        interval: seconds from one picture to the next where no usable time is stated.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._shift: float | None = None
        self._last = -interval

    def time(self, stated: float | None) -> float:
        """Give the seconds from the first picture to this one, whose stream time is ``stated``."""
        expected = self._last + self._interval
        time = expected
        if stated is not None:
            if self._shift is None or not 0 < stated - self._shift - self._last <= _LARGEST_STEP:
                self._shift = stated - expected
            time = stated - self._shift
        self._last = max(time, self._last + 1e-6)
        return self._last


def _decoded(
    source: Source, container: InputContainer, stream: VideoStream, losses: Losses
) -> Generator[VideoFrame, None, None]:
    """Yield every picture that can be decoded.

    Raises:
        VideoUnreadable: the reading broke off.
        VideoDamaged: ``MAX_LOST_IN_A_ROW`` packets gave none.
        VideoTooLarge: a picture is.
    """
    strict_decoder(stream)
    log, beginning = ErrorLog(), Beginning(stream, container.format.name, live=source.is_live)
    barren = 0
    log.opened(container.format.name, set())
    with closing(_packets(source, container, stream, log, losses)) as packets:
        for packet in packets:
            if packet is not None:
                beginning.see(packet)
            decoded, fault = pictures_of(source.name, stream, packet, log)
            kept = [picture for picture in decoded if not beginning.leaves_out(picture)]
            pictures = [picture for picture in kept if not picture.is_corrupt]
            losses.frames += len(kept) - len(pictures) + (fault is not None and not beginning.excuses(packet))
            barren += len(decoded) - len(pictures) + (fault is not None)
            if barren > MAX_LOST_IN_A_ROW:
                raise VideoDamaged(source.name, f"{barren} packets in a row cannot be decoded", FETCH_AGAIN)
            for picture in pictures:
                barren = 0
                yield picture


def _packets(
    source: Source, container: InputContainer, stream: VideoStream, log: ErrorLog, losses: Losses
) -> Generator[Packet[VideoStream] | None, None, None]:
    """Yield packets that hold data, then None; what a pipe's container has lost of them is counted."""
    failure: VideoError | None = None
    with closing(container.demux(stream)) as packets:  # type: ignore[type-var]
        while True:
            try:
                with log.heard():
                    packet = next(packets, None)
                # Of a server FFmpeg tells of the connection too.
                losses.frames += log.take(of_container=True) is not None and source.kind == "pipe"
            except (av.error.EOFError, IndexError):  # as in ``iterate_packets``
                packet = None
            except (av.FFmpegError, OSError) as error:
                waited = isinstance(error, av.error.ExitError)
                cause = f"it sent nothing for {READ_TIMEOUT:g} s" if waited else f"it broke off ({_cause(error)})"
                failure = VideoUnreadable(source.name, cause, "start it again")
                break
            if packet is None:
                break
            if packet.size:
                yield packet
    if failure:
        raise failure
    yield None
