"""Answers to a video that is still running, one sampled frame after the other.

The state is a value: it says all that the next answer needs of the past, and a step makes a new one of it.  So a stream
can be held, copied, or tried two ways from one moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from actionfusion.models.fusion_network import FusionNetwork
from actionfusion.models.fusion_streaming import stream_shape
from actionfusion.video.clip import ClipSettings
from actionfusion.video.reading import Frame
from actionfusion.video.samples import FrameCollector, Sample

FloatArray = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]


class SampleStep(Protocol):
    """Runs `SampleReader` on arrays, by whatever runtime."""

    def __call__(self, rgb: UInt8Array, flow: UInt8Array, opened: FloatArray, /) -> Sequence[FloatArray]:
        """As `SampleReader.forward`, for any number of samples."""
        ...


@dataclass(frozen=True)
class Answer:
    """What is said of the last samples of a stream: what the network says of a clip of just these.

    Attributes:
        probabilities: ``[K]``, in the order of the labels.
        start: seconds from the start of the stream of the window's first sample.
        time: of its last one.
        samples: how many there are in the window, up to T.
        settled: seconds up to which the window's fused maps have seen both neighbours.  The 3-D convolution looks one
            sample ahead, so this lies one sample before ``time``; the newest sample is read as the last of a clip is.
    """

    probabilities: FloatArray = field(repr=False)
    start: float
    time: float
    samples: int
    settled: float


@dataclass(frozen=True, eq=False)
class WindowState:
    """What is kept of the samples of a window.

    Attributes:
        times: of each sample, in seconds.
        opened: sums of the fusion that wait for the next sample; see `SampleReader.forward`.
        middle: for each branch ``[n, F]``, the readings of the samples but the newest, or of all of them where the
            fusion joins no neighbours.
        first: likewise, each read as the first of a window.
    """

    times: tuple[float, ...]
    opened: FloatArray = field(repr=False)
    middle: tuple[FloatArray, ...] = field(repr=False)
    first: tuple[FloatArray, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class StreamState:
    """What a stream needs of its past: `Recognizer.start` makes one, `Recognizer.step` the next.

    Attributes:
        collector: frames that the flow of samples to come may need.
        window: the samples of the answer.
        known: flow that samples to come may need again, by its first frame.
        num_frames: how many frames there were so far.
    """

    collector: FrameCollector
    window: WindowState
    known: Mapping[int, UInt8Array] = field(default_factory=dict, repr=False)
    num_frames: int = 0


class Stepper:
    """Makes answers of samples.

    Args:
        network: for the LSTMs and the head.
        clip: T, L and the flow recipe.
        step: runs the towers and the fusion.
        device: where the network is.
    """

    def __init__(
        self, network: FusionNetwork, clip: ClipSettings, step: SampleStep, *, device: torch.device | str = "cpu"
    ) -> None:
        self._network = network.eval()
        self._shape = stream_shape(network.settings)
        self._clip = clip
        self._device = device
        self._step = step

    def start(self) -> WindowState:
        """The window before the first sample."""
        return WindowState((), np.zeros(self._shape.opened, np.float32), (), ())

    def push(self, frame: Frame, state: StreamState) -> tuple[Answer | None, StreamState]:
        """Take the next frame of a stream, at the recipe's size.

        Returns:
            An answer if the frame completes a sample and the flow around it, and the new state.
        """
        collector, group = state.collector.push(frame)
        num_frames = frame.index + 1
        if group is None:
            return None, replace(state, collector=collector, num_frames=num_frames)
        codes = group.codes(self._clip.flow, state.known)
        answers, window = self.answer([group.sample(codes, self._clip.flow_fields)], state.window)
        reach = collector.next_position - collector.delay
        known = {start: codes[start] for start in codes if start >= reach}
        return answers[0], StreamState(collector, window, known, num_frames)

    def finish(self, state: StreamState) -> list[Answer]:
        """The answers of samples that the stream ended too soon behind; their flow repeats the last field there is."""
        samples = [
            group.sample(group.codes(self._clip.flow, state.known), self._clip.flow_fields)
            for group in state.collector.finish()
        ]
        return self.answer(samples, state.window)[0] if samples else []

    def answer(self, samples: Sequence[Sample], state: WindowState) -> tuple[list[Answer], WindowState]:
        """The answer after each of the samples, which follow those of the state; all go through the towers at once.

        Returns:
            An answer each, and the state after the last.
        """
        if self._clip.frames == 1 and len(samples) > 1:
            return [self.answer([sample], state)[0][0] for sample in samples], state
        if self._clip.frames == 1:
            state = self.start()  # a clip of one sample has seen nothing before it
        rgb = np.stack([sample.rgb for sample in samples])
        flow = np.stack([sample.flow for sample in samples])
        opened, *readings = self._step(rgb, flow, state.opened)
        windows = []
        for place, sample in enumerate(samples):
            rows = [reading[place] for reading in readings]
            state = self._moved(state, rows, sample.time)
            windows.append((state, [row[-1] for row in rows]))
        return self._answers(windows), replace(state, opened=opened)

    def _moved(self, state: WindowState, rows: Sequence[FloatArray], time: float) -> WindowState:
        """The window with one more sample, and without those that are more than T back."""
        times = (*state.times, time)[-self._clip.frames :]
        # With a look ahead, the readings of the first sample come with the second.
        if self._shape.looks_ahead and not state.times:
            empty = tuple(row[:0] for row in rows)
            return WindowState(times, state.opened, empty, empty)
        kept = len(times) - int(self._shape.looks_ahead)
        middle = _appended(state.middle, [row[:1] for row in rows], kept)
        if not self._shape.looks_ahead:
            return WindowState(times, state.opened, middle, middle)
        return WindowState(times, state.opened, middle, _appended(state.first, [row[1:2] for row in rows], kept))

    def _answers(self, windows: Sequence[tuple[WindowState, Sequence[FloatArray]]]) -> list[Answer]:
        """An answer to each window, given with its newest sample's readings as the last; one run for all of a length.

        For a small network the LSTMs' many small steps would else cost as much as the towers.
        """
        answers = []
        for _, group in groupby(windows, lambda window: len(window[0].times)):
            alike = list(group)
            sequences = [self._sequences(state, last) for state, last in alike]
            joined = {
                name: torch.from_numpy(np.stack(each)).to(self._device)
                for name, each in zip(self._shape.branches, zip(*sequences, strict=True), strict=True)
            }
            with torch.inference_mode():
                probabilities = self._network.answer_window(joined).cpu().numpy()
            answers += [self._answer(state, row) for (state, _), row in zip(alike, probabilities, strict=True)]
        return answers

    def _sequences(self, state: WindowState, last: Sequence[FloatArray]) -> list[FloatArray]:
        """For each branch ``[n, F]``, the readings of a window from its first sample to its last."""
        if not self._shape.looks_ahead:
            return list(state.middle)
        return [
            np.concatenate((first[:1], middle[1:], newest[None]))
            for first, middle, newest in zip(state.first, state.middle, last, strict=True)
        ]

    def _answer(self, state: WindowState, probabilities: FloatArray) -> Answer:
        count = len(state.times)
        settled = state.times[-2] if self._shape.looks_ahead and count > 1 else state.times[-1]
        return Answer(probabilities, state.times[0], state.times[-1], count, settled)


def _appended(before: Sequence[FloatArray], rows: Sequence[FloatArray], kept: int) -> tuple[FloatArray, ...]:
    """Each branch's rows with one more, of which the last ``kept`` are kept."""
    if not before:
        return tuple(rows)
    return tuple(np.concatenate(pair)[-kept:] for pair in zip(before, rows, strict=True))
