"""What threads that read videos have to agree on: OpenCV's own threads, their share of the cores, and when to stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Event, Lock

import cv2


def usable_cores() -> int:
    """Cores that this process may run on, at least 1."""
    return (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()) or 1


class ReadingStopped(Exception):
    """Whoever wanted the video wants it no more; a message to the one who asked for the stop."""


@dataclass(frozen=True)
class Share:
    """What a thread is given that prepares videos beside others.

    Attributes:
        threads: threads that it may compute flow in, itself not counted if they are more than one.
        stop: once set, reading ends with ``ReadingStopped`` before the next packet or flow field.
    """

    threads: int
    stop: Event


_share: ContextVar[Share | None] = ContextVar("share", default=None)


@contextmanager
def sharing(share: Share) -> Iterator[None]:
    """What this thread reads meanwhile keeps to its share."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def check_stop() -> None:
    """Raise ReadingStopped if this thread's share has been called back."""
    share = _share.get()
    if share is not None and share.stop.is_set():
        raise ReadingStopped


def flow_threads() -> int:
    """Threads that this thread may compute flow in: those of its share, else as many as OpenCV may use."""
    share = _share.get()
    return cv2.getNumThreads() if share is None else share.threads


class _OpenCVThreads:
    """OpenCV has one number of threads for the whole process, so those who want one at the same time are counted."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._holders = 0
        self._before = 1

    def hold(self) -> None:
        with self._lock:
            if not self._holders:
                self._before = cv2.getNumThreads()
                cv2.setNumThreads(1)
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders:
                cv2.setNumThreads(self._before)


_opencv_threads = _OpenCVThreads()


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """OpenCV keeps to one thread meanwhile; any threads may ask for it at once.

    Two threads that each call OpenCV with threads of its own get in each other's way: on two cores they were slower
    than one of them alone.
    """
    _opencv_threads.hold()
    try:
        yield
    finally:
        _opencv_threads.release()
