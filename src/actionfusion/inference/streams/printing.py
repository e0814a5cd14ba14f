"""How the answers to a stream are shown: a line that changes on a terminal, plain lines elsewhere, or JSON Lines."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from json import dumps
from typing import Protocol

import numpy as np
from rich.live import Live

from actionfusion.errors import printable
from actionfusion.inference.recognizer import Prediction
from actionfusion.inference.stepping import StreamMethod, StreamPrediction
from actionfusion.inference.streams.capture import OutageNote
from actionfusion.terminal import Console, Text

# The latencies that the figures at the end are made of: an endless stream must not fill the memory.
_LATENCIES = 10_000


@dataclass(frozen=True)
class StreamLine:
    """The answer to the newest samples of a stream, as it is shown.

    Attributes:
        answer: the network's, with times in seconds from the first frame.
        predictions: best first.
        delay: seconds from the sampled frame to the newest one that its flow needed.
        latency: seconds from the capture of that newest frame to the answer.
        dropped: samples so far that were dropped because a newer one was there.
        dropped_share: of all samples so far, 0 to 1.
        method: how the window was answered.
    """

    answer: StreamPrediction
    predictions: tuple[Prediction, ...]
    delay: float
    latency: float
    dropped: int
    dropped_share: float
    method: StreamMethod

    def as_json(self) -> dict[str, object]:
        """Make the line of ``stream --json``."""
        return {
            "time": round(self.answer.time, 6),
            "start": round(self.answer.start, 6),
            "settled": round(self.answer.settled, 6),
            "samples": self.answer.samples,
            "delay": round(self.delay, 6),
            "predictions": [asdict(item) for item in self.predictions],
            "latency_ms": round(1000 * self.latency, 3),
            "dropped": self.dropped,
            "method": self.method,
        }


@dataclass
class StreamSummary:
    """The counts of a stream.

    Attributes:
        frames: received.
        samples: answered.
        dropped: samples dropped because a newer one was there.
        lost: frames left out because they cannot be decoded.
        outages: times that the source went away.
        latencies: seconds, of the last answers.
        method: how windows were answered.
    """

    frames: int = 0
    samples: int = 0
    dropped: int = 0
    lost: int = 0
    outages: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES), repr=False)
    method: StreamMethod | None = None

    @property
    def dropped_share(self) -> float:
        """Of all samples, 0 to 1."""
        return self.dropped / max(self.samples + self.dropped, 1)

    def latency(self, percentile: float) -> float:
        """Return a percentile of the last answers' seconds; NaN without an answer."""
        return float(np.percentile(self.latencies, percentile)) if self.latencies else float("nan")

    def __str__(self) -> str:
        parts = [f"{_counted(self.samples, 'sample')} answered"]
        parts.append(f"{self.dropped} dropped ({self.dropped_share:.1%})")
        if self.latencies:
            of = f" of the last {len(self.latencies)}" if self.samples > len(self.latencies) else ""
            median, late = 1000 * self.latency(50), 1000 * self.latency(95)
            parts.append(f"latency{of}: median {median:.1f} ms, 95th percentile {late:.1f} ms")
        parts.append(_counted(self.outages, "outage"))
        if self.lost:
            parts.append(f"{_counted(self.lost, 'damaged frame')} left out")
        if self.method:
            parts.append(self.method)
        return "; ".join(parts)


class Printer(Protocol):
    """Shows a stream."""

    def answer(self, answer: StreamLine) -> None:
        """Show an answer.

        Raises:
            BrokenPipeError: the reader has gone.
        """
        ...

    def outage(self, note: OutageNote) -> None:
        """Show that the source is away, or back."""
        ...

    def close(self) -> None:
        """End the display."""
        ...


def make_printer(*, json: bool) -> Printer:
    """Make the printer that fits standard output."""
    if json:
        return _JsonLines()
    console = Console()
    return _LiveLine(console) if console.is_terminal else _PlainLines()


class _JsonLines:
    def answer(self, answer: StreamLine) -> None:
        _out(dumps(answer.as_json()))

    def outage(self, note: OutageNote) -> None:
        _out(dumps({"event": "back" if note.next_try is None else "waiting", **asdict(note)}))

    def close(self) -> None:
        pass


class _PlainLines:
    def __init__(self) -> None:
        self._errors = Console(stderr=True)

    def answer(self, answer: StreamLine) -> None:
        _out(_line(answer))

    def outage(self, note: OutageNote) -> None:
        self._errors.print(Text(_outage_line(note)), soft_wrap=True)

    def close(self) -> None:
        pass


class _LiveLine:
    """One line that is written over; outages stay above it."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def answer(self, answer: StreamLine) -> None:
        line = Text(printable(_line(answer)), no_wrap=True, overflow="ellipsis")
        line.highlight_words([answer.predictions[0].label], "bold")
        self._live.update(line, refresh=True)

    def outage(self, note: OutageNote) -> None:
        self._live.console.print(Text(_outage_line(note), style="yellow"), soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def _line(answer: StreamLine) -> str:
    # A narrow terminal cuts the end off: the less probable classes.
    numbers = f"latency {1000 * answer.latency:.0f} ms  dropped {answer.dropped_share:.1%}"
    labels = "  ".join(f"{item.label} {item.probability:.1%}" for item in answer.predictions)
    return f"{answer.answer.time:8.2f} s  {numbers}  {labels}"


def _outage_line(note: OutageNote) -> str:
    if note.next_try is None:
        return f"the source is back after {note.seconds:.1f} s; the window begins anew"
    return printable(f"the source is away for {note.seconds:.1f} s ({note.reason}); next try in {note.next_try:.1f} s")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _out(line: str) -> None:
    print(printable(line), flush=True)  # noqa: T201
