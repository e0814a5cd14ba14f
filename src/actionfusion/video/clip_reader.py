"""Cut clips of many videos in threads, for prediction, evaluation and the calibration of int8 alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from itertools import islice
from threading import Event
from typing import TypeVar

from actionfusion.errors import SettingsError, VideoError
from actionfusion.video.threads import Share, one_opencv_thread, sharing, usable_cores
from actionfusion.video.unforeseen import unforeseen_faults

Video = TypeVar("Video")
Cut = TypeVar("Cut")

CLIPS_A_WORKER = 2
"""Clips in memory, cut or being cut, for each thread."""


def clips_ahead(
    cut: Callable[[Video], Cut],
    videos: Iterable[Video],
    *,
    workers: int | None = None,
    overlap: bool = False,
    clips_each: int = 1,
) -> Generator[tuple[Video, Cut | VideoError], None, None]:
    """Cut the clips of each video, or catch why there are none, in the order of the videos.

    Decoding, scaling and flow let go of Python's lock, so threads that each cut a clip keep all cores busy.  At most
    ``CLIPS_A_WORKER * workers`` clips are in memory, or one video's for each thread where these are more, however many
    videos there are and however long each is.  Closing the generator stops the threads within a packet or a flow
    frame, and waits for them.

    Args:
        cut: makes the clip of a video, such as ``Recognizer.clip``, or a list of clips; called from several threads at
            once.
        videos: paths, or anything else that ``cut`` takes.
        workers: threads; one a core if None; 0 cuts each clip when it is asked for.
        overlap: go on cutting while the caller works on a clip.  That is for a caller whose work is elsewhere, on a
            GPU.  Work on the same cores is done sooner if the two take turns: PyTorch's threads wait for each other
            all the time, and wait long where one has lost its core (``benchmarks/whole_path.py``).
        clips_each: clips that ``cut`` makes of one video.

    Raises:
        SettingsError: a negative number of workers.
        ActionFusionError: what ``cut`` raises of this family beside a ``VideoError``, in the place of that video.  An
            exception of another family becomes that video's ``VideoError``.
    """
    if workers is not None and workers < 0:
        raise SettingsError("workers", f"{workers} threads", "take 1 or more, or 0 for none")
    cores = usable_cores()
    workers = cores if workers is None else workers
    room = max(CLIPS_A_WORKER * workers // clips_each, workers)
    waiting = iter(videos)
    first = list(islice(waiting, room))
    if len(first) < 2:
        for video in (*first, *waiting):
            yield video, _attempt(cut, video)
        return
    workers = min(workers, len(first))
    share = Share(max(cores // workers, 1), Event())
    with ExitStack() as stack:
        if share.threads == 1:
            stack.enter_context(one_opencv_thread())
        pool = stack.enter_context(ThreadPoolExecutor(workers, "clips"))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        stack.callback(share.stop.set)
        started: deque[tuple[Video, Future[Cut | VideoError]]] = deque()
        coming = first
        while True:
            started.extend((video, pool.submit(_attempt_within, share, cut, video)) for video in coming)
            if not started:
                return
            if not overlap:
                wait([future for _, future in started])
            video, future = started.popleft()
            yield video, future.result()
            coming = list(islice(waiting, room - len(started))) if overlap or not started else []


def _attempt_within(share: Share, cut: Callable[[Video], Cut], video: Video) -> Cut | VideoError:
    with sharing(share):
        return _attempt(cut, video)


def _attempt(cut: Callable[[Video], Cut], video: Video) -> Cut | VideoError:
    try:
        with unforeseen_faults(video):
            return cut(video)
    except VideoError as error:
        return error
