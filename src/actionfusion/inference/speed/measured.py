"""The times of a run's parts on a video: decoding, flow, the network, a step of a stream, and the whole path."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import fspath
from pathlib import Path
from typing import Any, TypeVar

import av
import cv2
import numpy as np

from actionfusion.inference.recognizer import Recognizer
from actionfusion.video.clip import Clip, ClipSettings, UInt8Array, cut_clip
from actionfusion.video.rates import FrameRates
from actionfusion.video.reading import Frame
from actionfusion.video.samples import Sample
from actionfusion.video.video_source import VideoSource
from actionfusion.video.whole_files import forget

Name = TypeVar("Name")

GENERATED = {"seconds": 10, "rate": 25, "width": 320, "height": 240}


@dataclass(frozen=True)
class Times:
    """Seconds of each repetition.

    Attributes:
        whole: from the file to the answer, of a file that was never read before.
        network: from a cut clip to the probabilities.
        step: of a sample of a stream, its flow not included; the mean over a window's samples.
    """

    whole: list[float]
    network: list[float]
    step: list[float]


def in_rounds(
    calls: Mapping[Name, Callable[[], object]], repetitions: int, most_seconds: float
) -> dict[Name, list[float]]:
    """Time calls in turn, so that what else the machine does meets all of them alike.

    Args:
        calls: by name.
        repetitions: rounds at most; one more goes before and is not counted.
        most_seconds: for each call, after which no further round is begun; there are two at least.

    Returns:
        Seconds of each round.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    began = 0.0
    for number in range(repetitions + 1):
        if number == 1:
            began = time.perf_counter()
        if number > 2 and time.perf_counter() - began > most_seconds * len(calls):
            break
        for name, call in calls.items():
            before = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - before)
    return seconds


def measure_times(
    recognizers: Mapping[Name, Recognizer], video: Path, clip: Clip, repetitions: int, most_seconds: float
) -> dict[Name, Times]:
    """Time recognisers of one run on a video, in turn.

    Args:
        recognizers: by name.
        video: the file.
        clip: cut of it.
        repetitions: as ``in_rounds``.
        most_seconds: as ``in_rounds``.
    """

    def timed(make: Callable[[Recognizer], Callable[[], object]]) -> dict[Name, list[float]]:
        return in_rounds({name: make(each) for name, each in recognizers.items()}, repetitions, most_seconds)

    streams = next(iter(recognizers.values())).clip_settings.streams
    batch = {name: array[None] for name, array in clip.inputs(streams).items()}
    network = timed(lambda each: partial(each.scores, batch))
    whole = timed(lambda each: partial(_as_new, each.predict, video))
    step = timed(lambda each: partial(_stream_window, each, clip, [each.stepper.start()]))
    return {name: Times(whole[name], network[name], [s / len(clip.rgb) for s in step[name]]) for name in recognizers}


def step_seconds(recognizer: Recognizer, clip: Clip, repetitions: int) -> list[float]:
    """Time steps of a stream, flow not included: as many as a window holds, each repetition their mean."""
    window = partial(_stream_window, recognizer, clip, [recognizer.stepper.start()])
    return [seconds / len(clip.rgb) for seconds in in_rounds({"": window}, repetitions, float("inf"))[""]]


def _stream_window(recognizer: Recognizer, clip: Clip, state: list[Any]) -> None:
    """Take the samples of a clip one by one into a stream, whose state is the one item of ``state``."""
    flow: Any = clip.flow if clip.flow is not None else [None] * len(clip.rgb)
    for position, at, rgb, codes in zip(clip.positions, clip.times, clip.rgb, flow, strict=True):
        sample = Sample(int(position), float(at), rgb, codes)
        _, state[0] = recognizer.stepper.answer([sample], state[0])


class _StepByStep(VideoSource):
    """A video whose pictures are decoded first, and whose flow is computed then, each timed."""

    decoding = flow = 0.0

    def _collect(self, video: Any, frames: Any, fields: Any, needed: Sequence[int]) -> Any:
        kept: list[Frame] = []
        started, end = time.perf_counter(), None
        while not self._is_verified or len(kept) < len(needed):
            try:
                kept.append(next(video))
            except StopIteration as stop:
                end = stop.value
                break
        video.close()
        decoded = time.perf_counter()

        def again() -> Generator[Frame, None, int | None]:
            yield from kept
            return end

        made = super()._collect(again(), frames, fields, needed)  # type: ignore[arg-type]
        self.decoding, self.flow = decoded - started, time.perf_counter() - decoded
        return made


def parts_of_cutting(
    video: Path, clip: ClipSettings, rates: FrameRates | None, repetitions: int, most_seconds: float
) -> dict[str, list[float]]:
    """Time decoding and flow one after the other, and cutting the clip as ``predict`` does, which does both at once.

    Of a folder of pictures nothing is timed apart.
    """
    if video.is_dir():
        return {}
    apart: list[_StepByStep] = []

    def cut(make: type[VideoSource], path: Path) -> None:
        source = make(path, clip.flow, frame_size=clip.frame_size, seek=True, rates=rates)
        cut_clip(source, clip)
        if isinstance(source, _StepByStep):
            apart.append(source)

    calls = {name: partial(_as_new, partial(cut, name), video) for name in (_StepByStep, VideoSource)}
    together = in_rounds(calls, repetitions, most_seconds)[VideoSource]
    found = {"decode": [source.decoding for source in apart[1:]]}
    if clip.reads_flow:
        found["flow"] = [source.flow for source in apart[1:]]
    return found | {"clip": together}


def _as_new(call: Callable[[Path], object], video: Path) -> None:
    """Call with a file that this process does not know yet."""
    forget(fspath(video))
    call(video)


def write_generated(path: Path) -> Path:
    """Write a clip of smooth noise that drifts, as H.264 in MP4; its sizes are in ``GENERATED``."""
    width, height = GENERATED["width"], GENERATED["height"]
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    picture = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=GENERATED["rate"])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(GENERATED["seconds"] * GENERATED["rate"]):
            moved: UInt8Array = np.roll(picture, (number, 2 * number), axis=(0, 1))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        out.mux(stream.encode(None))
    return path
