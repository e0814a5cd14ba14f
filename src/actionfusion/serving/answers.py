"""What the routes answer: a video becomes predictions, a timeline or a picture."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from actionfusion.errors import SettingsError, VideoTooLarge
from actionfusion.explanation.localization import grad_cam
from actionfusion.explanation.target import AttributionTarget
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.timelines.timeline import TimelineRules
from actionfusion.inference.timelines.untrimmed import (
    BATCH,
    SeenVideo,
    VideoTimeline,
    WindowAnswers,
    WindowSettings,
    check_windows,
    segments_of,
)
from actionfusion.reporting.filmstrip import common_scale, square
from actionfusion.reporting.heatmaps import contact_sheet, drawn_flow, heat_over, png_bytes, scaled_heat
from actionfusion.serving.children import Decoder, Decoders, Message
from actionfusion.serving.failures import DecoderLost, Ending, QueueFull
from actionfusion.serving.limits import ServingLimits
from actionfusion.serving.network import Network
from actionfusion.video.clip import Clip, ClipSettings
from actionfusion.video.samples import Sample
from actionfusion.video.threads import usable_cores

Tell = Callable[[Mapping[str, Any]], object]
Result = TypeVar("Result")


class Answers:
    """Answers videos by a run.

    Args:
        recognizer: the run.
        every: frames from one sample to the next of a timeline or a camera, where none is asked for.
        limits: of the server.
        explains: whether there is a network in PyTorch to explain by.
    """

    def __init__(self, recognizer: Recognizer, every: int, limits: ServingLimits, *, explains: bool) -> None:
        self.recognizer, self.every, self.limits, self.explains = recognizer, every, limits, explains
        self.network = Network(recognizer)
        self.decoders = Decoders(recognizer.clip_settings, recognizer.rates, limits)
        self.is_ending = False
        self.admitted = self.cameras = 0

    @property
    def clip_settings(self) -> ClipSettings:
        """What is cut from a video."""
        return self.recognizer.clip_settings

    @contextmanager
    def admission(self) -> Iterator[None]:
        """Let a video in while the block lasts.

        Raises:
            QueueFull: too many are there already.
            Ending: the server is about to end.
        """
        if self.is_ending:
            raise Ending("the server is about to end", "ask again in a minute", retry_after=60)
        if self.admitted >= self.decoders.count + self.limits.videos_waiting:
            raise QueueFull("too many videos wait already", "ask again later", retry_after=5)
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1

    async def predict(self, video: Path, tell: Tell, top_k: int) -> list[dict[str, Any]]:
        """Name the most probable classes of a video, best first."""
        clip = await self._clip(video, tell)
        tell({"stage": "network"})
        return self.scored(await self.network.probabilities(clip), top_k)

    def refuse_export(self) -> None:
        """Refuse what only a run can answer: an export has clips alone.

        Raises:
            SettingsError: an export is served.
        """
        if not self.explains:
            raise SettingsError("run", "an exported model answers clips alone", "serve the run itself")

    def scored(self, row: np.ndarray[Any, Any], top_k: int) -> list[dict[str, Any]]:
        """Give the best classes of a row of probabilities, as they are answered."""
        best = self.recognizer.best(row, top_k)
        return [{"label": item.label, "score": item.probability} for item in best]

    async def timeline(self, video: Path, tell: Tell, windows: WindowSettings, rules: TimelineRules) -> VideoTimeline:
        """Find what happens when in a video.

        Raises:
            SettingsError: options that make no sense, or an export is served.
            VideoError: it cannot be read as far as the first window.
        """
        self.refuse_export()
        check_windows(self.clip_settings, windows, 1)
        return await self._tried(lambda: self._timeline(video, tell, windows, rules))

    async def _timeline(self, video: Path, tell: Tell, windows: WindowSettings, rules: TimelineRules) -> VideoTimeline:
        whole = None
        async with self._decoder(tell) as decoder:
            await decoder.begin({**self._job("samples", video), "every": windows.every}, self.limits.decoding_seconds)
            seen, note = await self._see(decoder, tell, windows)
            if isinstance(seen.error, VideoTooLarge):
                raise seen.error
            if not seen.windows:
                if seen.error is not None:
                    raise seen.error
                await decoder.begin(self._job("clip", video), self.limits.decoding_seconds)
                whole = await self.network.probabilities(await self._received_clip(decoder, tell))
        segments = await self.network.run(segments_of, self.recognizer, seen, rules, 1, whole)
        return VideoTimeline("video", segments, seen.error, self.recognizer.stepper.method, note)

    async def _see(self, decoder: Decoder, tell: Tell, windows: WindowSettings) -> tuple[SeenVideo, str | None]:
        """Answer the windows of the samples that a decoder sends."""
        stepper = self.recognizer.stepper
        answers = WindowAnswers(stepper, self.clip_settings.frames, windows)
        batch: list[Sample] = []
        end: Message | None = None
        async for message in messages(decoder, tell):
            if message.kind == "sample":
                batch.append(self.sample(message))
            elif message.kind == "end":
                end = message
            if batch and (len(batch) == BATCH or end is not None):
                await self.network.run(answers.add, batch)
                batch = []
        if end is None:
            raise DecoderLost("video", "decoding it failed", "try again")
        fault = end.header.get("error")
        error = Message(fault, {}).error() if isinstance(fault, dict) else None
        seconds, note = end.header.get("seconds"), end.header.get("note")
        seen = await self.network.run(answers.seen, float(seconds) if isinstance(seconds, float | int) else 0.0, error)
        return seen, note if isinstance(note, str) else None

    async def explain(self, video: Path, tell: Tell) -> bytes:
        """Draw the film strip of a video as PNG: frames, flow, the heat map of the most probable class.

        Raises:
            SettingsError: an export is served.
            VideoError: it cannot be read.
        """
        self.refuse_export()
        clip = await self._clip(video, tell)
        tell({"stage": "network"})
        return await self.network.run(film_strip, self.recognizer, clip)

    async def _clip(self, video: Path, tell: Tell) -> Clip:
        async def cut() -> Clip:
            async with self._decoder(tell) as decoder:
                await decoder.begin(self._job("clip", video), self.limits.decoding_seconds)
                return await self._received_clip(decoder, tell)

        return await self._tried(cut)

    async def _received_clip(self, decoder: Decoder, tell: Tell) -> Clip:
        clip: Clip | None = None
        async for message in messages(decoder, tell):
            if message.kind == "clip":
                clip = self._checked_clip(message)
        if clip is None:
            raise DecoderLost("video", "decoding it failed", "try again")
        return clip

    def _checked_clip(self, message: Message) -> Clip:
        settings, arrays = self.clip_settings, message.arrays
        frames = settings.frames
        expected: dict[str, Any] = {"rgb": (np.uint8, (frames, 3, settings.frame_size, settings.frame_size))}
        expected |= {"times": (np.float64, (frames,)), "positions": (np.int64, (frames,))}
        if settings.reads_flow:
            expected["flow"] = (np.uint8, (frames, settings.flow_channels, settings.flow.size, settings.flow.size))
        _check(arrays, expected)
        return Clip(arrays["rgb"], arrays.get("flow"), arrays["times"], arrays["positions"], settings.flow)

    def sample(self, message: Message) -> Sample:
        """Make the sample that a decoder has sent."""
        settings, arrays = self.clip_settings, message.arrays
        expected: dict[str, Any] = {"rgb": (np.uint8, (3, settings.frame_size, settings.frame_size))}
        if settings.reads_flow:
            expected["flow"] = (np.uint8, (settings.flow_channels, settings.flow.size, settings.flow.size))
        _check(arrays, expected)
        time, position = message.header.get("time"), message.header.get("position")
        if not isinstance(time, float | int) or not isinstance(position, int):
            raise DecoderLost("video", "decoding it failed", "try again")
        return Sample(position, float(time), arrays["rgb"], arrays.get("flow"))

    def _job(self, task: str, video: Path) -> dict[str, Any]:
        return {"task": task, "path": str(video), "threads": self.threads()}

    def threads(self) -> int:
        """Share the cores among the decoders at work."""
        return max(usable_cores() // max(self.decoders.busy, 1), 1)

    @asynccontextmanager
    async def _decoder(self, tell: Tell) -> AsyncIterator[Decoder]:
        async with self.decoders.decoder(lambda ahead: tell({"stage": "waiting", "ahead": ahead})) as decoder:
            yield decoder

    async def _tried(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Try once more with another decoder where one was lost, which need not be the video's fault."""
        try:
            return await work()
        except DecoderLost:
            return await work()


