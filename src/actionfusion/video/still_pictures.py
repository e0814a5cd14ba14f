"""Decode still pictures of bounded size: the size that a picture states is read before any memory is taken for it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

import cv2
import numpy as np

from actionfusion.errors import VideoDamaged, VideoTooLarge
from actionfusion.video.limits import allowed_pixels
from actionfusion.video.pictures import UInt8Array

MAX_PIXELS = 8192 * 8192
"""Largest picture that is read, in pixels, in a video or by itself: twice 8K UHD, 201 MB as RGB."""

_LARGEST_FILE = 8 * MAX_PIXELS  # as 16-bit colour with transparency, not compressed
_REPLACE = "replace it, or leave the video out"
# Start of frame, but for the markers of tables among them (ITU-T T.81, table B.1).
_FRAME_STARTS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_TIFF_SIZES = {256: 0, 257: 1, 322: 2, 323: 3}  # width and height of the picture and of its tiles
_TIFF_TYPES = {3: "H", 4: "I", 16: "Q"}


def decode_picture(data: bytes, subject: str | PathLike[str], flags: int = cv2.IMREAD_COLOR) -> UInt8Array:
    """Decode a JPEG, PNG, BMP, TIFF or WebP.

    Args:
        data: the whole file.
        subject: what the errors name.
        flags: of ``cv2.imdecode``.

    Returns:
        BGR ``[H, W, 3]``, or grey ``[H, W]`` with ``cv2.IMREAD_GRAYSCALE``.

    Raises:
        VideoTooLarge: it has more than ``MAX_PIXELS`` pixels, or than this thread may read (``limits``).
        VideoDamaged: it cannot be decoded, or is of another kind.
    """
    size = picture_size(data)
    if size is None:
        raise VideoDamaged(subject, "it is no whole JPEG, PNG, BMP, TIFF or WebP picture", _REPLACE)
    if size[0] * size[1] > (largest := allowed_pixels(MAX_PIXELS)):
        reason = f"its picture of {size[0]}x{size[1]} is over {largest} pixels"
        raise VideoTooLarge(subject, reason, "scale it down first")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise VideoDamaged(subject, f"this picture cannot be decoded ({error.err})", _REPLACE) from error
    if picture is None:
        raise VideoDamaged(subject, "this picture cannot be decoded", _REPLACE)
    return picture.astype(np.uint8, copy=False)


def read_picture(path: Path) -> UInt8Array:
    """Read a file as ``decode_picture`` does.

    Raises:
        VideoTooLarge, VideoDamaged: as ``decode_picture``; or the file is larger than any such picture.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise VideoTooLarge(path, f"it has over {_LARGEST_FILE >> 20} MiB", "scale it down first")
    return decode_picture(data, path)


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Read width and height that a picture states, of its largest part; None if it is of no known kind."""
    for start, read in _KINDS.items():
        if data.startswith(start):
            try:
                return read(data)
            except (IndexError, OverflowError, struct.error):
                return None
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """ITU-T T.81, section B.2.2."""
    place = 2
    while place < len(data):
        if data[place] != 0xFF:
            place += 1  # decoders look for the next marker too
            continue
        marker = data[place + 1]
        if marker in _FRAME_STARTS:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        if marker == 0xFF:
            place += 1
        elif marker in _WITHOUT_LENGTH or marker == 0:
            place += 2
        else:
            place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None


def _png(data: bytes) -> tuple[int, int] | None:
    """PNG specification, section 5.3; decoders take memory for the length that a part states."""
    place = 8
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        place += 12 + length
        if kind == b"IEND" and place <= len(data):
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
    return None


def _bmp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a height below zero counts from the top


def _tiff(data: bytes) -> tuple[int, int] | None:
    """TIFF 6.0, section 2, and BigTIFF: of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    count_type, entry_length, value = ("Q", 20, 12) if is_big else ("H", 12, 8)
    place = struct.unpack_from(f"{order}Q" if is_big else f"{order}I", data, 8 if is_big else 4)[0]
    (count,) = struct.unpack_from(f"{order}{count_type}", data, place)
    place += struct.calcsize(count_type)
    found = [0, 0, 0, 0]
    for at in range(place, min(place + count * entry_length, len(data)), entry_length):
        tag, kind = struct.unpack_from(f"{order}HH", data, at)
        if tag in _TIFF_SIZES and kind in _TIFF_TYPES:
            (found[_TIFF_SIZES[tag]],) = struct.unpack_from(f"{order}{_TIFF_TYPES[kind]}", data, at + value)
    sizes = [(found[0], found[1]), (found[2], found[3])]
    return max(sizes, key=lambda size: size[0] * size[1]) if found[0] and found[1] else None


def _webp(data: bytes) -> tuple[int, int] | None:
    """WebP container specification; RFC 6386, section 9.1, and the header of the lossless format."""
    match data[8:16]:
        case b"WEBPVP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        case b"WEBPVP8L":
            bits = int.from_bytes(data[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"WEBPVP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    return None


_KINDS: Mapping[bytes, Callable[[bytes], tuple[int, int] | None]] = {
    b"\xff\xd8": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"BM": _bmp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"II+\0": _tiff,
    b"MM\0+": _tiff,
    b"RIFF": _webp,
}
