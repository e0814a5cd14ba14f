"""Check that a container is whole: demuxers skip a missing end or a destroyed block header silently.

Knows AVI, MP4, Matroska and GIF.  The other containers are made to be cut anywhere and announce no length.
"""

from __future__ import annotations

from mmap import ACCESS_READ, mmap
from typing import BinaryIO

CUT_OFF = "the file is cut off"
BROKEN = "its blocks do not fit together"

_SEGMENT = b"\x18\x53\x80\x67"
_CLUSTER = b"\x1f\x43\xb6\x75"


def structure_fault(file: BinaryIO) -> str | None:
    """Describe the fault in the structure of an open container as a clause, or return None.

    A cut that took nothing but an index at the end of an AVI or MP4 file is no fault.
    """
    length = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if head.startswith(b"RIFF"):
        return _riff_fault(file, length)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _matroska_fault(file, length)
    if head.startswith(b"GIF8"):
        return _gif_fault(file)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _boxes_fault(file, length)
    return None


def _riff_fault(file: BinaryIO, length: int) -> str | None:
    """Find a list of pictures that reaches over the end; data after the RIFF chunk does not matter."""
    position = end = 0
    while position + 12 <= length:
        file.seek(position)
        head = file.read(12)
        size = int.from_bytes(head[4:8], "little")
        if position >= end:
            if head[:4] != b"RIFF":
                return None
            end = position + 8 + size if size not in (0, 0xFFFFFFFF) else length
            position += 12
        elif not head[:4].strip(b"\0"):
            return None  # an end filled up with zeros
        elif head[:4] == b"LIST" and head[8:] == b"movi" and position + 8 + size > length:
            return CUT_OFF if size != 0xFFFFFFFF else None  # written to a stream, the length was never known
        else:
            position += 8 + size + size % 2
    return None


def _boxes_fault(file: BinaryIO, length: int) -> str | None:
    """Find pictures, or the header of a fragment, that reach over the end (ISO/IEC 14496-12, section 4.2)."""
    position = 0
    while position + 8 <= length:
        file.seek(position)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8:
            return None
        position += size
        if position > length and head[4:8] in (b"mdat", b"moof"):
            return CUT_OFF
    return None


def _matroska_fault(file: BinaryIO, length: int) -> str | None:
    """Walk the elements of the segment and of its clusters (RFC 8794, section 4; RFC 9559)."""
    position = 0
    segment_end = cluster_end = length
    overrun = CUT_OFF  # until the segment has said its length and the file is long enough
    while position < segment_end:
        if position >= cluster_end:
            cluster_end = segment_end
        file.seek(position)
        name, head_length, size = _element(file.read(16))
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


def _gif_fault(file: BinaryIO) -> str | None:
    """Walk the blocks (GIF89a specification, sections 18 to 27); one that lacks only its trailer is whole."""
    with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        length = len(data)

        def table(place: int) -> int:
            flags = data[place] if place < length else 0
            return 3 << (flags & 7) + 1 if flags & 0x80 else 0

        def after_sub_blocks(position: int) -> int:
            while position < length and data[position]:
                position += 1 + data[position]
            return position + 1

        position = 13 + table(10)
        while position < length:
            match data[position]:
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
