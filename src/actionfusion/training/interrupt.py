"""Ctrl-C, and the signal by which a cluster takes its machine back, wait for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(Exception):
    """Somebody asked the training to stop, and it stands between two steps."""


class StopSwitch:
    """Off until a signal turns it on."""

    def __init__(self) -> None:
        self.on = False

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Give the items one by one.

        Raises:
            StopRequested: before the next of them, once the switch is on.
        """
        for item in items:
            self.check()
            yield item

    def check(self) -> None:
        """Raise StopRequested if the switch is on."""
        if self.on:
            raise StopRequested


NEVER = StopSwitch()


@contextmanager
def stop_switch() -> Iterator[StopSwitch]:
    """Make a switch that the first Ctrl-C (or SIGTERM) turns on; the second one stops at once.

    Outside the main thread, where Python allows no handlers, it stays off.
    """
    switch = StopSwitch()

    def turn_on(number: int, frame: object) -> None:  # noqa: ARG001
        if switch.on:
            raise KeyboardInterrupt
        switch.on = True

    if threading.current_thread() is not threading.main_thread():
        yield switch
        return
    before = {number: signal.signal(number, turn_on) for number in _SIGNALS}
    try:
        yield switch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
