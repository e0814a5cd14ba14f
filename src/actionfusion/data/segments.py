"""Segments of videos: the stretches that a table names, in seconds or in frames.

A segment is named like a media fragment (W3C, Media Fragments URI 1.0): ``film.mp4#t=1.5,3`` is what ``film.mp4`` shows
from second 1.5 to before second 3, ``film.mp4#frames=40,80`` its frames 40 to 79, counted from 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Literal

import numpy as np
import numpy.typing as npt

from actionfusion.errors import NoFrames, VideoError

COLUMNS = ("start", "end", "start_frame", "end_frame")
_FRAGMENT = re.compile(r"(?P<path>.+)#(?P<unit>t|frames)=(?P<start>\d+(\.\d+)?),(?P<end>(\d+(\.\d+)?)?)", re.DOTALL)
# Ends are often rounded up; further beyond the video's end a segment is of another video.
_BEYOND = 1.0
_ROUNDING = 1e-6
_CORRECT = "correct its start and end in the table"


@dataclass(frozen=True)
class Segment:
    """A stretch of a video.

    Attributes:
        start: seconds from the video's first frame, or the number of a frame from 0.
        end: likewise, not part of it; None is the video's end.
        unit: ``t`` for seconds, ``frames`` for numbers of frames.
    """

    start: float = 0.0
    end: float | None = None
    unit: Literal["t", "frames"] = "t"

    def __str__(self) -> str:
        return f"{self.unit}={_plain(self.start)},{'' if self.end is None else _plain(self.end)}"

    def bounds(self, times: npt.NDArray[np.float64], video: PathLike[str]) -> tuple[int, int]:
        """Find its first frame, and the one after its last.

        Args:
            times: seconds of all frames of the video ``[N]``, from the first one on.
            video: for the error.

        Raises:
            VideoError: it has no frame, or ends after the video does.
        """
        length = f"the video has {len(times)} frames in {times[-1]:.2f} s"
        if self.unit == "frames":
            first, last = int(self.start), len(times) if self.end is None else int(self.end)
            ends_beyond = last > len(times)
        else:
            first, last = int(np.searchsorted(times, self.start - _ROUNDING)), len(times)
            if self.end is not None:
                last = int(np.searchsorted(times, self.end - _ROUNDING))
            ends_beyond = self.end is not None and self.end > times[-1] + _BEYOND
        if first >= min(last, len(times)):
            raise NoFrames(video, f"not one frame in its segment {self}: {length}", _CORRECT)
        if ends_beyond:
            raise VideoError(video, f"its segment {self} ends after it: {length}", _CORRECT)
        return first, last


def _plain(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".")


def named_segment(written: str) -> tuple[str, Segment | None]:
    """Take a name like ``film.mp4#t=1.5,3`` apart; no segment where it is none."""
    found = _FRAGMENT.fullmatch(written)
    if found is None or (found["unit"] == "frames" and "." in found["start"] + found["end"]):
        return written, None
    end = float(found["end"]) if found["end"] else None
    segment = Segment(float(found["start"]), end, "t" if found["unit"] == "t" else "frames")
    return (found["path"], segment) if end is None or end > segment.start else (written, None)


class WrongSegment(ValueError):
    """A cell that is no start or end: its column, and the reason."""


def segment_of(cells: Mapping[str, str]) -> Segment | None:
    """Read the segment of a row of a table; None where all its cells are empty.

    Raises:
        WrongSegment: a cell that is no time or frame, or cells that contradict each other.
    """
    written = {name: text for name in COLUMNS if (text := cells.get(name, "").strip())}
    if not written:
        return None
    in_frames = [name for name in written if name.endswith("_frame")]
    if in_frames and len(in_frames) < len(written):
        raise WrongSegment(in_frames[0], f"{written[in_frames[0]]!r}, and seconds are given too")
    numbers = {name: _number(name, text) for name, text in written.items()}
    start_name, end_name = COLUMNS[2:] if in_frames else COLUMNS[:2]
    segment = Segment(numbers.get(start_name, 0.0), numbers.get(end_name), "frames" if in_frames else "t")
    if segment.end is not None and segment.end <= segment.start:
        raise WrongSegment(end_name, f"{written[end_name]!r} is not after the start, {_plain(segment.start)}")
    return segment


def _number(column: str, text: str) -> float:
    kind = "number of a frame from 0" if column.endswith("_frame") else "time in seconds from 0"
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9 or not math.isfinite(number) or (column.endswith("_frame") and number != int(number)):
        raise WrongSegment(column, f"{text!r} is no {kind}")
    return round(number, 6)
