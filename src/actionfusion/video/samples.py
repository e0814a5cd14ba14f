"""Sample a video that is still running: one frame of every so many, with the frames around it that its flow needs.

The positions are those of eqs 13-14 with an interval that is given instead of made from the number of frames, which is
not known of a running video: ``every`` = int(N / T) gives `evenly_spaced`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from actionfusion.errors import SettingsError
from actionfusion.streams import StreamName
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import ZERO_CODE, FlowRecipe, compute_flow, flow_window
from actionfusion.video.pictures import UInt8Array, resized
from actionfusion.video.reading import Frame


@dataclass(frozen=True, eq=False)
class Sample:
    """One sampled frame as the network sees it.

    Attributes:
        position: frame number, from 0.
        time: seconds from the first frame.
        rgb: ``[3, size, size]`` uint8.
        flow: ``[2L, size, size]`` uint8 codes; None where no flow is read.
    """

    position: int
    time: float
    rgb: UInt8Array
    flow: UInt8Array | None

    def inputs(self, streams: Sequence[StreamName]) -> dict[StreamName, UInt8Array]:
        """Return what a model that reads these streams gets of the sample."""
        arrays: dict[StreamName, UInt8Array | None] = {"rgb": self.rgb, "flow": self.flow}
        return {name: array for name in streams if (array := arrays[name]) is not None}


@dataclass(frozen=True, eq=False)
class FrameGroup:
    """A frame to sample and those around it, complete.

    Attributes:
        position: frame number of the sampled one, from 0.
        time: its seconds from the first frame.
        pictures: square RGB ``[n, n, 3]`` by frame number.
        fields: first frames of the L flow frames; none where the video has but one frame, or no flow is read.
    """

    position: int
    time: float
    pictures: Mapping[int, UInt8Array]
    fields: tuple[int, ...]

    def codes(self, recipe: FlowRecipe, known: Mapping[int, UInt8Array] | None = None) -> dict[int, UInt8Array]:
        """Compute the codes ``[size, size, 2]`` of all fields by their first frame, but for those in ``known``."""
        found = {start: known[start] for start in self.fields if known and start in known}
        missing = sorted(set(self.fields) - found.keys())
        needed = {index for start in missing for index in (start, start + 1)}
        pictures = {index: resized(self.pictures[index], recipe.size) for index in needed}
        return found | dict(zip(missing, compute_flow(pictures, missing, recipe), strict=True))

    def sample(self, codes: Mapping[int, UInt8Array], clip: ClipSettings) -> Sample:
        """Make the sample with the flow that ``codes`` has computed."""
        picture = resized(self.pictures[self.position], clip.frame_size)
        rgb = np.ascontiguousarray(picture.transpose(2, 0, 1))
        if not clip.reads_flow:
            return Sample(self.position, self.time, rgb, None)
        length, size = clip.flow_frames, clip.flow.size
        flow = np.full((length, 2, size, size), ZERO_CODE, np.uint8)
        for place, start in enumerate(self.fields):
            flow[place] = codes[start].transpose(2, 0, 1)
        return Sample(self.position, self.time, rgb, flow.reshape(2 * length, size, size))


@dataclass(frozen=True, eq=False)
class FrameCollector:
    """Collects the groups of a running video; each ``push`` gives the next collector.

    Args:
        every: frames from one sample to the next, and to the end of the first sample.
        length: L, flow frames around a sample; 0 where no flow is read.
        frames: the last ones seen, as many as groups to come may need.

    Raises:
        SettingsError: an interval under 1.
    """

    every: int
    length: int
    frames: tuple[Frame, ...] = field(default=(), repr=False)
    next_position: int = -1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise SettingsError("every", f"a sample every {self.every} frames makes no sense", "take 1 or more")
        if self.next_position < 0:
            object.__setattr__(self, "next_position", self.every - 1)

    @property
    def delay(self) -> int:
        """Frames that must follow a sample before its flow is known: L / 2."""
        return self.length // 2

    def wants(self, index: int) -> bool:
        """Check whether any group needs the frame of that number."""
        return (index - self.every + 1 + self.delay) % self.every <= self.length

    def reusable(self, codes: Mapping[int, UInt8Array]) -> dict[int, UInt8Array]:
        """Pick the computed codes that groups to come may need."""
        return {start: code for start, code in codes.items() if start >= self.next_position - self.delay}

    def push(self, frame: Frame) -> tuple[Self, FrameGroup | None]:
        """Take the next frame that is wanted, scaled to the recipe's size, and give the group that it completes.

        Frames that are not wanted may be left out.
        """
        frames = (*self.frames, frame)
        if frame.index < self.next_position + self.delay:
            return replace(self, frames=self._kept(frames, self.next_position)), None
        group = self._group(frames, self.next_position, frame.index + 1)
        following = self.next_position + self.every
        return replace(self, frames=self._kept(frames, following), next_position=following), group

    def finish(self) -> tuple[FrameGroup, ...]:
        """Return the groups of samples whose flow window the video ended in; they repeat the last field.

        The last frame must have been pushed, wanted or not.
        """
        count = self.frames[-1].index + 1 if self.frames else 0
        positions = range(self.next_position, count, self.every)
        return tuple(self._group(self.frames, position, count) for position in positions)

    def _kept(self, frames: tuple[Frame, ...], position: int) -> tuple[Frame, ...]:
        return tuple(frame for frame in frames if frame.index >= position - self.delay - 1)

    def _group(self, frames: tuple[Frame, ...], position: int, num_frames: int) -> FrameGroup:
        fields = flow_window(position, self.length, num_frames)
        by_index = {frame.index: frame for frame in frames}
        needed = {position, *fields, *(start + 1 for start in fields)}
        pictures = {index: by_index[index].image for index in sorted(needed)}
        return FrameGroup(position, by_index[position].time, pictures, tuple(fields))
