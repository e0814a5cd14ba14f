"""Answers to a video that is still running, one sampled frame after the other.

The state is a value: it says all that the next answer needs of the past, and a step makes a new one of it.  So a stream
can be held, copied, or tried two ways from one moment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from actionfusion.inference.runtimes.sub_models import Array, Run
from actionfusion.models.model import VideoModel
from actionfusion.models.streaming import StreamShape
from actionfusion.streams import StreamName
from actionfusion.video.clip import ClipSettings, stacked_inputs
from actionfusion.video.reading import Frame
from actionfusion.video.samples import FrameCollector, Sample

FloatArray = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
Pictures = Mapping[StreamName, UInt8Array]
StreamMethod = Literal["exact state", "window again"]
Window = TypeVar("Window")


@dataclass(frozen=True)
class StreamPrediction:
    """The answer to the last samples of a stream: the model's answer to a clip of exactly these.

    Attributes:
        probabilities: ``[K]``, in the order of the labels.
        start: seconds from the start of the stream of the window's first sample.
        time: of its last one.
        samples: how many there are in the window, up to T.
        settled: seconds up to which the readings of the window are final.  A model that joins a sample with the next
            one reads the newest as the last of a clip, and this is then the time of the sample before it.
    """

    probabilities: FloatArray = field(repr=False)
    start: float
    time: float
    samples: int
    settled: float


@dataclass(frozen=True, eq=False)
class StreamState(Generic[Window]):
    """The past of a stream as far as it is needed: `Recognizer.start` makes one, `Recognizer.step` the next.

    Attributes:
        collector: frames that the flow of samples to come may need.
        window: the samples of the answer, as the stepper keeps them.
        known: flow that samples to come may need again, by its first frame.
        num_frames: how many frames there were so far.
    """

    collector: FrameCollector
    window: Window
    known: Mapping[int, UInt8Array] = field(default_factory=dict, repr=False)
    num_frames: int = 0


class Stepper(ABC, Generic[Window]):
    """Makes answers of samples.

    Args:
        clip: T, and what is cut for each sample.

    Attributes:
        method: how a window is answered: from a state that is kept, or by running all of it again.
    """

    method: ClassVar[StreamMethod]

    def __init__(self, clip: ClipSettings) -> None:
        self._clip = clip

    @abstractmethod
    def start(self) -> Window:
        """Make the window before the first sample."""

    @abstractmethod
    def windows(self, samples: Sequence[Sample], window: Window) -> list[Window]:
        """Make the window after each of one or more samples that follow ``window``; only the last can be continued.

        What a model computes of each sample is computed here, for all samples at once.
        """

    @abstractmethod
    def answers(self, windows: Sequence[Window]) -> list[StreamPrediction]:
        """Answer windows that `windows` gave."""

    def answer(self, samples: Sequence[Sample], window: Window) -> tuple[list[StreamPrediction], Window]:
        """Answer after each of the samples that follow ``window``, and give the window after the last."""
        windows = self.windows(samples, window)
        return self.answers(windows), windows[-1]

    def push(self, frame: Frame, state: StreamState[Window]) -> tuple[StreamPrediction | None, StreamState[Window]]:
        """Take the next frame of a stream, at ``clip.decoded_size``.

        Returns:
            An answer if the frame completes a sample and the flow around it, and the new state.
        """
        collector, group = state.collector.push(frame)
        num_frames = frame.index + 1
        if group is None:
            return None, replace(state, collector=collector, num_frames=num_frames)
        codes = group.codes(self._clip.flow, state.known)
        answers, window = self.answer([group.sample(codes, self._clip)], state.window)
        return answers[0], StreamState(collector, window, collector.reusable(codes), num_frames)

    def finish(self, state: StreamState[Window]) -> list[StreamPrediction]:
        """Answer the last samples, whose flow the end of the stream cuts short; it repeats the last field there is."""
        samples = [
            group.sample(group.codes(self._clip.flow, state.known), self._clip) for group in state.collector.finish()
        ]
        return self.answer(samples, state.window)[0] if samples else []


class SampleStep(Protocol):
    """Runs `SampleReader` on arrays, by any runtime."""

    def __call__(self, pictures: Pictures, opened: FloatArray, /) -> Sequence[FloatArray]:
        """Read any number of samples as `SampleReader.forward` does."""
        ...


@dataclass(frozen=True, eq=False)
class Readings:
    """The readings of the samples of a window.

    Attributes:
        times: of each sample, in seconds.
        opened: sums of the model that wait for the next sample; see `SampleReader.forward`.
        middle: for each branch ``[n, F]``, the readings of the samples but the newest, or of all of them where the
            model joins no neighbours.
        first: likewise, each read as the first of a window.
        last: for each branch ``[F]``, the newest sample's reading as the last of a window.
    """

    times: tuple[float, ...]
    opened: FloatArray = field(repr=False)
    middle: tuple[FloatArray, ...] = field(default=(), repr=False)
    first: tuple[FloatArray, ...] = field(default=(), repr=False)
    last: tuple[FloatArray, ...] = field(default=(), repr=False)


class ExactStepper(Stepper[Readings]):
    """Reads each sample once, and keeps what it adds to its windows.

    Args:
        model: for what follows the readings; its `stream_shape` is not None.
        shape: of the readings.
        clip: T, and what is cut for each sample.
        step: reads samples.
        device: where the model is.
    """

    method = "exact state"

    def __init__(
        self,
        model: VideoModel,
        shape: StreamShape,
        clip: ClipSettings,
        step: SampleStep,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(clip)
        self._model = model.eval()
        self._shape = shape
        self._device = device
        self._step = step

    def start(self) -> Readings:
        """Make the window before the first sample."""
        return Readings((), np.zeros(self._shape.opened, np.float32))

    def windows(self, samples: Sequence[Sample], window: Readings) -> list[Readings]:
        """Read the samples, all at once."""
        pictures = stacked_inputs(samples, self._clip.streams)
        return self.read(pictures, [sample.time for sample in samples], window)

    def read(self, pictures: Pictures, times: Sequence[float], window: Readings) -> list[Readings]:
        """Make the window after each of N samples that follow ``window``.

        Args:
            pictures: ``[N, C, H, W]`` by stream.
            times: of the samples.
            window: before them.
        """
        if self._clip.frames == 1 and (window.times or len(times) > 1):
            # A clip of one sample has seen nothing before it.
            alone = [{name: array[[index]] for name, array in pictures.items()} for index in range(len(times))]
            return [self.read(one, [time], self.start())[0] for one, time in zip(alone, times, strict=True)]
        opened, *readings = self._step(pictures, window.opened)
        windows = []
        for index, time in enumerate(times):
            window = self._append(window, [reading[index] for reading in readings], time)
            windows.append(window)
        windows[-1] = replace(windows[-1], opened=opened)
        return windows

    def _append(self, window: Readings, rows: Sequence[FloatArray], time: float) -> Readings:
        """Make the window with one more sample, and without those that are more than T back."""
        times = (*window.times, time)[-self._clip.frames :]
        last = tuple(row[-1] for row in rows)
        # With a look ahead, the readings of the first sample come with the second.
        if self._shape.looks_ahead and not window.times:
            empty = tuple(row[:0] for row in rows)
            return Readings(times, window.opened, empty, empty, last)
        kept = len(times) - int(self._shape.looks_ahead)
        middle = _append_rows(window.middle, [row[:1] for row in rows], kept)
        first = _append_rows(window.first, [row[1:2] for row in rows], kept) if self._shape.looks_ahead else middle
        return Readings(times, window.opened, middle, first, last)

    def answers(self, windows: Sequence[Readings]) -> list[StreamPrediction]:
        """Answer windows; one run for all of a length.

        For a small network the LSTMs' many small steps would otherwise cost as much as the backbones.
        """
        answers = []
        for _, group in groupby(windows, lambda window: len(window.times)):
            alike = list(group)
            sequences = [self._sequences(window) for window in alike]
            joined = {
                name: torch.from_numpy(np.stack(each)).to(self._device)
                for name, each in zip(self._shape.branches, zip(*sequences, strict=True), strict=True)
            }
            with torch.inference_mode():
                probabilities = self._model.answer_window(joined).cpu().numpy()
            for window, row in zip(alike, probabilities, strict=True):
                settled = window.times[-2:][0] if self._shape.looks_ahead else window.times[-1]
                answers.append(StreamPrediction(row, window.times[0], window.times[-1], len(window.times), settled))
        return answers

    def _sequences(self, window: Readings) -> Sequence[FloatArray]:
        """Collect for each branch the readings ``[n, F]`` of a window from its first sample to its last."""
        if not self._shape.looks_ahead:
            return window.middle
        return [
            np.concatenate((first[:1], middle[1:], newest[None]))
            for first, middle, newest in zip(window.first, window.middle, window.last, strict=True)
        ]


def _append_rows(before: Sequence[FloatArray], rows: Sequence[FloatArray], kept: int) -> tuple[FloatArray, ...]:
    """Append one row to each branch's rows, and keep the last ``kept``."""
    if not before:
        return tuple(rows)
    return tuple(np.concatenate(pair)[-kept:] for pair in zip(before, rows, strict=True))


