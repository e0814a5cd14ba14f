"""Times of things that are measured in turn, and how busy others keep the machine meanwhile."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil

Figure = dict[str, Any]


def spread(values: Sequence[float]) -> Figure:
    """Median, lowest and highest of repetitions."""
    return {"median": rounded(statistics.median(values)), "low": rounded(min(values)), "high": rounded(max(values))}


def rounded(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


class Cost(NamedTuple):
    """What a run took.

    Attributes:
        seconds: on the wall clock.
        core_seconds: of all cores together, by this process alone; other processes on the machine hardly change them.
    """

    seconds: float
    core_seconds: float


@contextmanager
def timed(costs: list[Cost]) -> Iterator[None]:
    """Append what the ``with`` took."""
    started, started_core = time.perf_counter(), time.process_time()
    yield
    costs.append(Cost(time.perf_counter() - started, time.process_time() - started_core))


def in_turn(cases: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[Cost]]:
    """What each case took in each repetition, which runs all cases once; a first one is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in cases}
    for repetition in range(repetitions + 1):
        for name, run in cases.items():
            with timed(costs[name] if repetition else []):
                run()
    return costs


def seconds_of(call: Callable[[], object], repetitions: int) -> list[float]:
    """On the wall clock, of each repetition; a first one is not counted."""
    return [cost.seconds for cost in in_turn({"": call}, repetitions)[""]]


def ratio(upper: Sequence[float], lower: Sequence[float]) -> Figure:
    """The spread of one case over another, repetition by repetition."""
    return spread([above / below for above, below in zip(upper, lower, strict=True)])


class Neighbours:
    """How busy other processes keep the machine meanwhile; our own children must have ended when it is asked."""

    def __init__(self) -> None:
        self._started, self._busy, self._own = time.perf_counter(), _busy(), _own()

    def share(self) -> float:
        """Share of all cores' time since the beginning, 0 to 1."""
        others = (_busy() - self._busy) - (_own() - self._own)
        return round(max(others, 0) / (time.perf_counter() - self._started) / (os.cpu_count() or 1), 3)


def _busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0) + getattr(times, "irq", 0))


def _own() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
