"""Cut clips from a remote video: fetched whole when it is first read, and removed with the object."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from actionfusion.remote_path import RemotePath
from actionfusion.storage import errors_name, local_copy
from actionfusion.video.clip import FrameCountChanged
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.pictures import UInt8Array
from actionfusion.video.rates import FrameRates, Pace
from actionfusion.video.video_source import VideoSource


class FetchedVideo:
    """Implements ``ClipSource`` on a video behind an address.

    Each object fetches the video anew, as training does for each clip: for more than a look at it, prepare it once, or
    let fsspec keep copies (``filecache::s3://...``).

    Args:
        path: the video.
        recipe: see ``VideoSource``.
        frame_size: see ``VideoSource``.
        rates: see ``VideoSource``.
    """

    def __init__(
        self, path: RemotePath, recipe: FlowRecipe, frame_size: int | None = None, rates: FrameRates | None = None
    ) -> None:
        self._path, self.recipe, self.frame_size = path, recipe, frame_size or recipe.size
        self._video: tuple[VideoSource, Path] | None = None
        self._rates = rates
        self._copy = ExitStack()
        weakref.finalize(self, self._copy.close)

    @property
    def num_frames(self) -> int:
        """Number of frames; see ``VideoSource.num_frames``.

        Raises:
            VideoError: it cannot be fetched, or read.
        """
        with self._fetched() as video:
            return video.num_frames

    @property
    def pace(self) -> Pace:
        """How the frames of the video are taken; see ``VideoSource.pace``.

        Raises:
            VideoError: it cannot be fetched, or read.
        """
        with self._fetched() as video:
            return video.pace

    def read(
        self, frames: Sequence[int], fields: Sequence[int]
    ) -> tuple[UInt8Array, UInt8Array, npt.NDArray[np.float64]]:
        """Read pictures and compute flow; see ``VideoSource.read``.

        Raises:
            VideoError: it cannot be fetched, or read.
        """
        with self._fetched() as video:
            return video.read(frames, fields)

    @contextmanager
    def _fetched(self) -> Iterator[VideoSource]:
        """Give the video, with errors that name its address."""
        if self._video is None:
            copy = self._copy.enter_context(local_copy(self._path))
            self._video = VideoSource(copy, self.recipe, frame_size=self.frame_size, rates=self._rates), copy
        video, copy = self._video
        try:
            with errors_name(self._path, copy):
                yield video
        except FrameCountChanged as changed:
            raise FrameCountChanged(str(self._path)) from changed
