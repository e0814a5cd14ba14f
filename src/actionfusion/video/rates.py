"""Frame rates: a run has learned motion from frame to frame, so videos are read at about the rate of its training.

A video at a far higher rate is thinned to the run's.  One at a far lower rate cannot be, and is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, isfinite

import numpy as np
import numpy.typing as npt

from actionfusion.errors import SettingsError
from actionfusion.video.containers import LocalPath, open_video
from actionfusion.video.reading import probe

FAR = 1.5
"""Times by which a rate may differ from those of the training videos: 25 and 30 are near, 50 is far from both."""

# Frames a second that cameras have; a file that states others may be wrong, and its packets are asked.
_USUAL = (10.0, 61.0)


@dataclass(frozen=True)
class Pace:
    """How the frames of a video are taken.

    Args:
        step: frames of the video from one frame that is taken to the next, 1 or more.
        scale: frames of a slow video for each frame at the run's rate, under 1.
        rate: of the video, in frames a second; None where it is not known.
        note: what to tell the user of it; None where the rate is near that of the training.
    """

    step: float = 1.0
    scale: float = 1.0
    rate: float | None = None
    note: str | None = None

    def source(self, index: int) -> int:
        """Give the frame of the video that is taken as frame ``index``."""
        return floor(index * self.step + 0.5)

    def index(self, source: int) -> int | None:
        """Give the number of the frame that the video's frame ``source`` is taken as; None where it is left out."""
        before = int(source / self.step)
        return next((index for index in (before, before + 1) if self.source(index) == source), None)

    def interval(self, every: int) -> int:
        """Give the frames from one sample to the next for those at the run's rate, 1 or more."""
        return max(round(every * self.scale), 1)

    def count(self, num_frames: int) -> int:
        """Count the frames that are taken of ``num_frames``."""
        last = int((num_frames - 1) / self.step) + 1
        return last + (self.source(last) < num_frames)


WHOLE = Pace()
"""Every frame is taken."""


class Thinning:
    """Chooses the pictures of a running video by their times.

    Args:
        pace: of the video; its rate is known.
    """

    def __init__(self, pace: Pace) -> None:
        assert pace.rate is not None
        self._interval, self._slack, self._due = pace.step / pace.rate, 0.5 / pace.rate, 0.0

    def takes(self, time: float) -> bool:
        """Tell whether the picture of that time, in seconds from the first one, is taken."""
        if time + self._slack < self._due:
            return False
        due = self._due + self._interval
        self._due = due if due > time - self._slack else time + self._interval
        return True


@dataclass(frozen=True)
class FrameRates:
    """The frame rates of the videos that a run was trained on.

    Args:
        low: frames a second that one video in twenty is below.
        median: of the videos.
        high: frames a second that one video in twenty is above.
        videos: whose rate is known.

    Raises:
        SettingsError: rates that are none, or not in this order.
    """

    low: float
    median: float
    high: float
    videos: int

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.median <= self.high or not isfinite(self.high):
            raise SettingsError("rates", f"{self.low} to {self.median} to {self.high}", "train the run again")

    def pace(self, rate: float | None) -> Pace:
        """Choose how frames of a video of this rate are taken."""
        learned = f"the run has learned from videos at {self.median:.4g}"
        if rate is None or (self.low <= rate * FAR and rate <= self.high * FAR):
            return Pace(rate=rate)
        if rate > self.high:
            note = f"{rate:.4g} frames a second, read at {self.median:.4g}: {learned}"
            return Pace(step=rate / self.median, rate=rate, note=note)
        note = f"{rate:.4g} frames a second are few, so that more happens from one to the next: {learned}"
        return Pace(scale=rate / self.median, rate=rate, note=note)


def summarize_rates(rates: Iterable[float | None]) -> FrameRates | None:
    """Summarise the rates of training videos; None where not one is known."""
    known = sorted(rate for rate in rates if rate is not None)
    if not known:
        return None
    last = len(known) - 1
    low, median, high = (round(known[round(share * last)], 3) for share in (0.05, 0.5, 0.95))
    return FrameRates(low, median, high, len(known))


def frame_rate(path: LocalPath) -> float | None:
    """Read the mean frame rate of a video file, in frames a second; None where it does not say.

    Raises:
        VideoError: it cannot be opened.
    """
    with open_video(path) as (_, stream):
        stated = stream.average_rate or stream.guessed_rate
    if stated and _USUAL[0] <= stated <= _USUAL[1]:
        return float(stated)
    info = probe(path)
    if info.frame_count > 1 and info.duration:
        return info.frame_count / info.duration
    return float(stated) if stated else None


def stored_rate(times: npt.NDArray[np.float64]) -> float | None:
    """Compute the mean frame rate of the times of a video's frames, in seconds; None of a single frame."""
    span = float(times[-1] - times[0])
    return (len(times) - 1) / span if span > 0 else None


def mixed_rates(rates: Iterable[float | None]) -> str | None:
    """Say how rates differ where some are far from others; None where none are."""
    counts = Counter(round(rate, 2) for rate in rates if rate is not None)
    if not counts or max(counts) <= FAR * min(counts):
        return None
    most = ", ".join(f"{rate:g} ({count} videos)" for rate, count in counts.most_common(5))
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    return f"frame rates differ, frames a second: {most}{more}; a clip counts frames, so the same motion looks unlike"
