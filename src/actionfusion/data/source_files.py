"""What ``prepare`` makes an entry from: a video file or a folder of pictures, here or behind an address."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from actionfusion.data.layouts.tree import frame_files
from actionfusion.errors import DatasetError, NoFrames, VideoDamaged, VideoError, VideoMissing
from actionfusion.places import Place, local_copy
from actionfusion.remote_path import UNKNOWN_SIZE, RemotePath
from actionfusion.video.reading import Frame, iterate_frames

# A folder of pictures says nothing of its rate; clips go by frame numbers, and this only labels them with times.
PICTURES_A_SECOND = 25.0


@contextmanager
def _reading(source: Place) -> Iterator[None]:
    """Tells the faults of a video's disk from those of the store's."""
    try:
        yield
    except VideoError:
        raise
    except (OSError, DatasetError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise VideoMissing(source, f"cannot be read ({reason})", "check the path and your rights") from error


@contextmanager
def at_hand(source: Place) -> Iterator[Path]:
    """The video as a file, or as a folder of pictures, of this machine; see ``local_copy``."""
    with _reading(source):
        files = frame_files(source) if isinstance(source, RemotePath) and source.is_dir() else None
    with local_copy(source, files) as video:
        yield video


def read_all_frames(source: Path, size: int) -> Generator[Frame, None, None]:
    """All frames of a video file or of a folder of pictures, ``size`` x ``size``.

    Raises:
        VideoError: it cannot be read.
    """
    with _reading(source):
        yield from _read_pictures(source, size) if source.is_dir() else iterate_frames(source, size=size)


def _read_pictures(folder: Path, size: int) -> Iterator[Frame]:
    files = frame_files(folder)
    if not files:
        raise NoFrames(folder, "not one picture in this folder", "leave it out")
    for number, path in enumerate(files):
        data = np.frombuffer(path.read_bytes(), np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if picture is None:
            raise VideoDamaged(path, "this picture cannot be decoded", "replace it, or leave the video out")
        shrinks = min(picture.shape[:2]) >= size
        scaled = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        rgb = cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        yield Frame(number, number / PICTURES_A_SECOND, rgb)


def _files(source: Place) -> list[Place]:
    return frame_files(source) if source.is_dir() else [source]


def source_status_anew(source: Place) -> tuple[int, int]:
    """``source_status`` without what a far side has said before."""
    with _reading(source):
        if isinstance(source, RemotePath):
            source.forget()
    return source_status(source)


def source_status(source: Place) -> tuple[int, int]:
    """Bytes and latest change, in nanoseconds, of a file or of a folder's pictures.

    A far side that does not say them gives ``UNKNOWN_SIZE`` and 0.

    Raises:
        VideoMissing: nothing is there, or what is there is neither of them; so do all of these functions.
    """
    with _reading(source):
        if isinstance(source, RemotePath):
            source.stat(again=True)
        stats = [path.stat() for path in _files(source)]
        if not all(stat.S_ISREG(status.st_mode) for status in stats):
            raise VideoMissing(source, "this is not a file", "give the path of a video file")  # A pipe would block.
        sizes = [status.st_size for status in stats]
        size = UNKNOWN_SIZE if UNKNOWN_SIZE in sizes else sum(sizes)
        return size, max((status.st_mtime_ns for status in stats), default=0)


def source_hash(source: Path) -> str:
    """SHA-256 of a file; of a folder, that of its pictures' names and hashes."""
    with _reading(source):
        if not source.is_dir():
            with source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        lines = [f"{path.name}\0{source_hash(path)}\0" for path in frame_files(source)]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
