"""Coordinate threads that read videos: OpenCV's threads, their share of the cores, and stopping."""

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
    """Count the cores that this process may run on, at least 1."""
    return (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()) or 1


class ReadingStopped(Exception):
    """The video is not wanted any more; caught by the caller that stopped the reading."""


@dataclass(frozen=True)
class Share:
    """Share of the cores for a thread that prepares videos beside others.

    Attributes:
        threads: threads that it may compute flow in, itself not counted if they are more than one.
        stop: once set, reading ends with ``ReadingStopped`` before the next packet or flow frame.
    """

    threads: int
    stop: Event


_share: ContextVar[Share | None] = ContextVar("share", default=None)


@contextmanager
def sharing(share: Share) -> Iterator[None]:
    """Limit this thread's reading to its share while the block lasts."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def check_stop() -> None:
    """Raise ReadingStopped if this thread's share has been revoked."""
    share = _share.get()
    if share is not None and share.stop.is_set():
        raise ReadingStopped


def flow_threads() -> int:
    """Count the threads that this thread may compute flow in: those of its share, else OpenCV's."""
    share = _share.get()
    return cv2.getNumThreads() if share is None else share.threads


class _OpenCVThreads:
    """Counts the users of one OpenCV thread: OpenCV has one number of threads for the whole process."""

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
    """Keep OpenCV to one thread while the block lasts; any threads may enter it at once.

    Two threads that each call OpenCV with several threads compete: on two cores they were slower than one of them
    alone.
    """
    _opencv_threads.hold()
    try:
        yield
    finally:
        _opencv_threads.release()