def _check(arrays: Mapping[str, Any], expected: Mapping[str, tuple[type[Any], tuple[int, ...]]]) -> None:
    """Refuse arrays that are not those that were asked for: a decoder is not trusted."""
    if {name: (array.dtype.type, array.shape) for name, array in arrays.items()} != expected:
        raise DecoderLost("video", "decoding it failed (its decoder answered nonsense)", "try again")


async def messages(decoder: Decoder, tell: Tell) -> AsyncIterator[Message]:
    """Yield what a decoder says of its job until it is done; progress is told.

    Raises:
        VideoError: the job ended in it.
    """
    error = None
    while (message := await decoder.receive()).kind != "done":
        if message.kind == "progress":
            done, of = message.header.get("done"), message.header.get("of")
            tell({"stage": "decoding", "done": done if isinstance(done, int) else 0, "of": of})
        elif message.kind == "error":
            error = message.error()
        else:
            yield message
    if error is not None:
        raise error


def film_strip(recognizer: Recognizer, clip: Clip) -> bytes:
    """Draw the frames of a clip, its flow, and where the model looked for its answer, as PNG."""
    target = AttributionTarget.of(recognizer, clip)
    best = recognizer.best(recognizer.probabilities([clip])[0], 1)[0]
    frames = [square(picture.transpose(1, 2, 0)) for picture in clip.rgb]
    rows = [
        (f"{best.label}, {100 * best.probability:.1f} %", frames),
        ("flow to the next frame of the video", drawn_flow(clip, common_scale([clip]))),
    ]
    if target.model.explained_layer is not None:
        heat = scaled_heat(grad_cam(target))
        rows.append((f"Grad-CAM: speaks for {best.label}", list(map(heat_over, frames, heat))))
    return png_bytes(contact_sheet([row for row in rows if row[1]]))
