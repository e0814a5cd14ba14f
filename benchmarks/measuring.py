"""Times of things that are measured in turn, and where the time of a call goes."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from functools import wraps
from typing import Any

import torch

from actionfusion.timing import Cost, Figure, Neighbours, in_turn, ratio, rounded, seconds_of, spread, timed
from actionfusion.version import __version__

__all__ = [
    "Cost",
    "Figure",
    "Neighbours",
    "Stopwatch",
    "in_turn",
    "machine",
    "made_by",
    "ratio",
    "rounded",
    "seconds_of",
    "spread",
    "timed",
]


class Stopwatch(AbstractContextManager["Stopwatch"]):
    """Adds up the core seconds of calls by part; while one is counted, those within it are not counted again.

    Functions are replaced where their callers look them up, and put back at the end of the ``with``.

    Attributes:
        seconds: of this process, by part.
        calls: of each part, those within others too.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._is_counting = False
        self._replaced: list[tuple[object, str, Any]] = []

    def __exit__(self, *_: object) -> None:
        """Put every function back."""
        while self._replaced:
            owner, name, function = self._replaced.pop()
            setattr(owner, name, function)

    def time(self, owner: object, name: str, part: str | Callable[..., str | None]) -> None:
        """Count the calls of ``owner.name``; ``part`` may be told by the arguments, None counting nothing."""
        function = getattr(owner, name)

        @wraps(function)
        def counted(*arguments: Any, **settings: Any) -> Any:
            chosen = part(*arguments, **settings) if callable(part) else part
            return self._count(chosen, function, *arguments, **settings)

        self.replace(owner, name, counted)

    def time_made(self, owner: object, name: str, part: str) -> None:
        """Count the calls of what ``owner.name`` gives."""
        make = getattr(owner, name)

        @wraps(make)
        def made(*arguments: Any, **settings: Any) -> Callable[..., Any]:
            function = make(*arguments, **settings)
            return lambda *given: self._count(part, function, *given)

        self.replace(owner, name, made)

    def time_generator(self, owner: object, name: str, part: str) -> None:
        """Count each step of the generator that ``owner.name`` gives."""
        make = getattr(owner, name)

        @wraps(make)
        def counted(*arguments: Any, **settings: Any) -> Iterator[Any]:
            end = object()
            with closing(make(*arguments, **settings)) as steps:
                while (step := self._count(part, next, steps, end)) is not end:
                    yield step

        self.replace(owner, name, counted)

    def replace(self, owner: object, name: str, function: Any) -> None:
        """Put a function in the place of another until the end."""
        self._replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, function)

    def _count(self, part: str | None, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        if part is None:
            return function(*arguments, **settings)
        self.calls[part] += 1
        if self._is_counting:
            return function(*arguments, **settings)
        self._is_counting = True
        started = time.process_time()
        try:
            return function(*arguments, **settings)
        finally:
            self.seconds[part] += time.process_time() - started
            self._is_counting = False

    def clear(self) -> None:
        """Begin anew."""
        self.seconds.clear()
        self.calls.clear()

    def shares(self, whole: float, parts: Sequence[str]) -> Figure:
        """Each part's share of ``whole`` core seconds, and ``rest``."""
        shares = {part: round(self.seconds[part] / whole, 4) for part in parts}
        return shares | {"rest": round(1 - sum(shares.values()), 4)}


def made_by(command: str) -> dict[str, Any]:
    """Say how a result was made: command, date, machine and versions."""
    return {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {"actionfusion": __version__, "python": platform.python_version(), "torch": torch.__version__},
    }


def machine() -> str:
    """What it was measured on, without names."""
    return f"{os.cpu_count()} cores, {platform.machine()}, no GPU"
