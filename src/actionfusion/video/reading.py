"""Read video: frames in presentation order as RGB, with their times.

A frame's index is its rank among the frames that decoding gives.  Its time is in seconds from the first frame, taken
from the container where that states it.  Pixels are the stored ones, turned the way up that the container asks for;
a pixel aspect other than square is not applied, interlaced pictures are passed as they are, and HDR is not tone
mapped.  Colour follows the stream's own matrix and range, BT.601 and limited range where it names none.

What counts as damage: anything that FFmpeg's demuxer or decoder reports, at its strict setting, or logs as an error
(``error_log``), and a container that is not whole, which is looked into at the end of the reading (see
``structure_fault``).  A flipped bit that still decodes leaves no trace in most codecs and is not found.  No frame is
ever repeated, guessed or left out to hide a fault.  Pictures before the first that can be decoded, in a stream that
begins without a key frame, are no damage (``beginning``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from errno import EINVAL
from itertools import chain
from math import isqrt
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import numpy.typing as npt

from actionfusion.errors import NoFrames, SettingsError, VideoDamaged, VideoTooLarge
from actionfusion.video.beginning import Beginning
from actionfusion.video.containers import (
    CONVERT,
    FETCH_AGAIN,
    SCALE_DOWN,
    LocalPath,
    error_text,
    find_structure_fault,
    largest_picture,
    open_video,
)
from actionfusion.video.error_log import ErrorLog
from actionfusion.video.limits import PacketCount
from actionfusion.video.pictures import Orientation, PictureConverter, UInt8Array
from actionfusion.video.still_pictures import MAX_PIXELS
from actionfusion.video.threads import check_stop
from actionfusion.video.unforeseen import unforeseen_faults
from actionfusion.video.whole_files import identity, note_whole

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Frames a second that missing times are filled in with, where the stream states no rate.
_DEFAULT_RATE = 25.0
_STRICT = {"err_detect": "explode+crccheck"}


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a video from its container.

    Attributes:
        path: the file.
        container: FFmpeg's name of the container, such as ``avi`` or ``mov,mp4,m4a,3gp,3g2,mj2``.
        codec: FFmpeg's name of the decoder, such as ``h264``.
        pixel_format: FFmpeg's name, such as ``yuv420p``; empty where the stream does not say.
        width: of the picture as shown, after rotation, in stored pixels.
        height: likewise.
        rotation: clockwise turn in degrees that shows the stored picture upright: 0, 90, 180 or 270.
        mirrored: whether left and right are exchanged before that turn.
        fps: mean frame rate in frames a second, or None.
        duration: of the video stream in seconds, from the times of its packets where they have any, or None.
        frame_count: packets of the video stream, which need not be the number of frames that decoding gives.
        begins_with_key: whether its first packet is a key frame; what comes before one cannot be decoded.
    """

    path: Path
    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    rotation: int
    mirrored: bool
    fps: float | None
    duration: float | None
    frame_count: int
    begins_with_key: bool


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        index: rank in presentation order, from 0.
        time: seconds from the first frame; grows strictly from frame to frame.
        image: ``[H, W, 3]`` uint8 RGB, C-contiguous.
        unscaled: the same at the stored size, where that was asked for beside a scaled ``image``.
    """

    index: int
    time: float
    image: UInt8Array
    unscaled: UInt8Array | None = None


@dataclass(frozen=True, eq=False)
class Frames:
    """Chosen frames of one video.

    Attributes:
        images: ``[n, H, W, 3]`` uint8 RGB, C-contiguous.
        times: ``[n]`` seconds from the first frame of the video.
        indices: ``[n]`` ranks in presentation order, from 0.
        num_frames: frames of the whole video, as decoding to its end gave them unless the caller knew.
    """

    images: UInt8Array
    times: npt.NDArray[np.float64]
    indices: npt.NDArray[np.int64]
    num_frames: int


def probe(path: LocalPath) -> VideoInfo:
    """Read the facts about a video from its container, its packets and its first picture.

    A stream whose pictures cannot be decoded is described all the same; ``iterate_frames`` finds that out.

    Raises:
        VideoError: the file cannot be opened as a video, or a packet cannot be read; see ``open_video``.
    """
    with open_video(path) as (container, stream):
        codec = stream.codec_context
        codec.thread_count, codec.options = 1, {"max_pixels": str(largest_picture(stream))}
        orientation: Orientation | None = None
        count, begins_with_key = 0, True
        spans: list[tuple[int, int]] = []
        with packet_faults(fspath(path)):
            for packet in chain(iterate_packets(container, stream), [None]):
                if orientation is None:
                    picture = _first_picture(fspath(path), stream, packet)
                    orientation = Orientation.of(picture) if picture else None
                if packet is not None:
                    begins_with_key = begins_with_key and (count > 0 or packet.is_keyframe)
                    count += not packet.is_discard
                    if packet.pts is not None:
                        spans.append((packet.pts, packet.duration or 0))
        orientation = orientation or Orientation()
        width, height = codec.width, codec.height
        return VideoInfo(
            path=Path(path),
            container=container.format.name,
            codec=codec.name,
            pixel_format=codec.pix_fmt or "",
            width=height if orientation.exchanges_axes else width,
            height=width if orientation.exchanges_axes else height,
            rotation=orientation.rotation,
            mirrored=orientation.mirrored,
            fps=_rate(stream),
            duration=_duration(container, stream, sorted(spans)),
            frame_count=count,
            begins_with_key=begins_with_key,
        )


def count_frames(path: LocalPath) -> int:
    """Count frames by the packets of the stream, without decoding: a guess that decoding may correct.

    Real AVI files hold packets that give no frame (dropped frames, packed B-frames); the packets then outnumber the
    frames.

    Raises:
        VideoError: the file cannot be opened as a video, or a packet cannot be read; see ``open_video``.
    """
    with open_video(path) as (container, stream), packet_faults(fspath(path)):
        return sum(not packet.is_discard for packet in iterate_packets(container, stream))


def iterate_frames(
    path: LocalPath,
    *,
    wanted: Collection[int] | Callable[[int], bool] | None = None,
    size: int | None = None,
    unscaled: Collection[int] = (),
) -> Generator[Frame, None, int]:
    """Decode a video and yield its frames one by one; only the current frame is kept.

    The file is opened for the first frame, and closed when the iterator is used up, closed or dropped.

    Args:
        path: the file.
        wanted: indices of the frames to give; all of them where None.  The others are decoded, since frames build on
            each other, but not converted.  Indices that the video does not have are skipped.  Or a function that is
            called with each index when its frame is decoded.
        size: scale to ``size`` x ``size`` pixels, the aspect not kept.  None leaves the stored size; should it change
            within the stream, all frames come at the size of the first.
        unscaled: indices among the wanted ones of frames that come at the stored size too, as ``Frame.unscaled``.

    Returns:
        As the generator's return value, the number of frames in the whole video.

    Raises:
        SettingsError: a size under 1.
        VideoMissing, NotAVideo, NoVideoStream, VideoTooLarge: the file cannot be opened; see ``open_video``.
        VideoDamaged: after the last frame before the fault, which it names.
        NoFrames: a video stream that ends without having given a frame.
    """
    if size is not None and not 1 <= size <= isqrt(MAX_PIXELS):
        raise SettingsError("size", f"{size} px is no size for a frame", f"take 1 to {isqrt(MAX_PIXELS)}")
    chosen = wanted if wanted is None or callable(wanted) else frozenset(int(index) for index in wanted).__contains__
    return _frames(fspath(path), chosen, size, frozenset(unscaled))


def read_frames(
    path: LocalPath,
    indices: Sequence[int],
    *,
    size: int | None = None,
    num_frames: int | None = None,
    strict: bool = True,
) -> Frames:
    """Decode a video and keep the chosen frames.

    Args:
        path: the file.
        indices: the frames, in any order, also with repeats.
        size: as for ``iterate_frames``.
        num_frames: frames of the whole video if they are known; reading then ends with the last chosen frame.
            Where None, the video is decoded to its end, which counts them and finds damage anywhere.
        strict: refuse indices beyond the end; else they are left out of the result.

    Raises:
        SettingsError: an index under 0, or with ``strict`` one beyond the end; a size under 1.
        VideoError: see ``iterate_frames``.
    """
    asked = np.asarray(indices, dtype=np.int64).reshape(-1)
    if asked.size and asked.min() < 0:
        raise SettingsError("indices", f"{asked.min()} is before the first frame", "frames count from 0")
    wanted = np.unique(asked)
    times = np.zeros(len(wanted))
    images = np.empty((0, size or 0, size or 0, 3), np.uint8)
    found = 0
    frames = iterate_frames(path, wanted=wanted.tolist(), size=size)
    with closing(frames):
        while num_frames is None or found < len(wanted):
            try:
                frame = next(frames)
            except StopIteration as end:
                num_frames = int(end.value)
                break
            if not found:
                images = np.empty((len(wanted), *frame.image.shape), np.uint8)
            images[found], times[found] = frame.image, frame.time
            found += 1
    assert num_frames is not None
    if strict and found < len(wanted):
        reason = f"there is no frame {wanted[-1]} among its {num_frames} frames"
        raise SettingsError(path, reason, f"take frames 0 to {num_frames - 1}")
    asked = asked[np.isin(asked, wanted[:found])]
    rows = np.searchsorted(wanted, asked)
    if np.array_equal(rows, np.arange(found)):
        return Frames(images[:found], times[:found], asked, num_frames)
    return Frames(images[rows], times[rows], asked, num_frames)


def _frames(
    path: str, wanted: Callable[[int], bool] | None, size: int | None, unscaled: Collection[int]
) -> Generator[Frame, None, int]:
    before = identity(path)
    log = ErrorLog()
    with unforeseen_faults(path), open_video(path, log) as (container, stream):
        clock = _Clock(container, stream)
        convert: PictureConverter | None = None
        convert_unscaled: PictureConverter | None = None
        count = 0
        with closing(_decode(path, container, stream, log)) as pictures:
            for picture in pictures:
                time = clock.time(picture)
                convert = convert or PictureConverter(picture, size)
                if unscaled:
                    convert_unscaled = convert_unscaled or PictureConverter(picture, None)
                if wanted is None or wanted(count):
                    try:
                        image = convert(picture)
                        whole = convert_unscaled(picture) if convert_unscaled and count in unscaled else None
                    except av.FFmpegError as error:
                        reason = f"frame {count} has colours that cannot be converted (matrix {picture.colorspace})"
                        raise VideoDamaged(path, reason, CONVERT) from error
                    yield Frame(count, time, image, whole)
                count += 1
    if not count:
        raise NoFrames(path, "its video stream holds not one frame", "leave it out")
    note_whole(path, before, count)
    return count


def iterate_packets(container: InputContainer, stream: VideoStream) -> Generator[Packet[VideoStream], None, None]:
    """Yield the packets that hold data: an empty one would end the stream for the decoder.

    To be closed before the container is: PyAV else loses some memory of each file that is not read to its end.

    Raises:
        VideoTooLarge: more frames or seconds than this thread may read (``limits``).
    """
    count = PacketCount(container.name, stream)
    with closing(cast("Generator[Packet[VideoStream], None, None]", container.demux(stream))) as packets:
        while True:
            check_stop()
            try:
                packet = next(packets, None)
            except IndexError:  # at the end PyAV looks for streams that appeared too late for it, after all packets
                return
            if packet is None:
                return
            if packet.size:
                count.add(packet)
                yield packet


def strict_decoder(stream: VideoStream) -> VideoCodecContext:
    """Return the stream's decoder, not opened yet, set to report faults."""
    codec = stream.codec_context
    # One thread: clips are short, workers are many, more would each keep a picture of a live stream back, and a fault
    # is reported with the packet that has it.
    codec.thread_count = 1
    codec.thread_type = "NONE"
    codec.options = {**_STRICT, "max_pixels": str(largest_picture(stream))}
    return codec