class WindowStepper(Stepper[tuple[Sample, ...]]):
    """Keeps the last T samples and runs the whole model on each window; one of fewer samples repeats its last.

    Args:
        clip: T, and what is cut for each sample.
        run: runs the model on a clip.
    """

    method = "window again"

    def __init__(self, clip: ClipSettings, run: Run) -> None:
        super().__init__(clip)
        self._run = run

    def start(self) -> tuple[Sample, ...]:
        """Make the window before the first sample."""
        return ()

    def windows(self, samples: Sequence[Sample], window: tuple[Sample, ...]) -> list[tuple[Sample, ...]]:
        """Collect the samples of each window; all work waits until a window is answered."""
        held = (*window, *samples)
        ends = range(len(window) + 1, len(held) + 1)
        return [held[max(0, end - self._clip.frames) : end] for end in ends]

    def answers(self, windows: Sequence[tuple[Sample, ...]]) -> list[StreamPrediction]:
        """Run the model on each window, one after the other: a clip takes much memory."""
        answers = []
        for window in windows:
            filled = (*window, *window[-1:] * (self._clip.frames - len(window)))
            pictures = stacked_inputs(filled, self._clip.streams)
            clip: dict[str, Array] = {name: arrays[None] for name, arrays in pictures.items()}
            probabilities = np.asarray(self._run(clip)["probabilities"][0], np.float32)
            first, last = window[0].time, window[-1].time
            answers.append(StreamPrediction(probabilities, first, last, len(window), last))
        return answers
