"""Progress of long work in plain lines, where no terminal shows a bar."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from actionfusion.terminal import Text

_FIRST, _LONGEST = 30.0, 1800.0
"""Seconds from one line to the next, at first and at most; in between a tenth of the time so far."""


class PlainProgress:
    """Says from time to time how many of a number of things are done, and how long the rest will take.

    Args:
        console: to say it on; nothing is said where it is a terminal.
        title: what is being done.
        clock: seconds that never go back.
    """

    def __init__(self, console: Console, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._title, self._clock = console, title, clock
        self._done = 0
        self.restart()

    def restart(self) -> None:
        """Count time from now on: what was done until now was there already."""
        self._before, self._began = self._done, self._clock()
        self._last = self._began

    def __call__(self, done: int, total: int) -> None:
        """Take the number of things done, of all."""
        self._done, now = done, self._clock()
        gone, fresh = now - self._began, done - self._before
        if self._console.is_terminal or done == total or now - self._last < min(max(_FIRST, gone / 10), _LONGEST):
            return
        self._last = now
        left = f", about {duration(gone / fresh * (total - done))} left" if fresh > 0 else ""
        line = f"{self._title}: {done} of {total} after {duration(gone)}{left}"
        self._console.print(Text(line), soft_wrap=True)


def duration(seconds: float) -> str:
    """Write a length of time in its largest two units, such as ``2 days 5 h``."""
    units = (("week", 604_800), ("day", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    rest = max(round(seconds), 1)
    for number, (name, size) in enumerate(units):
        if rest >= size:
            smaller, small = units[min(number + 1, len(units) - 1)]
            count, more = divmod(rest, size) if size == small else (rest // size, rest % size // small)
            if count >= 10 or size == small:  # the smaller unit says nothing any more
                count, more = round(rest / size), 0
            parts = [_counted(count, name), *([_counted(more, smaller)] if more else [])]
            return " ".join(parts)
    raise AssertionError


def giga(size: float) -> str:
    """Write bytes as ``1.2 GB``, or as MB where that says more."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.{0 if size >= 1e7 else 1}f} MB"


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}{'s' if count > 1 and unit in ('week', 'day') else ''}"
