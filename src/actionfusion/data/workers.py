"""Work through many files on all cores, even if a process dies on the way."""

from __future__ import annotations

import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, TypeVar, cast

import cv2

from actionfusion.errors import ActionFusionError, SettingsError
from actionfusion.process import STOPS, stops_held_back
from actionfusion.video.threads import one_opencv_thread, usable_cores

Task = TypeVar("Task")
Result = TypeVar("Result")

_PATIENCE = 5.0  # seconds for a process to end by itself

# A fresh interpreter: to fork a process that has threads (OpenCV, PyTorch) can lock up its child.
SPAWN = get_context("spawn")
ENDED_AT_ONCE = (
    "a worker process ended before its first task ({}); a script that starts such work needs "
    '`if __name__ == "__main__":` around it'
)


@dataclass(frozen=True)
class WorkerDied:
    """Result of a task whose process died.

    Attributes:
        exit_code: as the system gives it; the negative number of a signal; None if it is unknown.
        reason: used if there is no exit code.
    """

    exit_code: int | None
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        if self.exit_code is not None and self.exit_code < 0:
            return signal.strsignal(-self.exit_code) or f"signal {-self.exit_code}"
        return f"exit code {self.exit_code}"


class WorkerPool:
    """Pool of processes, each with one task at a time and one OpenCV thread.

    Unlike in the standard library's pools, a process that dies costs its own task alone, and leaving by an exception
    (Ctrl-C among them) ends all processes at once.  They start when first needed.

    Args:
        workers: number of processes; one a core if None; 0 works in this process.

    Attributes:
        repeated: see ``Pool``; here no task is begun twice.

    Raises:
        SettingsError: a negative number.
    """

    repeated: Collection[object] = ()

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 0:
            raise SettingsError("workers", f"{workers} processes", "take 1 or more, or 0 for this process")
        self._count = usable_cores() if workers is None else workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they do."""
        for worker in self._workers:
            worker.end()

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Result | WorkerDied]]:
        """Yield each task with the function's result, in the order of completion; the function is one of a module.

        Raises:
            ActionFusionError: the function raised it.
            RuntimeError: the function raised something else, or a process ended before its first task.
        """
        if not self._count:
            with one_opencv_thread():
                for task in tasks:
                    yield task, function(task)
            return
        waiting = deque(enumerate(tasks))
        while waiting or any(worker.state == "working" for worker in self._workers):
            self._give_out(function, waiting)
            awaited = [worker for worker in self._workers if worker.state != "idle"]
            ready = wait([worker.connection for worker in awaited])
            for worker in [worker for worker in awaited if worker.connection in ready]:
                number = worker.task
                reply = self._reply(worker)
                if number is not None:
                    yield tasks[number], cast("Result | WorkerDied", reply)

    def _give_out(self, function: Callable[[Task], Result], waiting: deque[tuple[int, Task]]) -> None:
        for worker in self._workers:
            if worker.state == "idle" and waiting:
                worker.give(function, *waiting.popleft())
        starting = sum(worker.state == "starting" for worker in self._workers)
        for _ in range(min(len(waiting) - starting, self._count - len(self._workers))):
            self._workers.append(_Worker())

    def _reply(self, worker: _Worker) -> object:
        try:
            outcome, value = worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            died = WorkerDied(worker.exit_code())
            if worker.state == "starting":
                raise RuntimeError(ENDED_AT_ONCE.format(died)) from None
            return died
        worker.state, worker.task = "idle", None
        if outcome == "raised":
            raise raised_by_worker(value)
        return value


def try_task(function: Callable[[Task], Any], task: Task) -> tuple[str, Any]:
    """Return ``done`` with the function's result, or ``raised`` with the arguments of ``raised_by_worker``."""
    try:
        return "done", function(task)
    except ActionFusionError as error:
        return "raised", error
    except Exception:  # noqa: BLE001  It is raised in the parent.
        return "raised", traceback.format_exc()


def raised_by_worker(value: ActionFusionError | str) -> Exception:
    """Rebuild an exception of another process."""
    return RuntimeError(f"a worker process failed:\n{value}") if isinstance(value, str) else value


class _Worker:
    """A process, with this end of its pipe.

    Attributes:
        state: ``starting`` until it has reported once.
        task: number of the task that it is at.
    """

    def __init__(self) -> None:
        self.connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
        with interrupts_held_back():
            self._process.start()
        theirs.close()
        self.state: Literal["starting", "idle", "working"] = "starting"
        self.task: int | None = None

    def give(self, function: Callable[[Task], Any], number: int, task: Task) -> None:
        """Give it a task."""
        self.state, self.task = "working", number
        with suppress(BrokenPipeError):  # It has died; the wait for its answer finds out.
            self.connection.send((function, task))

    def end(self) -> None:
        """End the process, in the middle of its work if need be."""
        if self.state == "idle":
            self.connection.close()
            self._process.join(_PATIENCE)
        self._process.kill()
        self._process.join()
        self.connection.close()

    def exit_code(self) -> int | None:
        """Wait for a process that has closed its end of the pipe, and give its exit code."""
        self._process.join(_PATIENCE)
        self.end()
        return self._process.exitcode


def _serve(connection: Connection) -> None:
    for number in STOPS:  # The parent sees them too, and ends this process.
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # The parent has ended, in one way or the other.
        connection.send(("ready", None))
        while True:
            function, task = connection.recv()
            connection.send(try_task(function, task))


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Hide Ctrl-C, SIGTERM and SIGHUP from processes that start meanwhile: their parent sees them and ends them."""
    with stops_held_back():
        if sys.platform != "win32":
            resource_tracker.ensure_running()  # which would not hide itself from SIGHUP
        with stops_held_back():  # again, since the tracker's start lets through Ctrl-C and SIGTERM
            yield
