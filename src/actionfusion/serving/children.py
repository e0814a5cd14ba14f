"""The decoding processes as the server sees them: started ahead, given one job at a time, killed and replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from actionfusion import errors
from actionfusion.errors import RuntimeUnavailable, VideoError, VideoTooLarge
from actionfusion.process import stops_held_back
from actionfusion.serving.failures import DecoderLost
from actionfusion.serving.limits import VIDEO_CODECS, ServingLimits
from actionfusion.serving.messages import LENGTH, Array, BrokenMessage, array_sizes, as_array, packed, read_header
from actionfusion.settings import plain
from actionfusion.video.clip import ClipSettings
from actionfusion.video.rates import FrameRates
from actionfusion.video.threads import usable_cores

_KINDS = {kind.kind: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VideoError)}
_START_SECONDS = 60.0
_MOST_DECODERS = 4
_PIPE_BYTES = 1 << 20
_CONVERT = "convert it with FFmpeg, for example to H.264 in MP4"

Ahead = Callable[[int], object]


@dataclass(frozen=True, eq=False)
class Message:
    """A message of a decoder: what it says, and the arrays with it."""

    header: Mapping[str, Any]
    arrays: Mapping[str, Array]

    @property
    def kind(self) -> str:
        """What kind of message it is."""
        return str(self.header.get("kind"))

    def error(self) -> VideoError:
        """Rebuild the error that it tells of."""
        name, reason, remedy = (str(self.header.get(part, "")) for part in ("name", "reason", "remedy"))
        return _KINDS.get(name, VideoError)("video", reason, remedy)


class Decoder:
    """A decoding process.

    Attributes:
        process: it.
        is_free: whether it has ended its last job as it should.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.is_free = True
        self._left = 0.0

    @classmethod
    async def start(cls, setup: Mapping[str, Any]) -> Decoder:
        """Start one, and wait until it is ready.

        Raises:
            RuntimeUnavailable: it cannot be started.
        """
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        environment.pop("ACTIONFUSION_TOKEN", None)
        words = (sys.executable, "-P", "-c", "from actionfusion.serving.decoder import main; main()")
        with stops_held_back():
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                env=environment,
                limit=_PIPE_BYTES,
            )
        decoder = cls(process)
        decoder._left = _START_SECONDS
        try:
            await decoder.send(setup)
            message = await decoder.receive()
        except BaseException as error:
            await decoder.end()
            if not isinstance(error, VideoError):
                raise
            raise RuntimeUnavailable("decoder", f"does not start ({error.reason})", "install it again") from error
        assert message.kind == "ready"
        return decoder

    async def begin(self, job: Mapping[str, Any], seconds: float) -> None:
        """Give it a job, which may keep it busy for so many seconds."""
        self.is_free, self._left = False, seconds
        await self.send(job)

    def allow(self, seconds: float) -> None:
        """Let what it does next take so many seconds."""
        self._left = seconds

    async def send(self, header: Mapping[str, Any], data: bytes = b"") -> None:
        """Send a message, and bytes that belong to it."""
        assert self.process.stdin is not None
        with suppress(ConnectionError):  # it has died; the wait for its answer finds out
            for part in packed(header):
                self.process.stdin.write(part)
            self.process.stdin.write(data)
            await self.process.stdin.drain()

    async def receive(self) -> Message:
        """Wait for its next message, as long as its job may still take.

        Raises:
            DecoderLost: it takes too long, has died, or says what no decoder says; it is dead in any case.
            VideoTooLarge: it has taken too long for one video.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(max(self._left, 0.001)):
                message = await self._read()
        except TimeoutError:
            self.kill()
            raise VideoTooLarge("video", "decoding it takes too long", "cut it, or scale it down first") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            self.kill()
            code = await self.process.wait()
            raise DecoderLost("video", f"decoding it failed ({_ended(code)})", _CONVERT) from None
        except BrokenMessage as broken:
            self.kill()
            raise DecoderLost("video", "decoding it failed (its decoder answered nonsense)", _CONVERT) from broken
        self._left -= clock() - began
        self.is_free = message.kind in ("done", "ready")
        return message

    async def _read(self) -> Message:
        assert self.process.stdout is not None
        read = self.process.stdout.readexactly
        (length,) = LENGTH.unpack(await read(LENGTH.size))
        if length > 1 << 16:
            raise BrokenMessage("a header that is too long")
        header = read_header(await read(length))
        arrays = {}
        for name, (kind, shape, size) in array_sizes(header).items():
            arrays[name] = as_array(await read(size), kind, shape)
        return Message(header, arrays)

    def kill(self) -> None:
        """End it, whatever it does."""
        self.is_free = False
        if self.process.returncode is None:
            # Not by `Process.kill`, which may take the exit code away from the loop that waits for it.
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """End it, and wait until it is gone."""
        self.kill()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        await self.process.stdout.read()  # to the end, so that the pipe is closed before the loop is
        await self.process.wait()


def _ended(code: int) -> str:
    return (signal.strsignal(-code) or f"signal {-code}") if code < 0 else f"exit code {code}"


class Decoders:
    """Decoders, and the line of those who wait for one.

    Args:
        clip: what is cut from a video.
        rates: of the run's training videos.
        limits: of the server.

    Attributes:
        count: how many there are.
        replaced: how many were killed, or died, and were replaced.
    """

    def __init__(self, clip: ClipSettings, rates: FrameRates | None, limits: ServingLimits) -> None:
        self.count = limits.decoders or min(usable_cores(), _MOST_DECODERS)
        self.replaced = 0
        self._limits = limits
        self._setup = {
            "clip": plain(clip),
            "rates": None if rates is None else plain(rates),
            "limits": {
                "pixels": limits.pixels,
                "frames": limits.frames,
                "seconds": limits.seconds,
                "codecs": sorted(VIDEO_CODECS),
                "memory": limits.decoding_bytes,
            },
        }
        self._free: list[Decoder] = []
        self._all: set[Decoder] = set()
        self._line: deque[tuple[asyncio.Future[Decoder], Ahead]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = False

    @property
    def waiting(self) -> int:
        """How many wait for a decoder."""
        return len(self._line)

    @property
    def busy(self) -> int:
        """How many decoders are at work."""
        return len(self._all) - len(self._free)

    @property
    def alive(self) -> int:
        """How many decoders there are at this moment."""
        return len(self._all)

    async def open(self) -> None:
        """Start all.

        Raises:
            RuntimeUnavailable: one cannot be started.
        """
        self._is_open = True
        await asyncio.gather(*(self._start() for _ in range(self.count)))

    async def close(self) -> None:
        """End all."""
        self._is_open = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(decoder.end() for decoder in self._all))
        self._all.clear()
        self._free.clear()

    @asynccontextmanager
    async def decoder(self, ahead: Ahead) -> AsyncIterator[Decoder]:
        """Take a decoder, in the order of asking; one that is left in the middle of a job is killed and replaced.

        Args:
            ahead: called with the number of those who are before this one, now and when it changes.
        """
        decoder = await self._take(ahead)
        try:
            yield decoder
        finally:
            self._give_back(decoder)

    @asynccontextmanager
    async def apart(self) -> AsyncIterator[Decoder]:
        """Start a decoder of one's own, which ends with the block: a camera would keep one of the others for long.

        Raises:
            RuntimeUnavailable: it cannot be started.
        """
        decoder = await Decoder.start(self._setup)
        try:
            yield decoder
        finally:
            await decoder.end()

    async def _take(self, ahead: Ahead) -> Decoder:
        if self._free and not self._line:
            return self._free.pop()
        place: asyncio.Future[Decoder] = asyncio.get_running_loop().create_future()
        self._line.append((place, ahead))
        ahead(len(self._line) - 1)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_back(place.result())
            raise
        finally:
            with suppress(ValueError):
                self._line.remove((place, ahead))
                self._move_up()

    def _give_back(self, decoder: Decoder) -> None:
        if decoder.is_free and decoder.process.returncode is None:
            self._offer(decoder)
            return
        decoder.kill()
        self.replaced += 1
        task = asyncio.create_task(self._replace(decoder))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, decoder: Decoder) -> None:
        await decoder.end()
        self._all.discard(decoder)
        while self._is_open:
            with suppress(RuntimeUnavailable, OSError):  # no memory or no process for the moment
                await self._start()
                break
            await asyncio.sleep(1)

    async def _start(self) -> None:
        decoder = await Decoder.start(self._setup)
        self._all.add(decoder)
        self._offer(decoder)

    def _offer(self, decoder: Decoder) -> None:
        while self._line:
            place, _ = self._line.popleft()
            if not place.done():
                place.set_result(decoder)
                self._move_up()
                return
        self._free.append(decoder)

    def _move_up(self) -> None:
        for number, (_, ahead) in enumerate(self._line):
            ahead(number)
