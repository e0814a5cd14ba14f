"""Run the process that holds the connection of a ``RayPool``, and the tasks on the cluster's machines.

It is a separate process because Ray prints into standard output, leaves handlers behind, searches for minutes for a
missing cluster, and ends the process whose cluster is lost.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2

from actionfusion.data.workers import WorkerDied, try_task
from actionfusion.process import STOPS
from actionfusion.version import __version__

_MOST_CRASHES = 3
_MOST_LOST_MACHINES = 5
# Twice the CPUs, so that none waits for its next task; some even if there are none yet, so that a cluster that grows on
# demand sees the demand.
_TASKS_A_CPU = 2
_FEWEST_TASKS = 16
_RESOURCES_SECONDS = 5.0
_WITHOUT_CPU_SECONDS = 600.0
_CANCEL_SECONDS = 5.0
_LONGEST_REASON = 400

Message = tuple[str, int, Any]
"""What happened, the number of the task, and what came of it."""


def serve(connection: Connection, address: str, workers: int | None, log: Path) -> None:
    """Connect, then work through incoming tasks until the other end of the pipe is closed."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # The parent has ended, in one way or the other.
        connection.send("started")
        _redirect_output(log)
        try:
            import ray  # noqa: PLC0415  An optional extra, and slow to import.

            ray.init(address=address, log_to_driver=False)
        except Exception as error:  # noqa: BLE001  Ray raises many kinds.
            connection.send(("unreachable", 0, _one_line(error)))
            return
        try:
            _answer(ray, connection, workers)
        finally:
            ray.shutdown()
    log.unlink(missing_ok=True)  # The parent may have been killed.


def _redirect_output(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _answer(ray: Any, connection: Connection, workers: int | None) -> None:
    connection.send(("connected", 0, None))
    while True:
        try:
            function, tasks = connection.recv()
            with closing(_work_through(ray, function, tasks, _Room(ray, workers), connection.poll)) as messages:
                for message in messages:
                    connection.send(message)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # noqa: BLE001  Whatever Ray raises for a cluster in trouble.
            connection.send(("unfit", 0, _one_line(error)))


def _one_line(error: Exception) -> str:
    """Give the message, or the last line of one with another machine's traceback."""
    text = str(error) or type(error).__name__
    if "ray::" in text or len(text) > _LONGEST_REASON:
        return next(line.strip() for line in reversed(text.split("\n")) if line.strip())
    return " ".join(text.split())


def _work_through(
    ray: Any, function: Callable[[Any], Any], tasks: Sequence[Any], room: _Room, stopped: Callable[[], bool]
) -> Generator[Message]:
    # Ray does not distinguish a crash from a lost machine when it counts retries.
    remote = ray.remote(num_cpus=1, max_retries=0)(_work)
    waiting = deque(range(len(tasks)))
    running: dict[Any, int] = {}
    ends: Counter[tuple[str, int]] = Counter()
    try:
        while (waiting or running) and not stopped():
            most = room.tasks()
            while waiting and len(running) < most:
                number = waiting.popleft()
                running[remote.remote(__version__, function, tasks[number])] = number
            for reference in _finished(ray, list(running)):
                number = running.pop(reference)
                outcome, value = _collect(ray, reference)
                ends[outcome, number] += 1
                if outcome == "done":
                    yield outcome, number, value
                elif outcome == "raised":
                    yield outcome, number, value
                    return
                elif ends[outcome, number] < (_MOST_CRASHES if outcome == "crashed" else _MOST_LOST_MACHINES):
                    waiting.appendleft(number)
                    yield "again", number, None
                else:
                    yield "died", number, WorkerDied(None, f"{value}, {ends[outcome, number]} times")
    finally:
        _cancel(ray, list(running))


def _finished(ray: Any, running: list[Any]) -> list[Any]:
    ready, _ = ray.wait(running, num_returns=1, timeout=1.0)
    if ready:
        ready, _ = ray.wait(running, num_returns=len(running), timeout=0)
    return list(ready)


def _collect(ray: Any, reference: Any) -> tuple[str, Any]:
    faults = ray.exceptions
    try:
        outcome: tuple[str, Any] = ray.get(reference)
    except faults.WorkerCrashedError:
        return "crashed", "on a machine of the Ray cluster"
    except faults.OutOfMemoryError:
        return "crashed", "on a machine of the Ray cluster that ran out of memory"
    except (faults.NodeDiedError, faults.ObjectLostError):
        return "lost", "with its machine of the Ray cluster"
    return outcome


def _cancel(ray: Any, running: list[Any]) -> None:
    with suppress(Exception):  # The connection may be lost, and then Ray itself ends them.
        for reference in running:
            ray.cancel(reference, force=True)
        if running:
            ray.wait(running, num_returns=len(running), timeout=_CANCEL_SECONDS)


class _Room:
    """Number of tasks in flight on the cluster, which follows its size."""

    def __init__(self, ray: Any, workers: int | None) -> None:
        self._ray, self._workers = ray, workers
        self._cpus = 0
        self._asked = float("-inf")
        self._had_cpus = time.monotonic()

    def tasks(self) -> int:
        """Give the number.

        Raises:
            TimeoutError: for ten minutes the cluster has had no CPU.
        """
        now = time.monotonic()
        if now - self._asked > _RESOURCES_SECONDS:
            self._asked, self._cpus = now, int(self._ray.cluster_resources().get("CPU", 0))
            if self._cpus:
                self._had_cpus = now
            elif now - self._had_cpus > _WITHOUT_CPU_SECONDS:
                raise TimeoutError(f"it has had no CPU for {_WITHOUT_CPU_SECONDS / 60:.0f} minutes")
        room = max(_TASKS_A_CPU * self._cpus, _FEWEST_TASKS)
        return room if self._workers is None else min(room, self._workers)


def _work(version: str, function: Callable[[Any], Any], task: Any) -> tuple[str, Any]:
    """Do one task on a machine of the cluster."""
    if version != __version__:
        raise RuntimeError(f"{platform.node()} has actionfusion {__version__}, but {version} is needed")
    cv2.setNumThreads(1)
    return try_task(function, task)
