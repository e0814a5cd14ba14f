"""Ctrl-C, and the signals by which a cluster takes its machine back, wait for the end of a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from actionfusion.process import on_stop

Item = TypeVar("Item")


class StopRequested(Exception):
    """Somebody asked the training to stop, and it stands between two steps."""


class StopSwitch:
    """Off until a signal turns it on."""

    def __init__(self) -> None:
        self.on = False

    def turn_on(self) -> None:
        """Turn it on."""
        self.on = True

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
    """Make a switch that the first Ctrl-C, SIGTERM or SIGHUP turns on; the second one stops at once.

    Raises:
        KeyboardInterrupt: after the block, which did not look at the switch any more: what follows is to stop too.
    """
    switch = StopSwitch()
    with on_stop(switch.turn_on):
        yield switch
    if switch.on:
        raise KeyboardInterrupt
