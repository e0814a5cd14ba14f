"""Compute flow in threads while the pictures are still being decoded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType

import numpy as np

from actionfusion.video.flow import FlowRecipe, UInt8Array, encoded_field, grey_picture
from actionfusion.video.pictures import resized
from actionfusion.video.threads import check_stop, flow_threads, one_opencv_thread


class FlowMaker:
    """Takes the pictures of a video one by one and computes the flow of each pair as soon as it is complete.

    Used as a context manager; leaving it ends its threads.  Every thread computes the same flow
    (``flow_engine``).  Of the pictures only the grey levels are kept, and only until their flow is computed.

    Args:
        pairs: first frames of the pairs, ascending, without repeats.
        recipe: engine, size and bound.
    """

    def __init__(self, pairs: Sequence[int], recipe: FlowRecipe) -> None:
        self._rows = {start: row for row, start in enumerate(pairs)}
        self._recipe = recipe
        self._fields = np.empty((len(pairs), recipe.size, recipe.size, 2), np.uint8)
        self._last: tuple[int, UInt8Array] | None = None
        self._pending: list[Future[None]] = []
        self._threads: ThreadPoolExecutor | None = None
        self._exit = ExitStack()

    def __enter__(self) -> FlowMaker:
        count = flow_threads()
        if count > 1 and self._rows:
            self._exit.enter_context(one_opencv_thread())
            self._threads = ThreadPoolExecutor(min(count, len(self._rows)), "flow")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the threads and drop the flow that is not begun."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._exit.close()

    def add(self, index: int, picture: UInt8Array) -> None:
        """Take the square picture of a frame; frames come in ascending order.

        Raises:
            ReadingStopped: see ``check_stop``.
        """
        if index not in self._rows and index - 1 not in self._rows:
            return
        check_stop()
        grey = grey_picture(resized(picture, self._recipe.size), self._recipe.size)
        row = self._rows.get(index - 1)
        if row is not None and self._last is not None and self._last[0] == index - 1:
            before = self._last[1]
            if self._threads is None:
                self._compute(row, before, grey)
            else:
                self._pending.append(self._threads.submit(self._compute, row, before, grey))
        self._last = index, grey

    def fields(self) -> UInt8Array:
        """Wait for the codes ``[len(pairs), size, size, 2]``, u then v; both pictures of each pair were added.

        Raises:
            ReadingStopped: see ``check_stop``.
        """
        for future in self._pending:
            check_stop()
            future.result()
        return self._fields

    def _compute(self, row: int, first: UInt8Array, second: UInt8Array) -> None:
        self._fields[row] = encoded_field(first, second, self._recipe)
