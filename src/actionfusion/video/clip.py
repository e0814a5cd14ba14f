"""Cut clips from videos, in the one place that every part takes them from.

Training, evaluation, prediction, the report and the exported model all come through ``cut_clip``, so they cannot
disagree about a frame, a resize or a flow frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from actionfusion.errors import RecipeMismatch, SettingsError, VideoDamaged
from actionfusion.streams import STREAMS, StreamName
from actionfusion.video.flow import ZERO_CODE, FlowRecipe, flow_window
from actionfusion.video.sampling import Positions, consecutive, evenly_spaced

UInt8Array = npt.NDArray[np.uint8]
Sampler = Callable[[int], Positions]
SamplingName = Literal["spread", "dense"]


LARGEST_CLIP = 1 << 30
"""Bytes of the pictures and flow codes of one clip: 1,900 frames of 224 pixels with four flow frames each."""


@dataclass(frozen=True)
class ClipSettings:
    """What is cut from a video.

    Args:
        frames: T, frames a clip (17 in the paper, section 3.6).
        flow_frames: L, flow frames around each frame (4 in the paper); the flow input has 2L channels.
        flow: the recipe of the 8-bit flow.
        streams: what the model reads; train takes it from the model.  Without flow none is ever computed.
        size: height and width of the RGB frames in pixels; none is the flow's size.
        sampling: spread over the whole video (the paper, eqs 13-14), or dense: frames ``stride`` apart from its middle,
            in training from a random place, which 3-D networks want.
        stride: frames from one sampled frame to the next, with dense sampling.

    Raises:
        SettingsError: no frames, a number of fields that is not even and positive, or another value out of range.
    """

    frames: int = 17
    flow_frames: int = 4
    flow: FlowRecipe = field(default_factory=FlowRecipe)
    streams: tuple[StreamName, ...] = STREAMS
    size: int | None = None
    sampling: SamplingName = "spread"
    stride: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "streams", tuple(self.streams))  # YAML has a list
        if self.frames < 1:
            raise SettingsError("clip.frames", f"{self.frames} frames make no clip", "take 1 or more")
        if not self.streams or self.streams != tuple(name for name in STREAMS if name in self.streams):
            raise SettingsError("clip.streams", f"{list(self.streams)}", "take rgb, flow, or both in this order")
        if self.size is not None and self.size < 1:
            raise SettingsError("clip.size", f"{self.size} px is too small", "take 1 or more, or null")
        if self.sampling not in ("spread", "dense"):
            raise SettingsError("clip.sampling", f"{self.sampling!r} is no choice", "choose spread or dense")
        if self.stride < 1:
            raise SettingsError("clip.stride", f"{self.stride} frames from one to the next", "take 1 or more")
        if self.flow_frames < 2 or self.flow_frames % 2:
            raise SettingsError(
                "clip.flow_frames", f"{self.flow_frames} flow frames cannot be centred on a frame", "take 2, 4, 6, ..."
            )
        size = self.frames * (3 * self.frame_size**2 + (2 * self.flow_length * self.flow.size**2))
        if size > LARGEST_CLIP:
            reason = f"a clip of {size >> 20} MiB, where {LARGEST_CLIP >> 20} are the most"
            raise SettingsError("clip", reason, "take fewer frames, fewer flow frames or a smaller size")

    @property
    def flow_channels(self) -> int:
        """2L, the channels of the flow input."""
        return 2 * self.flow_frames

    @property
    def reads_flow(self) -> bool:
        """Whether flow is computed at all."""
        return "flow" in self.streams

    @property
    def flow_length(self) -> int:
        """L, or 0 where no flow is read."""
        return self.flow_frames if self.reads_flow else 0

    @property
    def frame_size(self) -> int:
        """Height and width of the RGB frames."""
        return self.flow.size if self.size is None else self.size

    @property
    def decoded_size(self) -> int:
        """Height and width that video is decoded at: the larger of what frames and flow need."""
        return max(self.frame_size, self.flow.size) if self.reads_flow else self.frame_size

    def positions(self, num_frames: int) -> Positions:
        """Return the frames ``[T]`` of a video that a clip shows, where no sampler is given."""
        if self.sampling == "dense":
            return consecutive(num_frames, self.frames, self.stride)
        return evenly_spaced(num_frames, self.frames)

    def difference(self, recipe: FlowRecipe, frame_size: int) -> str | None:
        """Return how prepared pictures differ from those of this clip; None where they do not."""
        if self.reads_flow and recipe != self.flow:
            return f"flow made by {recipe}, wanted is {self.flow}"
        if frame_size != self.frame_size:
            return f"frames of {frame_size} px, wanted are {self.frame_size} px"
        return None


@dataclass(frozen=True, eq=False)
class Clip:
    """T sampled frames with the flow around each.

    Attributes:
        rgb: ``[T, 3, size, size]`` uint8, 0..255; always there, since pictures are shown to people too.
        flow: ``[T, 2L, size, size]`` uint8 codes of ``recipe``, in the order u, v of the first field, u, v of the
            second, and so on; None where the settings read no flow.
        times: ``[T]`` seconds from the start of the video.
        positions: ``[T]`` frame numbers, from 0.
        recipe: how the flow codes were made.
    """

    rgb: UInt8Array
    flow: UInt8Array | None
    times: npt.NDArray[np.float64]
    positions: Positions
    recipe: FlowRecipe

    def inputs(self, streams: Sequence[StreamName]) -> dict[StreamName, UInt8Array]:
        """Return the inputs of a model that reads these streams.

        Raises:
            RecipeMismatch: flow is wanted, and the clip was cut without it.
        """
        if "flow" in streams and self.flow is None:
            raise RecipeMismatch("clip", "it was cut without flow", "cut it with the run's own settings")
        arrays: dict[StreamName, UInt8Array | None] = {"rgb": self.rgb, "flow": self.flow}
        return {name: array for name in streams if (array := arrays[name]) is not None}


class ModelInput(Protocol):
    """What a model reads: a clip, or one sample of a stream."""

    def inputs(self, streams: Sequence[StreamName]) -> dict[StreamName, UInt8Array]:
        """Return the inputs of a model that reads these streams."""


def stacked_inputs(given: Iterable[ModelInput], streams: Sequence[StreamName]) -> dict[StreamName, UInt8Array]:
    """Put the inputs of clips or samples side by side: each stream of them as one array with a new first axis.

    Raises:
        RecipeMismatch: flow is wanted, and a clip was cut without it.
    """
    arrays = [each.inputs(streams) for each in given]
    return {name: np.stack([array[name] for array in arrays]) for name in streams}


class FrameCountChanged(Exception):
    """A source found while reading that it holds another number of frames than it had said, and has corrected it.

    A message between a source and ``cut_clip``, which no other code sees; its text is the name of the video.
    """


class ClipSource(Protocol):
    """A video that frames and 8-bit flow can be read from: a file, or an entry of the prepared store."""

    @property
    def recipe(self) -> FlowRecipe:
        """The recipe of the flow that ``read`` gives."""
        ...

    @property
    def frame_size(self) -> int:
        """Height and width of the frames that ``read`` gives."""
        ...

    @property
    def num_frames(self) -> int:
        """Frames that can be read, at least 1."""
        ...

    def read(
        self, frames: Sequence[int], fields: Sequence[int]
    ) -> tuple[UInt8Array, UInt8Array, npt.NDArray[np.float64]]:
        """Read pictures and flow.

        Args:
            frames: frame numbers, ascending, without repeats.
            fields: first frames of flow frames, ascending, without repeats; where there are none, no flow is computed.

        Returns:
            Frames ``[len(frames), frame_size, frame_size, 3]`` RGB, codes ``[len(fields), size, size, 2]``, and the
            frames' times in seconds ``[len(frames)]``.

        Raises:
            FrameCountChanged: once at most, when decoding shows that ``num_frames`` had been wrong.
        """
        ...


def cut_clip(source: ClipSource, settings: ClipSettings, sampler: Sampler | None = None) -> Clip:
    """Cut one clip.

    Every frame and every field is read once, however often the clip repeats it.

    Args:
        source: a video.
        settings: which frames, and the flow recipe and frame size, which must be the source's.
        sampler: gives T positions for a number of frames; `ClipSettings.positions` where none is given.  It is asked
            again if the number of frames changes, so a random one must take its numbers from the same
            ``sample_generator`` each time.

    Raises:
        RecipeMismatch: the source's recipe or frame size is another one.
        SettingsError: the sampler gives another number of positions than T, or one outside the video.
        VideoDamaged: the number of frames changed twice while the source was read.
        VideoError: the source cannot be read.
    """
    if difference := settings.difference(source.recipe, source.frame_size):
        raise RecipeMismatch("clip", f"it has {difference}", "make it again with the recipe wanted")
    try:
        return _cut(source, settings, sampler)
    except FrameCountChanged:
        # Only decoding shows how many frames there really are; the source knows now, and the positions follow it.
        try:
            return _cut(source, settings, sampler)
        except FrameCountChanged as changed:
            raise VideoDamaged(
                str(changed) or "video", "its number of frames keeps changing", "wait until it is written whole"
            ) from changed


def _cut(source: ClipSource, settings: ClipSettings, sampler: Sampler | None) -> Clip:
    num_frames = source.num_frames
    positions = sampler(num_frames) if sampler else settings.positions(num_frames)
    if len(positions) != settings.frames:
        raise SettingsError("sampler", f"it gave {len(positions)} positions", f"it must give {settings.frames}")
    if positions.min() < 0 or positions.max() >= num_frames:
        raise SettingsError("sampler", f"it gave {positions.tolist()}", f"positions must be within 0..{num_frames - 1}")
    windows = np.array([flow_window(int(at), settings.flow_length, num_frames) for at in positions], np.int64)
    wanted, frame_rows = np.unique(positions, return_inverse=True)
    pairs, field_rows = np.unique(windows, return_inverse=True)
    frames, fields, times = source.read(wanted.tolist(), pairs.tolist())
    rgb = np.ascontiguousarray(frames[frame_rows].transpose(0, 3, 1, 2))
    if not settings.reads_flow:
        return Clip(rgb, None, times[frame_rows], positions, settings.flow)
    size = settings.flow.size
    flow = np.full((settings.frames, settings.flow_frames, 2, size, size), ZERO_CODE, np.uint8)
    # A video of one frame has no field, the window is empty, and no motion is what there is.
    for moment, rows in enumerate(field_rows.reshape(windows.shape)):
        for place, row in enumerate(rows):
            flow[moment, place] = fields[row].transpose(2, 0, 1)
    return Clip(
        rgb=rgb,
        flow=flow.reshape(settings.frames, settings.flow_channels, size, size),
        times=times[frame_rows],
        positions=positions,
        recipe=settings.flow,
    )