def _first_picture(path: str, stream: VideoStream, packet: Packet[VideoStream] | None) -> VideoFrame | None:
    try:
        return next(iter(stream.codec_context.decode(packet)), None)
    except av.FFmpegError as error:
        refuse_large_picture(path, stream, error)
        return None


@contextmanager
def packet_faults(path: str) -> Iterator[None]:
    """Turn FFmpeg's errors in packets into ``VideoDamaged``."""
    with unforeseen_faults(path):
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise VideoDamaged(path, f"its packets cannot be read ({error_text(error)})", FETCH_AGAIN) from error


def _decode(
    path: str, container: InputContainer, stream: VideoStream, log: ErrorLog
) -> Generator[VideoFrame, None, None]:
    """Yield every picture of the stream in presentation order, or raise the error of the first fault."""
    strict_decoder(stream)
    beginning = Beginning(stream, container.format.name)
    num_frames = 0
    packet: Packet[VideoStream] | None = None
    with closing(iterate_packets(container, stream)) as packets:
        while True:
            try:
                with log.heard():
                    packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                raise _damage(path, stream, packet, num_frames, log.take() or error_text(error)) from error
            if packet is not None:
                beginning.see(packet)
            pictures, fault = pictures_of(path, stream, packet, log)
            if fault is not None and not beginning.excuses(packet):
                raise _damage(path, stream, packet, num_frames, fault)
            for picture in pictures:
                if beginning.leaves_out(picture):
                    continue
                if picture.is_corrupt:
                    raise _damage(path, stream, packet, num_frames, "the decoder found it corrupt")
                yield picture
                num_frames += 1
            if packet is None:
                break
    if not num_frames and beginning.left_out:
        raise VideoDamaged(path, "it begins without a key frame, and none follows", FETCH_AGAIN)
    _refuse_unwhole(path, log, num_frames)


