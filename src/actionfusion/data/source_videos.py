"""Hash and decode a source video: a file or a folder of pictures, local or remote.

Errors of the disk are faults of the video here (``VideoError``), so that callers can distinguish them from their own.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.data.layouts.tree import frame_files
from actionfusion.errors import DatasetError, NoFrames, VideoError, VideoMissing, VideoUnreadable
from actionfusion.remote_path import UNKNOWN_SIZE, RemotePath
from actionfusion.storage import AnyPath, local_copy
from actionfusion.video.flow import FlowRecipe, compute_flow
from actionfusion.video.pictures import UInt8Array, resized
from actionfusion.video.reading import Frame, count_frames, iterate_frames
from actionfusion.video.still_pictures import read_picture

# A folder of pictures says nothing of its rate; clips go by frame numbers, and this only labels them with times.
PICTURES_A_SECOND = 25.0


@contextmanager
def _reading(source: AnyPath) -> Iterator[None]:
    """Turn faults of a video's disk into ``VideoMissing``, to separate them from faults of the store's disk."""
    try:
        yield
    except VideoError:
        raise
    except (OSError, DatasetError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise VideoUnreadable.because_of(error, source, f"cannot be read ({reason})") from error


@contextmanager
def at_hand(source: AnyPath) -> Iterator[Path]:
    """Give the video as a local file or folder of pictures; see ``local_copy``."""
    with _reading(source):
        files = frame_files(source) if isinstance(source, RemotePath) and source.is_dir() else None
    with local_copy(source, files) as video:
        yield video


def read_source_frames(
    source: Path, size: int, wanted: Collection[int] | None = None, unscaled: Collection[int] = ()
) -> Generator[Frame, None, int]:
    """Yield the frames of a video file or of a folder of pictures; all are decoded.

    Args:
        source: the video.
        size: frames are scaled to ``size`` x ``size`` pixels.
        wanted: the frames to give; all of them where None.
        unscaled: those among them that come at their own size too; see ``iterate_frames``.

    Returns:
        As the generator's return value, how many frames there are.

    Raises:
        VideoError: it cannot be read; see ``iterate_frames``.
    """
    with _reading(source):
        if not source.is_dir():
            return (yield from iterate_frames(source, size=size, wanted=wanted, unscaled=unscaled))
        files = _pictures(source)
        for number, path in enumerate(files):
            picture = read_picture(path)
            if wanted is None or number in wanted:
                whole = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8) if number in unscaled else None
                yield Frame(number, number / PICTURES_A_SECOND, _scaled(picture, size), whole)
        return len(files)


def guess_frames(source: Path) -> int:
    """Estimate the number of frames from a file's packets or a folder's names; decoding may correct it.

    Raises:
        VideoError: it cannot be opened.
    """
    with _reading(source):
        return len(frame_files(source)) if source.is_dir() else count_frames(source)


def _pictures(folder: Path) -> list[Path]:
    files = frame_files(folder)
    if not files:
        raise NoFrames(folder, "not one picture in this folder", "leave it out")
    return files


def _scaled(bgr: UInt8Array, size: int) -> UInt8Array:
    shrinks = min(bgr.shape[:2]) >= size
    scaled = cv2.resize(bgr, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


class PictureFolderSource:
    """Implements ``ClipSource`` on a folder of pictures; only the pictures that are asked for are decoded.

    Args:
        folder: the folder.
        recipe: how flow is made.
        frame_size: height and width of the frames; the flow's size where None.
    """

    def __init__(self, folder: Path, recipe: FlowRecipe, frame_size: int | None = None) -> None:
        self._folder, self.recipe, self.frame_size = folder, recipe, frame_size or recipe.size
        self._files: list[Path] | None = None

    @property
    def num_frames(self) -> int:
        """Number of pictures in the folder, at least 1.

        Raises:
            VideoError: the folder cannot be read, or holds no picture.
        """
        if self._files is None:
            with _reading(self._folder):
                self._files = _pictures(self._folder)
        return len(self._files)

    def read(
        self, frames: Sequence[int], fields: Sequence[int]
    ) -> tuple[UInt8Array, UInt8Array, npt.NDArray[np.float64]]:
        """Read pictures and compute flow; see ``ClipSource.read``.

        Raises:
            VideoError: a picture cannot be read.
        """
        assert self.num_frames
        files = self._files or []
        with _reading(self._folder):
            size = max(self.frame_size, self.recipe.size) if fields else self.frame_size
            needed = sorted({*frames, *fields, *(start + 1 for start in fields)})
            pictures = {number: _scaled(read_picture(files[number]), size) for number in needed}
        codes = compute_flow(
            {number: resized(picture, self.recipe.size) for number, picture in pictures.items()} if fields else {},
            fields,
            self.recipe,
        )
        rgb = np.stack([resized(pictures[number], self.frame_size) for number in frames])
        return rgb, codes, np.array(frames) / PICTURES_A_SECOND


def source_status_anew(source: AnyPath) -> tuple[int, int]:
    """Give ``source_status`` without cached answers of a server."""
    with _reading(source):
        if isinstance(source, RemotePath):
            source.forget()
    return source_status(source)


def source_status(source: AnyPath) -> tuple[int, int]:
    """Give bytes and latest change, in nanoseconds, of a file or of a folder's pictures.

    If a server does not say them, they are ``UNKNOWN_SIZE`` and 0.

    Raises:
        VideoMissing: nothing is there, or what is there is neither of them; so do all of these functions.
        VideoUnreadable: it cannot be read.
    """
    with _reading(source):
        if isinstance(source, RemotePath):
            source.stat(again=True)
        stats = [path.stat() for path in (frame_files(source) if source.is_dir() else [source])]
        if not all(stat.S_ISREG(status.st_mode) for status in stats):
            raise VideoMissing(source, "this is not a file", "give the path of a video file")  # A pipe would block.
        sizes = [status.st_size for status in stats]
        size = UNKNOWN_SIZE if UNKNOWN_SIZE in sizes else sum(sizes)
        return size, max((status.st_mtime_ns for status in stats), default=0)


def source_hash(source: Path) -> str:
    """Compute the SHA-256 of a file, or of the names and hashes of a folder's pictures."""
    with _reading(source):
        if not source.is_dir():
            with source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        lines = [f"{path.name}\0{source_hash(path)}\0" for path in frame_files(source)]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
