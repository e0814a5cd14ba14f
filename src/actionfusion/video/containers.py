"""Open video files safely and choose their stream.

Only demuxers of real containers are let in, and the file is handed to FFmpeg as an open file, never as a name: so a
playlist cannot open other files or the network, and a file may be called ``http:x.avi`` or ``concat:a|b``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL
from typing import TYPE_CHECKING, BinaryIO, cast

import av
from av.stream import Disposition

from actionfusion.errors import NotAVideo, NoVideoStream, VideoDamaged, VideoMissing, VideoTooLarge, VideoUnreadable
from actionfusion.video.error_log import ErrorLog, errors_logged
from actionfusion.video.limits import allowed_pixels, refuse_codec
from actionfusion.video.still_pictures import MAX_PIXELS
from actionfusion.video.structure import structure_fault

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

LocalPath = str | os.PathLike[str]

PIXEL_LIMIT = {"max_pixels": str(MAX_PIXELS)}
"""The same for FFmpeg: for the decoders that it runs while it looks into a file, and for ours, since a stream may hold
larger pictures than its container says."""

LARGEST_LEVEL = 35_651_584
"""Largest picture of H.264 and H.265 at any level, in pixels: 8192 x 4352 (ITU-T H.264, table A-1; H.265, table A.8).

A decoder keeps up to 17 pictures of them, with the motion of each: 1.2 GB at this size, 2.3 GB at ``MAX_PIXELS``."""

VIDEO_DEMUXERS = (
    "apng",
    "asf",
    "av1",
    "avi",
    "dv",
    "flv",
    "gif",
    "h264",
    "hevc",
    "ivf",
    "m4v",
    "matroska",
    "mov",
    "mpeg",
    "mpegts",
    "mpegvideo",
    "mxf",
    "nut",
    "obu",
    "ogg",
    "rm",
    "webm",
    "wtv",
    "yuv4mpegpipe",
)
"""FFmpeg's names of the containers that are read.  Left out on purpose: playlists (hls, dash, concat), text (tty),
still pictures (image2, *_pipe) and every device."""

SOUND_DEMUXERS = ("aac", "ac3", "aiff", "amr", "ape", "au", "caf", "eac3", "flac", "mp3", "tta", "w64", "wav", "wv")
"""Let in only so that a sound recording is called one."""

# Nothing is opened by name, so no protocol is needed; FFmpeg reads an empty list as "no restriction".
_NO_PROTOCOL = "none"
_NOT_MOVING = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_STILL_BRANDS = frozenset({"avif", "heic", "heim", "heis", "heix", "mif1"})
CONVERT = "convert it with FFmpeg, for example to H.264 in MP4"
FETCH_AGAIN = "copy or download it again"
SCALE_DOWN = "scale it down first"


@contextmanager
def open_video(path: LocalPath, log: ErrorLog | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file and choose its stream; both are closed at the end in any case.

    Of several video streams, the one that the container marks as default is taken, of several such the largest
    picture, of several such the first.  Cover art and thumbnails are no video streams.

    Args:
        path: the file.
        log: hears what FFmpeg finds wrong with the container while it is opened, and can be listened to until it is
            closed.

    Raises:
        VideoMissing: no such file; a folder, a pipe or a device.
        VideoUnreadable: the file cannot be opened or read.
        NotAVideo: no container of moving pictures; an empty file, text, a playlist, a still picture.
        NoVideoStream: nothing but sound, subtitles or cover art.
        VideoDamaged: a container whose header cannot be read, or a codec that FFmpeg does not decode.
        VideoTooLarge: a picture of more than ``MAX_PIXELS`` pixels, or than this thread may read (``limits``).
        CodecRefused: a codec that this thread may not read.
    """
    name = os.fspath(path)
    log = log or ErrorLog()
    with _open_file(name) as file, errors_logged(), _open_container(name, file, log) as container:
        yield container, choose_stream(name, container)


def _open_file(name: str) -> BinaryIO:
    try:
        # Asked before opening, because opening a pipe would wait for its writer.
        is_file = stat.S_ISREG(os.stat(name).st_mode)  # noqa: PTH116 - as open() below
        file = open(name, "rb", buffering=0) if is_file else None  # noqa: PTH123, SIM115 - closed by the caller
    except FileNotFoundError:
        raise VideoMissing(name, "there is no such file", "check the path") from None
    except (OSError, ValueError) as error:
        raise VideoUnreadable.because_of(error, name, f"it cannot be opened ({error_text(error)})") from error
    if file is None:
        raise VideoMissing(name, "this is not a file", "give the path of a video file")
    return file


