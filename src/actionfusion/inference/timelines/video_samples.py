"""The samples of a video file, decoded once; nothing of it needs the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from actionfusion.errors import VideoError
from actionfusion.inference.given_videos import frames_of
from actionfusion.video.clip import ClipSettings
from actionfusion.video.pictures import UInt8Array
from actionfusion.video.rates import WHOLE, Pace
from actionfusion.video.samples import FrameCollector, Sample

# Seconds of a video of one frame, whose times do not show its length.
_ONE_FRAME = 1 / 25


@dataclass
class VideoSamples:
    """The samples of a video file, read once; a fault ends them, and ``error`` holds it then.

    Args:
        path: the file, or the folder of pictures.
        clip: L and the flow recipe.
        every: frames from one sample to the next.
        watch: called with the number of frames decoded so far, for each.
        pace: how the video's frames are taken; the samples are numbered by those that are.
    """

    path: str | Path
    clip: ClipSettings
    every: int
    watch: Callable[[int], object] | None = None
    pace: Pace = WHOLE
    error: VideoError | None = field(default=None, init=False)
    _decoded: int = field(default=0, init=False)
    _last: tuple[int, float] = field(default=(0, 0.0), init=False)

    @property
    def end(self) -> float:
        """Seconds to the end of the last frame that was decoded.

        The time of a frame that no sample needs is not known, so for those after the last sample, and for the length of
        the last frame, the frames' mean distance so far is taken.
        """
        index, time = self._last
        interval = time / index if index else _ONE_FRAME
        return time + (self._decoded - index) * interval

    def __iter__(self) -> Iterator[Sample]:
        collector, known = FrameCollector(self.every, self.clip.flow_length), dict[int, UInt8Array]()

        def wanted(index: int) -> bool:
            self._decoded = index + 1
            if self.watch is not None:
                self.watch(self._decoded)
            taken = self.pace.index(index)
            return taken is not None and collector.wants(taken)

        frames = frames_of(self.path, self.clip.decoded_size, wanted)
        try:
            with closing(frames):
                for frame in frames:
                    self._last = frame.index, frame.time
                    taken = self.pace.index(frame.index)
                    assert taken is not None
                    collector, group = collector.push(replace(frame, index=taken))
                    if group is not None:
                        codes = group.codes(self.clip.flow, known)
                        known = collector.reusable(codes)
                        yield group.sample(codes, self.clip)
        except VideoError as error:
            self.error = error
            return
        # `finish` wants the last frame.  Where no sample needs that, none is left either.
        for rest in collector.finish():
            yield rest.sample(rest.codes(self.clip.flow, known), self.clip)
