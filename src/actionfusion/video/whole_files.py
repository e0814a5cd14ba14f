"""Remember which files this process has decoded to the end without a fault, and their number of frames.

So training straight from video decodes each file whole once a process, and afterwards only as far as a clip reaches.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock
from time import time_ns

Identity = tuple[int, ...]

# A file system's clock ticks every few milliseconds, some every 2 s: two states within one tick look the same.
_TICK = 2 * 10**9
_MOST_KNOWN = 2**15

_known: dict[str, tuple[Identity, int]] = {}
_lock = Lock()


def known_frames(path: str) -> int | None:
    """Give the frames of the file, if it is known and its device, number, size and times are the same."""
    known = _known.get(path)
    return known[1] if known is not None and known[0] == identity(path) else None


def note_whole(path: str, before: Identity | None, num_frames: int) -> None:
    """Remember a file that was decoded whole.

    Args:
        path: the file.
        before: its ``identity`` before the decoding began.  One that has changed meanwhile, or just before, is not
            remembered.
        num_frames: that decoding gave.
    """
    if before is None or before != identity(path) or time_ns() - max(before[-2:]) < _TICK:
        return
    with _lock:
        _known.pop(path, None)
        _known[path] = before, num_frames
        if len(_known) > _MOST_KNOWN:
            del _known[next(iter(_known))]


def forget(path: str) -> None:
    """Forget a file, so that it is read as one that this process does not know."""
    with _lock:
        _known.pop(path, None)


def identity(path: str) -> Identity | None:
    """Give what distinguishes this state of a file from another; None if nothing does."""
    try:
        status: os.stat_result = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
