"""Check that a container is whole: demuxers skip a missing end or a destroyed block header silently.

Knows AVI, MP4, Matroska, GIF, Ogg and APNG.  The other containers are made to be cut anywhere and announce no length.
Files are read in blocks, never mapped into memory: one that is cut off meanwhile would end the process.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import BinaryIO

from actionfusion.video.sample_tables import LARGEST_MOVIE, tables_fault
from actionfusion.video.threads import check_stop

CUT_OFF = "the file is cut off"
BROKEN = "its blocks do not fit together"
WRONG_SUM = "a checksum in it is wrong"
CRUMBS = "it holds next to nothing but empty blocks"

_SEGMENT = b"\x18\x53\x80\x67"
_CLUSTER = b"\x1f\x43\xb6\x75"
_BLOCK = 1 << 18
# Blocks in a file, as soon as these take less than so many bytes each: a walk over more takes minutes and finds none of
# the content that FFmpeg looks for.  A second of video and sound has about 100 blocks, the smallest of over 8 bytes.
_MOST_CRUMBS = 1 << 20
_CRUMB = 8


def structure_fault(file: BinaryIO) -> str | None:
    """Describe the fault in the structure of an open container as a clause, or return None.

    A cut that took nothing but an index at the end of an AVI or MP4 file is no fault.
    """
    data = _Bytes(file)
    head = data.at(0, 12)
    for starts, find in _KNOWN.items():
        if head.startswith(starts) or head[4:8] in starts:
            try:
                return find(data)
            except _Fault as fault:
                return fault.clause
    return None


class _Fault(Exception):
    """A fault that ends the walk over any container."""

    def __init__(self, clause: str) -> None:
        super().__init__(clause)
        self.clause = clause


class _Bytes:
    """The bytes of a file, of which a block is kept.

    Attributes:
        length: of the file when it was opened.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.length = file.seek(0, 2)
        self._file = file
        self._start, self._block, self._asked = 0, b"", 0

    def at(self, position: int, count: int) -> bytes:
        """Give that many bytes, or fewer at the end.

        Raises:
            _Fault: of crumbs, see ``_MOST_CRUMBS``; or the file has become shorter.
        """
        self._asked += 1
        if self._asked > _MOST_CRUMBS and position < self._asked * _CRUMB:
            raise _Fault(CRUMBS)
        offset = position - self._start
        if not 0 <= offset <= len(self._block) - count:
            check_stop()
            self._file.seek(position)
            self._start, self._block, offset = position, self._file.read(max(count, _BLOCK)), 0
            if len(self._block) < min(count, self.length - position):
                raise _Fault(CUT_OFF)
        return self._block[offset : offset + count]


def _riff_fault(data: _Bytes) -> str | None:
    """Find a list of pictures that reaches over the end; data after the RIFF chunk does not matter."""
    position = end = 0
    while position + 12 <= data.length:
        head = data.at(position, 12)
        size = int.from_bytes(head[4:8], "little")
        if position >= end:
            if head[:4] != b"RIFF":
                return None
            end = position + 8 + size if size not in (0, 0xFFFFFFFF) else data.length
            position += 12
        elif not head[:4].strip(b"\0"):
            return None  # an end filled up with zeros
        elif head[:4] == b"LIST" and head[8:] == b"movi" and position + 8 + size > data.length:
            return CUT_OFF if size != 0xFFFFFFFF else None  # written to a stream, the length was never known
        else:
            position += 8 + size + size % 2
    return None


def _boxes_fault(data: _Bytes) -> str | None:
    """Find pictures, or the header of a fragment, that reach over the end (ISO/IEC 14496-12, section 4.2)."""
    position, movie = 0, b""
    while position + 8 <= data.length:
        head = data.at(position, 16)
        size, start = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, start = int.from_bytes(head[8:], "big"), 16
        if size < 8:
            break
        if head[4:8] == b"moov" and size <= LARGEST_MOVIE:
            movie = data.at(position + start, size - start)
        position += size
        if position > data.length and head[4:8] in (b"mdat", b"moof"):
            return CUT_OFF
    return tables_fault(movie, data.length)


