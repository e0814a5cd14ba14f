"""A buffer of one item between capture and answers, so that a slow machine answers the newest sample."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition
from typing import Generic, TypeVar

Item = TypeVar("Item")
Note = TypeVar("Note")

MAX_NOTES = 16
"""Notes that wait at most; the oldest makes room."""

# Python on Windows cannot be interrupted while it waits without a timeout.
_TURN = 0.5


class LatestBuffer(Generic[Item, Note]):
    """Holds at most one item, and the notes that were left around it, in order.

    Attributes:
        dropped: items that a newer one replaced before they were taken.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._changed = Condition()
        self._before: deque[Note] = deque(maxlen=MAX_NOTES)
        self._item: list[Item] = []
        self._after: deque[Note] = deque(maxlen=MAX_NOTES)
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None

    def put(self, item: Item, *, may_drop: bool) -> None:
        """Leave an item for the reader; it is dropped if the reader has gone.

        Args:
            item: the newest.
            may_drop: replace one that still waits, which is counted; else wait until it is taken.
        """
        with self._changed:
            while self._item and not may_drop and not self._closed:
                self._changed.wait(_TURN)
            if self._closed:
                return
            self.dropped += len(self._item)
            self._before += self._after
            self._after.clear()
            self._item = [item]
            self._changed.notify_all()

    def note(self, note: Note) -> None:
        """Leave a note, which is read after what is there already; it never waits."""
        with self._changed:
            (self._after if self._item else self._before).append(note)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end of the items; the reader gets the error after the last."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Release a writer that waits, since the reader has gone."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item | Note]:
        """Yield items and notes as they come, until the end."""
        while True:
            with self._changed:
                while not (self._before or self._item or self._ended):
                    self._changed.wait(_TURN)
                if self._before:
                    entry: Item | Note = self._before.popleft()
                elif self._item:
                    entry = self._item.pop()
                    self._before, self._after = self._after, self._before
                    self._changed.notify_all()
                elif self._error is not None:
                    raise self._error
                else:
                    return
            yield entry
