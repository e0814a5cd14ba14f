"""A camera in a page: pictures come over a WebSocket, and answers go back while it runs.

Two things are at work at a time, a picture in a decoder and a sample in the network.  What comes meanwhile replaces
what waits, so that a slow machine answers the newest.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, TypeVar

from starlette.websockets import WebSocket, WebSocketDisconnect

from actionfusion.errors import ActionFusionError, SettingsError
from actionfusion.serving.access import Access
from actionfusion.serving.answers import Answers
from actionfusion.serving.children import Decoder
from actionfusion.serving.failures import Ending, QueueFull, RequestError, SlowSender, as_json
from actionfusion.serving.metrics import Metrics
from actionfusion.settings import parse_json
from actionfusion.video.rates import WHOLE, Pace, Thinning
from actionfusion.video.samples import Sample

PROTOCOL = "actionfusion.v1"
_FIRST_SECONDS = 5.0
_IDLE_SECONDS = 30.0
_FIRST_BYTES = 4096
_TIME = struct.Struct("<d")
_JPEG = b"\xff\xd8"
_POLICY, _FAULT = 1008, 1011
_CLASSES = 5
Item = TypeVar("Item")


class Latest(Generic[Item]):
    """Holds the newest item.

    Attributes:
        dropped: items that a newer one replaced before they were taken.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._items: list[Item] = []
        self._there = asyncio.Event()

    def put(self, item: Item) -> None:
        """Leave an item, in place of one that still waits."""
        self.dropped += len(self._items)
        self._items = [item]
        self._there.set()

    async def get(self) -> Item:
        """Wait for an item and take it."""
        await self._there.wait()
        self._there.clear()
        return self._items.pop()


@dataclass(frozen=True)
class Picture:
    """A picture of a camera.

    Attributes:
        time: seconds by the page's clock.
        data: JPEG.
        at: when it came.
    """

    time: float
    data: bytes
    at: float