def _matroska_fault(data: _Bytes) -> str | None:
    """Walk the elements of the segment and of its clusters (RFC 8794, section 4; RFC 9559)."""
    position = 0
    segment_end = cluster_end = data.length
    overrun = CUT_OFF  # until the segment has said its length and the file is long enough
    while position < segment_end:
        if position >= cluster_end:
            cluster_end = segment_end
        name, head_length, size = _element(data.at(position, 16))
        holds_others = name in (_SEGMENT, _CLUSTER)
        if not name or (size is None and not holds_others):
            return BROKEN
        start = position + head_length
        end = segment_end if size is None else start + size
        if end > (segment_end if holds_others else cluster_end):
            return overrun
        if name == _SEGMENT:
            segment_end = end
            overrun = CUT_OFF if size is None else BROKEN
        if holds_others:
            cluster_end = end
        position = start if holds_others else end
    return None


def _element(head: bytes) -> tuple[bytes, int, int | None]:
    """Read name, length of name and size, and size of an EBML element; no name if these make no sense.

    A size of all ones is None: the file was written to a stream, and the length was never known.
    """
    name_width = 9 - head[0].bit_length() if head else 9
    size_width = 9 - head[name_width].bit_length() if name_width < len(head) else 9
    if name_width > 4 or size_width > 8:
        return b"", 0, None
    head_length = name_width + size_width
    unknown = (1 << 7 * size_width) - 1
    size = int.from_bytes(head[name_width:head_length], "big") & unknown
    return head[:name_width], head_length, None if size == unknown else size


def _gif_fault(data: _Bytes) -> str | None:
    """Walk the blocks (GIF89a specification, sections 18 to 27); one that lacks only its trailer is whole."""
    length = data.length

    def byte(place: int) -> int:
        return (data.at(place, 1) or b"\0")[0]

    def table(place: int) -> int:
        flags = byte(place)
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    def after_sub_blocks(position: int) -> int:
        while position < length and (size := byte(position)):
            position += 1 + size
        return position + 1

    position = 13 + table(10)
    while position < length:
        match byte(position):
            case 0x21:  # extension
                position = after_sub_blocks(position + 2)
            case 0x2C:  # picture
                position = after_sub_blocks(position + 11 + table(position + 9))
            case 0x3B:  # trailer
                return None
            case 0x00:  # some writers end a block twice
                position += 1
            case _:
                return BROKEN
    return CUT_OFF if position > length else None


def _ogg_fault(data: _Bytes) -> str | None:
    """Walk the pages and their numbers (RFC 3533, section 6); FFmpeg looks for the next page where one is destroyed."""
    position = 0
    numbers: dict[bytes, int] = {}
    while position < data.length:
        head = data.at(position, 27)
        if head[:4] != b"OggS":
            return BROKEN if _found(data, b"OggS", position) else None
        serial, number = head[14:18], int.from_bytes(head[18:22], "little")
        if numbers.setdefault(serial, number) != number:
            return BROKEN
        numbers[serial] = (number + 1) & 0xFFFFFFFF
        segments = data.at(position + 27, head[26]) if len(head) == 27 else b""
        position += 27 + len(segments) + sum(segments)
        if position > data.length:
            return CUT_OFF
    return None


def _found(data: _Bytes, wanted: bytes, position: int) -> bool:
    while position < data.length:
        if wanted in data.at(position, _BLOCK):
            return True
        position += _BLOCK - len(wanted) + 1
    return False


def _png_fault(data: _Bytes) -> str | None:
    """Check the sum of every chunk (PNG specification, section 5.3); FFmpeg passes over those it does not know."""
    position = 8
    while position < data.length:
        head = data.at(position, 8)
        size = int.from_bytes(head[:4], "big")
        end = position + 8 + size
        if end + 4 > data.length:
            return CUT_OFF
        total = zlib.crc32(head[4:])
        for start in range(position + 8, end, _BLOCK):
            total = zlib.crc32(data.at(start, min(_BLOCK, end - start)), total)
        if total != int.from_bytes(data.at(end, 4), "big"):
            return WRONG_SUM
        if head[4:] == b"IEND":
            return None
        position = end + 4
    return CUT_OFF


# By their first bytes, or by the name of the first box.
_KNOWN: Mapping[tuple[bytes, ...], Callable[[_Bytes], str | None]] = {
    (b"RIFF",): _riff_fault,
    (b"\x1a\x45\xdf\xa3",): _matroska_fault,
    (b"GIF8",): _gif_fault,
    (b"OggS",): _ogg_fault,
    (b"\x89PNG",): _png_fault,
    (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"): _boxes_fault,
}