class _SeekableFile:
    """A file as PyAV reads it, which answers an impossible seek as FFmpeg expects, without an exception.

    Damaged files make FFmpeg look for such places, and PyAV would print the exception to standard error.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.name = file.name
        self.read = file.read
        self.tell = file.tell
        self._seek = file.seek

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, OverflowError, ValueError):
            return -EINVAL


@contextmanager
def _open_container(name: str, file: BinaryIO, log: ErrorLog) -> Iterator[InputContainer]:
    with _reading(name):
        head = file.read(1024)
    if not head:
        raise NotAVideo(name, "the file is empty", FETCH_AGAIN)
    file.seek(0)
    try:
        with log.heard():
            container = av.open(
                _SeekableFile(file),
                "r",
                options={"max_pixels": str(allowed_pixels(MAX_PIXELS))},
                container_options={
                    "format_whitelist": ",".join(VIDEO_DEMUXERS + SOUND_DEMUXERS),
                    "protocol_whitelist": _NO_PROTOCOL,
                },
                metadata_errors="replace",  # old files hold titles in any encoding
            )
    except (av.FFmpegError, OSError) as error:
        if _has_video_signature(head):
            reason = f"the header of this video cannot be read ({error_text(error)})"
            raise VideoDamaged(name, reason, FETCH_AGAIN) from error
        raise NotAVideo(name, "no video container was recognised in it", "give a video file") from error
    with container:
        # A codec that this build of FFmpeg does not know leaves the stream without a codec context.
        others = [stream.codec_context for stream in container.streams if stream.type in ("audio", "subtitle")]
        log.opened(container.format.name, {codec.name for codec in others if codec is not None})
        if container.metadata.get("major_brand", "").strip() in _STILL_BRANDS:
            raise NotAVideo(name, "this is a still picture", "give a video file")
        yield container


def choose_stream(name: str, container: InputContainer) -> VideoStream:
    """Choose the video stream to read, as ``open_video`` says, of a container of that name.

    Raises:
        NoVideoStream, VideoDamaged, VideoTooLarge, CodecRefused: as ``open_video``.
    """
    moving = [stream for stream in container.streams.video if not stream.disposition & _NOT_MOVING]
    if not moving:
        only = "only cover art" if container.streams.video else "only sound" if container.streams.audio else "nothing"
        raise NoVideoStream(name, f"it has no video stream, it holds {only}", "give a file with moving pictures")
    # A codec that this build of FFmpeg does not know leaves the stream without a codec context.
    readable = [stream for stream in moving if cast("VideoCodecContext | None", stream.codec_context) is not None]
    if not readable:
        raise VideoDamaged(name, "its codec is not one that FFmpeg decodes", CONVERT)

    def rank(stream: VideoStream) -> tuple[bool, int, int]:
        codec = stream.codec_context
        return (bool(stream.disposition & Disposition.default), codec.width * codec.height, -stream.index)

    stream = max(readable, key=rank)
    refuse_codec(name, stream)
    width, height, largest = stream.codec_context.width, stream.codec_context.height, largest_picture(stream)
    if width * height > largest:
        raise VideoTooLarge(name, f"its picture of {width}x{height} is over {largest} pixels", SCALE_DOWN)
    return stream


def largest_picture(stream: VideoStream) -> int:
    """Give the pixels of the largest picture that is read of a stream, by how many its decoder keeps."""
    keeps_many = stream.codec_context.codec.canonical_name in ("h264", "hevc")
    return allowed_pixels(min(MAX_PIXELS, LARGEST_LEVEL) if keeps_many else MAX_PIXELS)


def error_text(error: BaseException) -> str:
    """Give the words of the system or FFmpeg for an error, without codes and names."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _has_video_signature(head: bytes) -> bool:
    starts = (
        b"\x1a\x45\xdf\xa3",  # Matroska, WebM
        b"FLV\x01",
        b"GIF8",
        b"OggS",
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
        b"\x00\x00\x01\xba",  # MPEG program stream
        b"\x00\x00\x01\xb3",  # MPEG-1 or -2 video
        b"\x06\x0e\x2b\x34",  # MXF
        b"DKIF",  # IVF
        b".RMF",  # RealMedia
        b"nut/multimedia container",
    )
    if head.startswith(starts) or (head.startswith(b"RIFF") and head[8:12] == b"AVI "):
        return True
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return True
    return head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G"  # MPEG transport stream


def find_structure_fault(path: LocalPath) -> str | None:
    """Describe the fault in a container's structure as a clause, or return None: see ``structure_fault``."""
    name = os.fspath(path)
    with _open_file(name) as file, _reading(name):
        return structure_fault(file)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VideoUnreadable(name, f"it cannot be read ({error_text(error)})", "check its disk") from error
