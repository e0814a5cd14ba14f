"""Cut clips from a video file: frames and 8-bit flow, decoded on demand."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from functools import cached_property
from os import fspath

import numpy as np
import numpy.typing as npt

from actionfusion.errors import NoFrames, SettingsError
from actionfusion.video.clip import FrameCountChanged
from actionfusion.video.containers import LocalPath
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.flow_maker import FlowMaker
from actionfusion.video.pictures import UInt8Array, resized
from actionfusion.video.rates import WHOLE, FrameRates, Pace, frame_rate
from actionfusion.video.reading import Frame, count_frames, iterate_frames
from actionfusion.video.seeking import PacketIndex, PacketScan, SeekingFailed, scan_packets, seek_frames
from actionfusion.video.whole_files import known_frames

_Video = Generator[Frame, None, int] | Generator[Frame, None, None]
_Content = tuple[UInt8Array, UInt8Array, npt.NDArray[np.float64]]


class VideoSource:
    """Implements ``ClipSource`` on a video file.

    Args:
        path: the file.
        recipe: how flow is made.
        frame_size: height and width that frames are scaled to, the aspect not kept; the flow's size where None.
        num_frames: frames of the video as far as known, such as from a manifest; counted in the packets where None.
            Either is a guess that the first reading checks by decoding, unless this process has decoded
            the file whole before.
        seek: in a long video decode only the surroundings of the chosen frames, if that gives the same frames
            (``seeking``).  The packets then give the number of frames, and damage elsewhere in the file is not found.
        rates: of the videos that a run was trained on; the frames of a video at a far higher rate are thinned to it,
            and are numbered as if the others were not there.
    """

    def __init__(
        self,
        path: LocalPath,
        recipe: FlowRecipe,
        num_frames: int | None = None,
        *,
        frame_size: int | None = None,
        seek: bool = False,
        rates: FrameRates | None = None,
    ) -> None:
        self._path = path
        self.frame_size = frame_size or recipe.size
        self.recipe = recipe
        self._num_frames = num_frames
        self._is_verified = False
        self._seek = seek
        self._scan: PacketScan | None = None
        self._rates = rates

    @cached_property
    def pace(self) -> Pace:
        """How the frames of the file are taken.

        Raises:
            VideoError: the file cannot be opened as a video.
        """
        return WHOLE if self._rates is None else self._rates.pace(frame_rate(self._path))

    @property
    def num_frames(self) -> int:
        """Number of frames that are taken of the video: a guess until the first ``read``, right from then on.

        Raises:
            VideoError: the file cannot be opened as a video, or holds no frame.
        """
        return self.pace.count(self._frames_of_file)

    @property
    def _frames_of_file(self) -> int:
        if self._num_frames is None:
            known = known_frames(fspath(self._path))
            self._is_verified = known is not None
            if known is None and self._seek:
                self._scan = scan_packets(self._path)
                known = self._scan.num_frames
            self._num_frames = count_frames(self._path) if known is None else known
        if self._num_frames < 1:
            raise NoFrames(self._path, "its video stream holds not one frame", "leave it out")
        return self._num_frames

    def read(self, frames: Sequence[int], fields: Sequence[int]) -> _Content:
        """Read pictures and compute flow, decoding the file once and keeping only the pictures that are needed.

        Flow is computed while the rest is decoded, in as many threads as OpenCV may use (``cv2.getNumThreads``).  A
        file is decoded to its end the first time that this process reads it, and then no further than needed.

        Args:
            frames: frame numbers, ascending, without repeats.
            fields: first frames of the flow frames, ascending, without repeats.

        Returns:
            Frames ``[len(frames), frame_size, frame_size, 3]`` RGB, codes ``[len(fields), size, size, 2]``, and the
            frames' times in seconds ``[len(frames)]``.

        Raises:
            FrameCountChanged: decoding to the end gave another number of frames than ``num_frames``, which is now
                corrected.
            SettingsError: a frame beyond the end.
            VideoError: the file cannot be read; see ``iterate_frames``.
        """
        whole = None if self._is_verified else known_frames(fspath(self._path))
        if whole is not None:
            self._verify(whole)
        needed = sorted(self.pace.source(index) for index in {*frames, *fields, *(start + 1 for start in fields)})
        size = max(self.frame_size, self.recipe.size) if fields else self.frame_size
        index = self._index(needed)
        if index is not None:
            with suppress(SeekingFailed):
                return self._collect(seek_frames(self._path, index, needed, size), frames, fields, needed)
            self._seek = False
        return self._collect(iterate_frames(self._path, wanted=needed, size=size), frames, fields, needed)

    def _collect(self, video: _Video, frames: Sequence[int], fields: Sequence[int], needed: Sequence[int]) -> _Content:
        size = self.frame_size
        images, times = np.empty((len(frames), size, size, 3), np.uint8), np.zeros(len(frames))
        row = {index: place for place, index in enumerate(frames)}
        found = 0
        with closing(video), FlowMaker(fields, self.recipe) as flow:
            while not self._is_verified or found < len(needed):
                try:
                    frame = next(video)
                except StopIteration as end:
                    if end.value is not None:
                        self._verify(end.value)
                    break
                index = self.pace.index(frame.index)
                assert index is not None
                if index in row:
                    images[row[index]], times[row[index]] = resized(frame.image, size), frame.time
                flow.add(index, frame.image)
                found += 1
            if found < len(needed):
                reason = f"there is no frame {needed[-1]} among its {self._frames_of_file} frames"
                raise SettingsError(self._path, reason, f"take frames 0 to {self.num_frames - 1}")
            return images, flow.fields(), times

    def _index(self, needed: Sequence[int]) -> PacketIndex | None:
        """Return the index to seek with, if seeking is allowed, possible and worth it."""
        if not self._seek or not needed:
            return None
        self._scan = self._scan or scan_packets(self._path)
        index = self._scan.index
        if index is None or index.num_frames != self._frames_of_file or not index.pays(needed):
            return None
        return index

    def _verify(self, num_frames: int) -> None:
        is_as_said = num_frames == self._frames_of_file
        self._num_frames = num_frames
        self._is_verified = True
        if not is_as_said:
            raise FrameCountChanged(fspath(self._path))