def _refuse_unwhole(path: str, log: ErrorLog, num_frames: int) -> None:
    fault = log.at_opening or find_structure_fault(path)
    if fault is not None:
        raise VideoDamaged(path, f"{fault}; frames decoded: {num_frames}", FETCH_AGAIN)


def pictures_of(
    name: str, stream: VideoStream, packet: Packet[VideoStream] | None, log: ErrorLog
) -> tuple[list[VideoFrame], str | None]:
    """Decode a packet that was just read while the log listened, or give what is wrong with it beside no picture.

    Raises:
        VideoTooLarge: a picture of the video ``name`` is.
    """
    if (fault := log.take()) is not None:
        return [], fault
    if packet is not None and packet.is_corrupt:
        return [], "its packet is cut short or marked as corrupt"
    try:
        with log.heard():
            pictures = stream.codec_context.decode(packet)
    except (av.FFmpegError, OSError) as error:
        refuse_large_picture(name, stream, error)
        return [], log.take() or error_text(error)
    fault = log.take()
    return ([], fault) if fault is not None else (pictures, None)


def refuse_large_picture(name: str, stream: VideoStream, error: Exception) -> None:
    """Raise if the decoder refused a large picture, which then has no size, and is not damaged.

    Raises:
        VideoTooLarge: it is that; ``name`` is the video's.
    """
    if getattr(error, "errno", None) == EINVAL and not stream.codec_context.width:
        reason = f"it holds a picture of over {largest_picture(stream)} pixels, or of none"
        raise VideoTooLarge(name, reason, SCALE_DOWN) from error


