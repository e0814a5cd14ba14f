"""Clips of many videos, cut in threads ahead of the network that takes them."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from threading import Event
from typing import TypeVar

from actionfusion.errors import SettingsError, VideoError
from actionfusion.video.clip import Clip
from actionfusion.video.threads import Share, one_opencv_thread, sharing

Video = TypeVar("Video")

AHEAD = 2
"""Clips that wait for the network beside those that are being cut."""


def clips_ahead(
    cut: Callable[[Video], Clip], videos: Iterable[Video], workers: int | None = None
) -> Generator[tuple[Video, Clip | VideoError], None, None]:
    """The clip of each video, or why there is none, in the order of the videos.

    Threads cut the clips of the videos that follow while the caller works on one; at most ``workers + AHEAD`` of them
    are in memory at a time, however many videos there are and however long each is.  Decoding, scaling and flow all
    let go of Python's lock, so threads keep all cores busy.  Closing the generator stops the threads within a packet or
    a flow field, and waits for them.

    Args:
        cut: makes a clip, such as ``Recognizer.clip``; called from several threads at once.
        videos: paths, or whatever ``cut`` takes.
        workers: threads; one a core if None; 0 cuts each clip when it is asked for.

    Raises:
        SettingsError: a negative number of workers.
        Exception: whatever ``cut`` raises beside a ``VideoError``, in the place of that video.
    """
    if workers is not None and workers < 0:
        raise SettingsError("workers", f"{workers} threads", "take 1 or more, or 0 for none")
    cores = _cores()
    waiting = iter(videos)
    first = list(islice(waiting, (cores if workers is None else workers) + AHEAD))
    workers = min(cores, len(first)) if workers is None else workers
    if not workers or len(first) < 2:
        for video in (*first, *waiting):
            yield video, _attempt(cut, video)
        return
    share = Share(max(cores // workers, 1), Event())
    with ExitStack() as stack:
        if share.threads == 1:
            stack.enter_context(one_opencv_thread())
        pool = stack.enter_context(ThreadPoolExecutor(workers, "clips"))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        stack.callback(share.stop.set)
        started = deque((video, pool.submit(_attempt_within, share, cut, video)) for video in first)
        while started:
            video, future = started.popleft()
            yield video, future.result()
            started.extend((each, pool.submit(_attempt_within, share, cut, each)) for each in islice(waiting, 1))


def _attempt_within(share: Share, cut: Callable[[Video], Clip], video: Video) -> Clip | VideoError:
    with sharing(share):
        return _attempt(cut, video)


def _attempt(cut: Callable[[Video], Clip], video: Video) -> Clip | VideoError:
    try:
        return cut(video)
    except VideoError as error:
        return error


def _cores() -> int:
    return (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()) or 1
