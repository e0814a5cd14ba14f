"""A video that is not cut to one action, read once: its overlapping windows share frames, flow and features.

A frame is held while a later sample needs it, a sample until its batch is full.  Only a time and K probabilities for
each sample and window grow with the video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from actionfusion.errors import SettingsError, VideoError
from actionfusion.inference.given_videos import pace_of
from actionfusion.inference.recognizer import Prediction, Recognizer, no_classes
from actionfusion.inference.stepping import Stepper, StreamMethod
from actionfusion.inference.timelines.timeline import (
    Span,
    TimelineRules,
    Window,
    find_spans,
    moment_edges,
    moment_probabilities,
)
from actionfusion.inference.timelines.video_samples import VideoSamples
from actionfusion.inference.video_results import error_as_json
from actionfusion.video.clip import ClipSettings
from actionfusion.video.rates import WHOLE, Pace
from actionfusion.video.samples import Sample

BATCH = 16
"""Samples that go through the backbones at once: fastest of 1 to 32 on a CPU, no more than the paper's clip of 17."""


@dataclass(frozen=True)
class Segment:
    """A part of a video in which one action is seen, or none.

    Attributes:
        start: seconds from the start of the video.
        end: likewise; the next segment starts there.
        label: the action; None where no class reached the threshold.
        probability: of the action, 0 to 1, the mean over the segment; None where there is no label.
        predictions: the most probable classes of the segment, best first; where it took in a shorter one, or has no
            label, the first of them need not be its label.
    """

    start: float
    end: float
    label: str | None
    probability: float | None
    predictions: tuple[Prediction, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Make the entry of ``predict --segments --json``; times to a millisecond."""
        return asdict(self) | {"start": round(self.start, 3), "end": round(self.end, 3)}


@dataclass(frozen=True)
class VideoTimeline:
    """What happens when in one video.

    Attributes:
        video: the path as it was given.
        segments: in order, without gap or overlap, from 0 to the end, or to a fault of the video.
        error: why the video could not be read, or not to its end; else None.
        method: how its windows were answered; None where that is not known.
        note: what its frame rate means for the answer; None where it is near that of the run's training videos.
    """

    video: str
    segments: tuple[Segment, ...] = ()
    error: VideoError | None = None
    method: StreamMethod | None = None
    note: str | None = None

    def as_json(self) -> dict[str, object]:
        """Make the entry of ``predict --segments --json``."""
        segments = [item.as_json() for item in self.segments]
        return {"video": self.video, "method": self.method, "segments": segments, "error": error_as_json(self.error)}


@dataclass(frozen=True)
class WindowSettings:
    """How windows are spread over a video.

    Args:
        every: frames from one sample to the next, at the rate of the run's training videos where that is known.
        stride: samples from one window to the next; the last window ends with the last sample in any case.

    Raises:
        SettingsError: a number under 1.
    """

    every: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise SettingsError("every", f"a sample every {self.every} frames makes no sense", "take 1 or more")
        if self.stride < 1:
            raise SettingsError("stride", f"an answer every {self.stride} samples makes no sense", "take 1 or more")


@dataclass(frozen=True, eq=False)
class SeenVideo:
    """A video's samples and the answers to its windows.

    Attributes:
        times: of each sample, in seconds.
        windows: of T samples each; none in a video of fewer.
        end: seconds to the end of the last frame that was decoded.
        error: what ended the reading before the video did, or None.
    """

    times: tuple[float, ...]
    windows: tuple[Window, ...]
    end: float
    error: VideoError | None


def find_segments(
    recognizer: Recognizer,
    video: str | Path,
    windows: WindowSettings,
    rules: TimelineRules | None = None,
    *,
    top_k: int = 5,
    watch: Callable[[int], object] | None = None,
) -> VideoTimeline:
    """Find what happens when in a video.

    The network was trained on clips that each show one action from its beginning to its end: it has no class for
    "nothing", so it names one of its actions at any moment, and less surely where there is none.

    A video of fewer samples than a window is one segment, with ``Recognizer.predict``'s answer to the whole.  Of a
    video that cannot be read to its end there are the segments up to the fault, if that is a window or more, beside
    the error.

    Args:
        recognizer: the trained run.
        video: a video file.
        windows: how windows are spread over it.
        rules: how their answers become segments.
        top_k: classes given for each segment.
        watch: called with the number of frames decoded so far, now and then.

    Raises:
        SettingsError: windows further apart than they are long; ``top_k`` under 1.
    """
    check_windows(recognizer.clip_settings, windows, top_k)
    method = recognizer.stepper.method
    try:
        pace = pace_of(video, recognizer.rates)
    except VideoError as fault:
        return VideoTimeline(str(video), error=fault, method=method)
    seen = see_video(video, recognizer.stepper, recognizer.clip_settings, windows, watch=watch, pace=pace)
    whole = None
    if not seen.windows:
        if seen.error is not None:
            return VideoTimeline(str(video), error=seen.error, method=method)
        try:
            whole = recognizer.probabilities([recognizer.clip(video)])[0]
        except VideoError as changed:  # the file is no longer the one that was just read
            return VideoTimeline(str(video), error=changed, method=method)
    segments = segments_of(recognizer, seen, rules or TimelineRules(), top_k, whole)
    return VideoTimeline(str(video), segments, seen.error, method, pace.note)


def check_windows(clip: ClipSettings, windows: WindowSettings, top_k: int) -> None:
    """Refuse windows that leave gaps, and an answer without classes, before anything is read.

    Raises:
        SettingsError: as `find_segments`.
    """
    if top_k < 1:
        raise no_classes(top_k)
    if windows.stride > clip.frames:
        reason = f"windows of {clip.frames} samples that start every {windows.stride} leave gaps"
        raise SettingsError("stride", reason, f"take 1 to {clip.frames}")


def segments_of(
    recognizer: Recognizer,
    seen: SeenVideo,
    rules: TimelineRules,
    top_k: int,
    whole: npt.NDArray[np.float32] | None = None,
) -> tuple[Segment, ...]:
    """Join what was seen into segments.

    Args:
        recognizer: for the labels.
        seen: the answers to the windows.
        rules: how they become segments.
        top_k: classes given for each segment.
        whole: of a video of fewer samples than a window, the probabilities ``[K]`` of the whole.
    """
    if whole is None:
        edges, probabilities = moment_edges(seen.times, seen.end), moment_probabilities(seen.windows, len(seen.times))
    else:
        edges, probabilities = np.array([0.0, seen.end]), whole[None].astype(np.float64)
    return tuple(_segment(span, recognizer, top_k) for span in find_spans(edges, probabilities, rules))


def see_video(
    video: str | Path,
    stepper: Stepper[Any],
    clip: ClipSettings,
    settings: WindowSettings,
    *,
    watch: Callable[[int], object] | None = None,
    pace: Pace = WHOLE,
) -> SeenVideo:
    """Answer every window of T samples of a video.

    Args:
        video: a video file.
        stepper: makes the answers.
        clip: T, L and the flow recipe.
        settings: how the windows are spread.
        watch: called with the number of frames decoded so far, for each.
        pace: how the video's frames are taken.
    """
    reading = VideoSamples(video, clip, pace.interval(settings.every), watch, pace)
    samples, answers = iter(reading), WindowAnswers(stepper, clip.frames, settings)
    while batch := list(islice(samples, BATCH)):
        answers.add(batch)
    return answers.seen(reading.end, reading.error)


class WindowAnswers:
    """Answers the windows of samples that come in batches.

    Args:
        stepper: makes the answers.
        frames: T.
        settings: how the windows are spread.
    """

    def __init__(self, stepper: Stepper[Any], frames: int, settings: WindowSettings) -> None:
        self._stepper, self._frames, self._stride = stepper, frames, settings.stride
        self._newest = stepper.start()
        self._times: list[float] = []
        self._windows: list[Window] = []

    def add(self, batch: Sequence[Sample]) -> None:
        """Take the next samples, one or more, and answer the windows that they complete."""
        made = self._stepper.windows(batch, self._newest)
        before = len(self._times) + 1 - self._frames
        firsts = range(before, before + len(batch))
        wanted = {at: each for at, each in zip(firsts, made, strict=True) if at >= 0 and at % self._stride == 0}
        self._answer(wanted)
        self._times += [sample.time for sample in batch]
        self._newest = made[-1]

    def seen(self, end: float, error: VideoError | None) -> SeenVideo:
        """Answer the last window too, where the stride leaves it out, and give all.

        Args:
            end: seconds to the end of the last frame that was decoded.
            error: what ended the reading before the video did, or None.
        """
        last = len(self._times) - self._frames
        if last >= 0 and last % self._stride:
            self._answer({last: self._newest})
        return SeenVideo(tuple(self._times), tuple(self._windows), end, error)

    def _answer(self, wanted: Mapping[int, Any]) -> None:
        for first, found in zip(wanted, self._stepper.answers(list(wanted.values())), strict=True):
            self._windows.append(Window(first, first + self._frames - 1, found.probabilities))


def _segment(span: Span, recognizer: Recognizer, top_k: int) -> Segment:
    probabilities = span.probabilities.astype(np.float32)
    best = tuple(recognizer.best(probabilities, top_k))
    if span.label is None:
        return Segment(span.start, span.end, None, None, best)
    return Segment(span.start, span.end, recognizer.labels[span.label], float(probabilities[span.label]), best)