class Camera:
    """One page's camera.

    Args:
        socket: accepted.
        answers: the run at work.
        metrics: to count in.
    """

    def __init__(self, socket: WebSocket, answers: Answers, metrics: Metrics) -> None:
        self._socket, self._answers, self._metrics = socket, answers, metrics
        self._pictures: Latest[Picture] = Latest()
        self._samples: Latest[tuple[Sample, float]] = Latest()

    async def follow(self, access: Access) -> None:
        """Answer what comes until the page closes the connection, or something is wrong.

        Raises:
            ActionFusionError: what is wrong.
            WebSocketDisconnect: the page has gone.
        """
        every, pace = await self._first(access)
        async with _place(self._answers), self._answers.decoders.apart() as decoder:
            seconds = self._answers.limits.decoding_seconds
            await decoder.begin({"task": "camera", "every": every, "threads": 1}, seconds)
            await self._socket.send_json({"ready": True, "every": every})
            works = self._read(), self._decode(decoder, pace), self._answer()
            tasks = [asyncio.ensure_future(work) for work in works]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await task
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _first(self, access: Access) -> tuple[int, Pace]:
        """Read the first message: the token, and how often to answer."""
        try:
            async with asyncio.timeout(_FIRST_SECONDS):
                message = await self._socket.receive()
        except TimeoutError:
            raise SlowSender("the first message does not come", "send it at once") from None
        _refuse_end(message)
        text = message.get("text")
        if not isinstance(text, str) or len(text) > _FIRST_BYTES:
            raise RequestError("the first message is no short text", "send a JSON object")
        first = parse_json(text, "first message", SettingsError, "send a JSON object")
        if not isinstance(first, dict):
            raise RequestError("the first message is no object", "send a JSON object")
        token, every, rate = (first.get(name) for name in ("token", "every", "rate"))
        access.check_token(token if isinstance(token, str) else None)
        if every is not None and (type(every) is not int or not 1 <= every <= 10_000):
            raise SettingsError("every", f"{every} frames from one sample to the next", "take 1 or more, or null")
        if rate is not None and (not isinstance(rate, float | int) or not 0 < rate <= 1000):
            raise SettingsError("rate", f"{rate} pictures a second", "take more than 0, or null")
        rates = self._answers.recognizer.rates
        pace = WHOLE if rates is None or rate is None else rates.pace(float(rate))
        return pace.interval(every or self._answers.every), pace

    async def _read(self) -> None:
        last = -math.inf
        while True:
            try:
                async with asyncio.timeout(_IDLE_SECONDS):
                    message = await self._socket.receive()
            except TimeoutError:
                raise SlowSender("no picture comes", "connect again when there are some") from None
            _refuse_end(message)
            data = message.get("bytes")
            if not isinstance(data, bytes) or not data[_TIME.size :].startswith(_JPEG):
                raise RequestError("a message is no time with a JPEG", "send 8 bytes of time, then a JPEG")
            if len(data) > self._answers.limits.picture_bytes + _TIME.size:
                raise RequestError("a picture has too many bytes", "send smaller ones")
            (time,) = _TIME.unpack_from(data)
            if not math.isfinite(time) or time <= last:
                raise RequestError("the times of pictures do not grow", "send seconds of one clock")
            last = time
            self._pictures.put(Picture(time, data[_TIME.size :], monotonic()))

    async def _decode(self, decoder: Decoder, pace: Pace) -> None:
        thinning = Thinning(pace) if pace.step > 1 else None
        first: float | None = None
        while True:
            picture = await self._pictures.get()
            first = picture.time if first is None else first
            if thinning is not None and not thinning.takes(picture.time - first):
                continue
            decoder.allow(self._answers.limits.decoding_seconds)
            header = {"kind": "picture", "time": picture.time, "bytes": len(picture.data)}
            await decoder.send(header, picture.data)
            message = await decoder.receive()
            if message.kind == "error":
                raise message.error()
            if message.kind == "sample":
                self._samples.put((self._answers.sample(message), picture.at))

    async def _answer(self) -> None:
        answers, stepper = self._answers, self._answers.recognizer.stepper
        window, counted = stepper.start(), 0
        while True:
            sample, at = await self._samples.get()
            (found,), window = await answers.network.run(stepper.answer, [sample], window)
            dropped = self._pictures.dropped + self._samples.dropped
            self._metrics.dropped.inc(dropped - counted)
            counted = dropped
            line = {
                "time": found.time,
                "predictions": answers.scored(found.probabilities, _CLASSES),
                "delay_ms": round(1000 * (monotonic() - at), 1),
                "dropped": dropped,
                "method": stepper.method,
            }
            await self._socket.send_json(line)


async def serve_camera(socket: WebSocket, answers: Answers, access: Access, metrics: Metrics) -> None:
    """Answer a WebSocket from its handshake to its end."""
    await socket.accept(PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)
    with suppress(WebSocketDisconnect):
        try:
            await Camera(socket, answers, metrics).follow(access)
        except ActionFusionError as error:
            metrics.errors.labels(error.kind).inc()
            await socket.send_json(as_json(error))
            await socket.close(_POLICY if isinstance(error, RequestError) else _FAULT)


@asynccontextmanager
async def _place(answers: Answers) -> AsyncIterator[None]:
    """Count a camera while the block lasts.

    Raises:
        SettingsError: an export cannot answer a stream.
        QueueFull: there are as many as may be.
        Ending: the server is about to end.
    """
    answers.refuse_export()
    if answers.is_ending:
        raise Ending("the server is about to end", "ask again in a minute")
    if answers.cameras >= answers.limits.cameras:
        raise QueueFull("too many cameras stream already", "try again later")
    answers.cameras += 1
    try:
        yield
    finally:
        answers.cameras -= 1


def _refuse_end(message: Any) -> None:
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
