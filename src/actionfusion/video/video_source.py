"""A video file as the source of clips: frames and 8-bit flow, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from os import fspath

import numpy as np
import numpy.typing as npt

from actionfusion.errors import NoFrames
from actionfusion.video.clip import FrameCountChanged
from actionfusion.video.containers import AnyPath
from actionfusion.video.flow import FlowRecipe, flow_fields
from actionfusion.video.pictures import UInt8Array
from actionfusion.video.reading import count_frames, read_frames
from actionfusion.video.whole_files import known_frames


class VideoSource:
    """Implements ``ClipSource`` on a video file.

    Args:
        path: the file.
        recipe: how flow is made; its ``size`` is the size of the frames, to which they are scaled plainly
            (specification A2-30).
        num_frames: frames of the video as far as known, such as from a manifest; counted in the packets where None.
            Either is a guess that the first reading checks, since only decoding tells; unless this process has decoded
            the file whole before.
    """

    def __init__(self, path: AnyPath, recipe: FlowRecipe, num_frames: int | None = None) -> None:
        self._path = path
        self._recipe = recipe
        self._num_frames = num_frames
        self._is_verified = False

    @property
    def recipe(self) -> FlowRecipe:
        """The recipe of the flow that ``read`` gives."""
        return self._recipe

    @property
    def num_frames(self) -> int:
        """Frames of the video: a guess until the first ``read``, right from then on.

        Raises:
            VideoError: the file cannot be opened as a video, or holds no frame.
        """
        if self._num_frames is None:
            known = known_frames(fspath(self._path))
            self._is_verified = known is not None
            self._num_frames = known or count_frames(self._path)
        if self._num_frames < 1:
            raise NoFrames(self._path, "its video stream holds not one frame", "leave it out")
        return self._num_frames

    def read(
        self, frames: Sequence[int], fields: Sequence[int]
    ) -> tuple[UInt8Array, UInt8Array, npt.NDArray[np.float64]]:
        """Read pictures and compute flow, decoding the file once and keeping only the pictures that are needed.

        A file is decoded to its end the first time that this process reads it, and then no further than needed.

        Args:
            frames: frame numbers, ascending, without doubles.
            fields: first frames of flow fields, ascending, without doubles.

        Returns:
            Frames ``[len(frames), size, size, 3]`` RGB, codes ``[len(fields), size, size, 2]``, and the frames' times
            in seconds ``[len(frames)]``.

        Raises:
            FrameCountChanged: decoding to the end gave another number of frames than ``num_frames`` had said; it is
                right now.
            VideoError: the file cannot be read; see ``iterate_frames``.
        """
        needed = sorted({*frames, *fields, *(start + 1 for start in fields)})
        whole = None if self._is_verified else known_frames(fspath(self._path))
        if whole is not None:
            self._verify(whole)
        known = self._num_frames if self._is_verified else None
        video = read_frames(self._path, needed, size=self._recipe.size, num_frames=known, strict=self._is_verified)
        if not self._is_verified:
            self._verify(video.num_frames)
        # ``needed`` is sorted and holds p and p + 1, so they lie in neighbouring rows.
        row = {index: place for place, index in enumerate(needed)}
        codes = flow_fields(video.images, [row[start] for start in fields], self._recipe)
        rows = [row[index] for index in frames]
        return video.images[rows], codes, video.times[rows]

    def _verify(self, num_frames: int) -> None:
        is_as_said = num_frames == self.num_frames
        self._num_frames = num_frames
        self._is_verified = True
        if not is_as_said:
            raise FrameCountChanged(fspath(self._path))
