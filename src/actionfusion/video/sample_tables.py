"""Check that the sample tables of an MP4 or QuickTime file agree with each other and with the file.

FFmpeg reads what it can by them and leaves the rest out without a word: one wrong offset can cost all frames behind it.
The boxes are those of ISO/IEC 14496-12, section 8.6 and 8.7.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

DISAGREE = "its tables of frames do not fit together"
LARGEST_MOVIE = 64 << 20
"""Bytes of the ``moov`` box up to which it is looked into; an hour of film with sound takes about 3 MB."""

Array = npt.NDArray[np.int64]


def tables_fault(movie: bytes, length: int) -> str | None:
    """Describe a fault in the tables as a clause, or return None; what the tables leave open is no fault.

    Args:
        movie: content of the ``moov`` box, without its own header.
        length: bytes of the file.
    """
    starts, ends = [], []
    for track in _all(movie, b"trak"):
        media = _first(track, b"mdia")
        samples = _first(_first(media, b"minf"), b"stbl")
        try:
            chunks = _chunks(samples)
        except (ValueError, IndexError):
            return DISAGREE
        if chunks is None:
            continue
        starts.append(chunks[0])
        ends.append(chunks[1])
    if not starts:
        return None
    first, behind = np.concatenate(starts), np.concatenate(ends)
    order = np.argsort(first, kind="stable")
    overlap = np.any(first[order][1:] < behind[order][:-1])
    return DISAGREE if overlap or np.any(behind > length) or np.any(first < 0) else None


def _chunks(samples: bytes) -> tuple[Array, Array] | None:
    """Give where each chunk of a track begins and ends, or None where the tables do not say it, as in fragments.

    Raises:
        ValueError, IndexError: the tables contradict each other.
    """
    sizes = _sizes(_first(samples, b"stsz"))
    offsets = _offsets(samples)
    if sizes is None or offsets is None or not len(sizes):
        return None
    durations = _table(_first(samples, b"stts"), 2)
    if durations[:, 0].sum() != len(sizes):
        raise ValueError("durations")
    shifts = _first(samples, b"ctts")
    if shifts and _table(shifts, 2)[:, 0].sum() != len(sizes):
        raise ValueError("shifts")
    runs = _table(_first(samples, b"stsc"), 3)
    if runs[0, 0] != 1 or np.any(np.diff(runs[:, 0]) <= 0) or runs[-1, 0] > len(offsets):
        raise ValueError("runs")
    descriptions = int.from_bytes(_first(samples, b"stsd")[4:8], "big")
    if np.any(runs[:, 2] < 1) or np.any(runs[:, 2] > descriptions):
        raise ValueError("descriptions")
    repeats = np.diff(runs[:, 0], append=len(offsets) + 1)
    counts = np.repeat(runs[:, 1], repeats)
    if counts.sum() != len(sizes):
        raise ValueError("samples in chunks")
    behind = np.concatenate(([0], np.cumsum(sizes)))[np.cumsum(counts)]
    return offsets, offsets + np.diff(behind, prepend=0)


def _sizes(box: bytes) -> Array | None:
    if len(box) < 12:
        return None
    same, count = int.from_bytes(box[4:8], "big"), int.from_bytes(box[8:12], "big")
    if same:  # as of sound, where a table would say nothing
        return np.full(count, same, np.int64) if count < LARGEST_MOVIE else None
    return np.frombuffer(box, ">u4", count, 12).astype(np.int64)


def _offsets(samples: bytes) -> Array | None:
    for name, kind in ((b"stco", ">u4"), (b"co64", ">i8")):
        if box := _first(samples, name):
            return np.frombuffer(box, kind, int.from_bytes(box[4:8], "big"), 8).astype(np.int64)
    return None


def _table(box: bytes, columns: int) -> Array:
    count = int.from_bytes(box[4:8], "big")
    return np.frombuffer(box, ">u4", count * columns, 8).reshape(count, columns).astype(np.int64)


def _first(boxes: bytes, wanted: bytes) -> bytes:
    return next(_all(boxes, wanted), b"")


def _all(boxes: bytes, wanted: bytes) -> Iterator[bytes]:
    place = 0
    while place + 8 <= len(boxes):
        size = int.from_bytes(boxes[place : place + 4], "big")
        if size < 8:
            return
        if boxes[place + 4 : place + 8] == wanted:
            yield boxes[place + 8 : place + size]
        place += size