def _damage(
    path: str, stream: VideoStream, packet: Packet[VideoStream] | None, num_frames: int, cause: str
) -> VideoDamaged:
    where = f"frame {num_frames}"
    if packet is not None and packet.pts is not None and stream.time_base is not None:
        where += f", near {float((packet.pts - (stream.start_time or 0)) * stream.time_base):.2f} s,"
    reason = f"{where} cannot be decoded ({cause}); frames decoded before it: {num_frames}"
    return VideoDamaged(path, reason, FETCH_AGAIN)


class _Clock:
    """Times of decoded pictures, made to grow strictly where the file's timestamps do not."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._unit = float(stream.time_base) if stream.time_base else None
        self._interval = frame_interval(stream)
        # AVI states no presentation times, and what FFmpeg guesses for B-frames goes back and forth; the times of
        # decoding are right up to a constant.
        self._use_dts = container.format.name == "avi"
        self._origin: float | None = None
        self._last: float | None = None

    def time(self, picture: VideoFrame) -> float:
        """Give the seconds from the first picture to this one; a nominal interval later if no later time is stated."""
        stamp = picture.dts if self._use_dts else picture.pts
        expected = 0.0 if self._last is None else self._last + self._interval
        time = expected
        if stamp is not None and self._unit is not None:
            stated = stamp * self._unit
            if self._origin is None:
                self._origin = stated - expected
            if self._last is None or stated - self._origin > self._last:
                time = stated - self._origin
        self._last = time
        return time


def frame_interval(stream: VideoStream) -> float:
    """Give the seconds from frame to frame by the stream's rate, or a usual one if it states none."""
    return 1 / (_rate(stream) or _DEFAULT_RATE)


def _rate(stream: VideoStream) -> float | None:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def _duration(container: InputContainer, stream: VideoStream, spans: list[tuple[int, int]]) -> float | None:
    """Compute the duration from the packets' (time, length), which is often more exact than the container's."""
    if spans and stream.time_base is not None:
        rate = _rate(stream)
        length = spans[-1][1] or (round(1 / (rate * stream.time_base)) if rate else 0)
        return float((spans[-1][0] + length - spans[0][0]) * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else None
