"""Read a segment of a video as if it were a video of its own.

Only decoding shows when each frame comes, so a video is decoded once a process for the times of its frames; these are
kept for its other segments.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from actionfusion.data.segments import Segment
from actionfusion.data.source_videos import PICTURES_A_SECOND, PictureFolderSource, guess_frames, read_source_frames
from actionfusion.errors import VideoError
from actionfusion.video.clip import ClipSource
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.pictures import UInt8Array
from actionfusion.video.rates import WHOLE, FrameRates, Pace
from actionfusion.video.reading import Frame
from actionfusion.video.video_source import VideoSource
from actionfusion.video.whole_files import Identity, identity

_MOST_KNOWN = 64
# Times alone are wanted, so the pictures are made as small as need be.
_SMALLEST = 8

_known: dict[Path, tuple[Identity | None, npt.NDArray[np.float64]]] = {}


def segment_bounds(video: Path, segment: Segment) -> tuple[int, int]:
    """Find the first frame of a segment, and the one after its last.

    Raises:
        VideoError: the video cannot be read to its end, or does not have this segment; a folder of pictures says
            nothing of seconds.
    """
    return segment.bounds(_times(video, segment), video)


def _times(video: Path, segment: Segment) -> npt.NDArray[np.float64]:
    """Give the seconds of all frames ``[N]``."""
    if video.is_dir():
        if segment.unit == "t":
            reason = f"its pictures have no times, and its segment is {segment}"
            raise VideoError(video, reason, "give start_frame and end_frame")
        return np.arange(guess_frames(video)) / PICTURES_A_SECOND
    now = identity(str(video))
    before, times = _known.get(video, (None, None))
    if times is None or before is None or before != now:
        with closing(read_source_frames(video, _SMALLEST)) as frames:
            times = np.array([frame.time for frame in frames])
        _known.pop(video, None)
        _known[video] = now, times
        if len(_known) > _MOST_KNOWN:
            del _known[next(iter(_known))]
    return times


def read_segment_frames(
    source: Path,
    size: int,
    segment: Segment | None,
    wanted: Collection[int] | None = None,
    unscaled: Collection[int] = (),
) -> Generator[Frame, None, int]:
    """Yield the frames of a segment, numbered and timed from its first; of the whole video where there is none.

    Args:
        source: the video, or a folder of pictures.
        size: as for ``read_source_frames``.
        segment: of the video.
        wanted: the frames to give, counted from the segment's first.
        unscaled: those among them that come at their own size too.

    Returns:
        As the generator's return value, how many frames the segment has.

    Raises:
        VideoError: it cannot be read.
    """
    if segment is None:
        return (yield from read_source_frames(source, size, wanted, unscaled))
    first, last = segment_bounds(source, segment)
    start = float(_times(source, segment)[first])
    chosen = range(first, last) if wanted is None else {first + number for number in wanted if number < last - first}
    with closing(read_source_frames(source, size, chosen, {first + number for number in unscaled})) as frames:
        for frame in frames if chosen else ():
            yield replace(frame, index=frame.index - first, time=frame.time - start)
            if frame.index == max(chosen):
                break
    return last - first


class SegmentSource:
    """Implements ``ClipSource`` on a segment of a video file or of a folder of pictures.

    Args:
        video: the file or folder.
        segment: of it.
        recipe: how flow is made.
        frame_size: height and width of the frames; the flow's size where None.
        rates: of a run's training videos; see ``VideoSource``.
    """

    def __init__(
        self,
        video: Path,
        segment: Segment,
        recipe: FlowRecipe,
        frame_size: int | None = None,
        rates: FrameRates | None = None,
    ) -> None:
        self._path, self._segment, self._rates = video, segment, rates
        self.recipe, self.frame_size = recipe, frame_size or recipe.size
        self._opened: tuple[ClipSource, int, int, float] | None = None

    def _open(self) -> tuple[ClipSource, int, int, float]:
        """Give the video, the segment's first frame, the one after its last, and the seconds that it starts at."""
        if self._opened is None:
            first, last = segment_bounds(self._path, self._segment)
            times = _times(self._path, self._segment)
            video: ClipSource
            if self._path.is_dir():
                video = PictureFolderSource(self._path, self.recipe, self.frame_size)
            else:
                video = VideoSource(self._path, self.recipe, len(times), frame_size=self.frame_size, rates=self._rates)
                # Of frames that are thinned the segment has those within it, or else the next one.
                begin = min(video.pace.count(first) if first else 0, video.num_frames - 1)
                first, last = begin, max(video.pace.count(last), begin + 1)
            self._opened = video, first, last, float(times[_pace(video).source(first)])
        return self._opened

    @property
    def pace(self) -> Pace:
        """How the frames of the video are taken; see ``VideoSource.pace``.

        Raises:
            VideoError: the video cannot be read, or does not have this segment.
        """
        return _pace(self._open()[0])

    @property
    def num_frames(self) -> int:
        """Number of frames of the segment, at least 1.

        Raises:
            VideoError: the video cannot be read, or does not have this segment.
        """
        _, first, last, _ = self._open()
        return last - first

    def read(
        self, frames: Sequence[int], fields: Sequence[int]
    ) -> tuple[UInt8Array, UInt8Array, npt.NDArray[np.float64]]:
        """Read pictures and compute flow; see ``ClipSource.read``.

        Raises:
            VideoError: the video cannot be read.
        """
        video, first, _, start = self._open()
        rgb, codes, times = video.read([first + number for number in frames], [first + number for number in fields])
        return rgb, codes, times - start


def _pace(video: ClipSource) -> Pace:
    return video.pace if isinstance(video, VideoSource) else WHOLE
