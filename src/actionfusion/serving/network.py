"""The network as the server uses it: one thread, in which clips that wait are answered together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from actionfusion.inference.exports.synthetic import SyntheticVideo
from actionfusion.inference.recognizer import Recognizer
from actionfusion.video.clip import Clip, cut_clip

Given = ParamSpec("Given")
Result = TypeVar("Result")
Row = npt.NDArray[np.float32]

# A batch must be so much faster for each clip: clips of a batch wait for each other.
_PAYS = 0.95
_MEASURED_SECONDS = 4.0


@dataclass(frozen=True, eq=False)
class _Task:
    clip: Clip | None
    work: Callable[[], Any] | None
    future: Future[Any] = field(default_factory=Future)


class Network:
    """Runs what needs the network, one after the other, and clips that wait together.

    Args:
        recognizer: the run.

    Attributes:
        batch: clips that are answered together at most.
        batches: how many runs there were, by the number of clips.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        self.batch = 1
        self.batches: dict[int, int] = {}
        self._recognizer = recognizer
        self._tasks: deque[_Task] = deque()
        self._changed = Condition()
        self._ended = False
        self._thread = Thread(target=self._run, name="network", daemon=True)

    def open(self, most: int) -> None:
        """Run the network once, so that no answer waits for its first run, and measure how many clips to join.

        Args:
            most: clips that may be joined.
        """
        clip = cut_clip(SyntheticVideo(self._recognizer.clip_settings, 2), self._recognizer.clip_settings)
        self._recognizer.probabilities([clip])
        began, best = time.perf_counter(), self._seconds([clip])
        size = 2
        while size <= most and time.perf_counter() - began + size * best < _MEASURED_SECONDS:
            each = self._seconds([clip] * size) / size
            if each < _PAYS * best:
                self.batch, best = size, each
            size *= 2
        self._thread.start()

    def _seconds(self, clips: list[Clip]) -> float:
        began = time.perf_counter()
        self._recognizer.probabilities(clips)
        return time.perf_counter() - began

    def close(self) -> None:
        """End the thread after what it is at."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    async def probabilities(self, clip: Clip) -> Row:
        """Compute the probabilities ``[K]`` of a clip.

        Raises:
            ActionFusionError: as ``Recognizer.probabilities``.
        """
        row: Row = await self._wait_for(_Task(clip, None))
        return row

    async def run(self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
        """Run a function in the network's thread."""
        result: Result = await self._wait_for(_Task(None, lambda: work(*given, **named)))
        return result

    async def _wait_for(self, task: _Task) -> Any:
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()
        return await asyncio.wrap_future(task.future)

    def _run(self) -> None:
        while (tasks := self._next()) is not None:
            # Who has gone meanwhile is not answered.
            wanted = [task for task in tasks if task.future.set_running_or_notify_cancel()]
            if not wanted:
                continue
            try:
                results = self._answer(wanted)
            except BaseException as error:  # noqa: BLE001  It is raised where the answer is awaited.
                for task in wanted:
                    task.future.set_exception(error)
                continue
            for task, result in zip(wanted, results, strict=True):
                task.future.set_result(result)

    def _next(self) -> list[_Task] | None:
        """Wait for the next task, and take the clips that wait behind it if it is a clip too."""
        with self._changed:
            while not self._tasks and not self._ended:
                self._changed.wait()
            if not self._tasks:
                return None
            first = self._tasks.popleft()
            if first.clip is None:
                return [first]
            others = [task for task in self._tasks if task.clip is not None][: self.batch - 1]
            for task in others:
                self._tasks.remove(task)
            return [first, *others]

    def _answer(self, tasks: list[_Task]) -> list[Any]:
        if tasks[0].work is not None:
            return [tasks[0].work()]
        clips = [task.clip for task in tasks if task.clip is not None]
        self.batches[len(clips)] = self.batches.get(len(clips), 0) + 1
        return list(self._recognizer.probabilities(clips))
