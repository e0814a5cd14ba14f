"""Videos of many kinds, written with PyAV, so that the suite is whole without the shared clips."""

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

# Encoders that would otherwise write to standard error.
_QUIET = {"libx265": {"x265-params": "log-level=none"}}
os.environ.setdefault("SVT_LOG", "0")

_MUXERS = {
    ".mkv": "matroska",
    ".mpg": "mpeg",
    ".ts": "mpegts",
    ".wmv": "asf",
    ".m4v": "m4v",
}


def _numbered(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Pictures that name themselves by the grey of their right upper quarter: ``20 + 200 * index / (count - 1)``.

    The left upper quarter is white and the lower quarter red, so that every way of turning them shows.
    """
    pictures = []
    for index in range(count):
        picture = np.full((height, width, 3), 20 + 200 * index // max(count - 1, 1), np.uint8)
        picture[: height // 2, : width // 2] = 240
        picture[-(height // 4) :] = (200, 30, 30)
        pictures.append(picture)
    return pictures


def _frame(picture: np.ndarray, source_format: str, pixel_format: str) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, format=source_format)
    return frame if pixel_format == source_format else frame.reformat(format=pixel_format)


def _write(
    path: Path,
    pictures: Sequence[np.ndarray] | None = None,
    *,
    count: int = 12,
    width: int = 64,
    height: int = 48,
    codec: str = "mpeg4",
    pixel_format: str = "yuv420p",
    source_format: str = "rgb24",
    rate: int = 25,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    muxer_options: dict[str, str] | None = None,
    colorspace: int | None = None,
    color_range: int | None = None,
    rotation: tuple[int, bool, bool] | None = None,
    sound: bool = False,
) -> Path:
    """Write ``pictures``, or ``count`` numbered ones, and give the path back.

    ``times`` are in milliseconds; ``rotation`` is counter-clockwise degrees, then mirrored in x, in y.
    """
    if pictures is None:
        pictures = _numbered(count, width, height)
    muxer = _MUXERS.get(path.suffix, path.suffix[1:])
    unit = Fraction(1, 1000) if times is not None else Fraction(1, rate)
    with path.open("wb") as file, av.open(file, "w", format=muxer, options=muxer_options) as out:
        stream = out.add_stream(codec, rate=rate, options={**_QUIET.get(codec, {}), **(options or {})})
        shape = pictures[0].shape
        stream.height, stream.width = shape[-2:] if shape[0] == 3 else shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = unit
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if color_range is not None:
            stream.codec_context.color_range = color_range
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        voice = out.add_stream("pcm_s16le", rate=8000, layout="mono") if sound else None
        for index, picture in enumerate(pictures):
            frame = _frame(picture, source_format, pixel_format)
            frame.time_base, frame.pts = unit, times[index] if times is not None else index
            out.mux(stream.encode(frame))
            if voice is not None:
                tone = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), format="s16", layout="mono")
                tone.sample_rate, tone.time_base, tone.pts = 8000, Fraction(1, 8000), 320 * index
                out.mux(voice.encode(tone))
        for each in (stream, voice):
            if each is not None:
                out.mux(each.encode(None))
    return path


def _encode(pictures: Sequence[np.ndarray], codec: str, pixel_format: str) -> list[bytes]:
    """The packets of an encoder that neither delays nor reorders."""
    encoder = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.thread_count = pixel_format, Fraction(1, 25), 1
    packets = []
    for index, picture in enumerate(pictures):
        frame = _frame(picture, "rgb24", pixel_format)
        frame.pts = index
        packets += encoder.encode(frame)
    return [bytes(packet) for packet in packets + encoder.encode(None)]


def _mux(
    path: Path,
    streams: Sequence[tuple[Sequence[np.ndarray], str, int]],
    stamps: Sequence[tuple[int, int]] | None = None,
    extra: dict[int, bytes] | None = None,
) -> Path:
    """Write packets with chosen timestamps.

    ``streams`` holds (pictures, codec, disposition); ``stamps`` (presentation, decoding) times in milliseconds, 40 ms
    apart where not given; ``extra`` packets of the first stream by the number of the packet that they follow.
    """
    formats = {"mjpeg": "yuvj420p", "ffv1": "yuv420p", "mpeg4": "yuv420p"}
    with path.open("wb") as file, av.open(file, "w", format=_MUXERS.get(path.suffix, path.suffix[1:])) as out:
        packets = []
        outputs = []
        for pictures, codec, disposition in streams:
            output = out.add_stream(codec, rate=25)
            output.height, output.width = pictures[0].shape[:2]
            output.pix_fmt, output.disposition = formats[codec], disposition
            outputs.append(output)
            rows: list[bytes] = []
            for index, data in enumerate(_encode(pictures, codec, formats[codec])):
                rows.append(data)
                if extra and output is outputs[0] and index in extra:
                    rows.append(extra[index])
            packets.append(rows)
        for output, rows in zip(outputs, packets, strict=True):
            for index, data in enumerate(rows):
                packet = av.Packet(data)
                packet.stream, packet.time_base = output, Fraction(1, 1000)
                packet.pts, packet.dts = stamps[index] if stamps else (40 * index, 40 * index)
                packet.is_keyframe = index == 0 or output.codec_context.name in ("mjpeg", "ffv1")
                out.mux(packet)
    return path


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """Encodes pictures into a file: see ``_write``."""
    return _write


@pytest.fixture(scope="session")
def mux_video() -> Callable[..., Path]:
    """Puts encoded packets into a file under chosen timestamps: see ``_mux``."""
    return _mux


@pytest.fixture(scope="session")
def numbered() -> Callable[..., list[np.ndarray]]:
    """Makes (count, width, height) pictures that name themselves."""
    return _numbered


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared clips; a test that asks for it is skipped where it is absent."""
    folder = Path(os.environ.get("ACTIONFUSION_SHARED") or Path(__file__).parents[3] / "shared") / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared clips are not at {folder}")
    return folder
