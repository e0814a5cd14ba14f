"""The clip: what every part hands to the network, cut from a video in one place.

Training, evaluation, prediction, the report and the exported model all come through ``cut_clip``, so they cannot
disagree about a frame, a resize or a flow field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from actionfusion.errors import RecipeMismatch, SettingsError, VideoDamaged
from actionfusion.video.flow import ZERO_CODE, FlowRecipe, flow_window
from actionfusion.video.sampling import Positions, evenly_spaced

UInt8Array = npt.NDArray[np.uint8]
Sampler = Callable[[int], Positions]


@dataclass(frozen=True)
class ClipSettings:
    """What is cut from a video.

    Args:
        frames: T, frames a clip (17 in the paper, section 3.6).
        flow_fields: L, flow fields around each frame (4 in the paper); the flow input has 2L channels.
        flow: the recipe of the 8-bit flow; its ``size`` is also the size of the RGB frames.

    Raises:
        SettingsError: no frames, or a number of fields that is not even and positive.
    """

    frames: int = 17
    flow_fields: int = 4
    flow: FlowRecipe = field(default_factory=FlowRecipe)

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise SettingsError("clip.frames", f"{self.frames} frames make no clip", "take 1 or more")
        if self.flow_fields < 2 or self.flow_fields % 2:
            raise SettingsError(
                "clip.flow_fields", f"{self.flow_fields} fields cannot be centred on a frame", "take 2, 4, 6, ..."
            )

    @property
    def flow_channels(self) -> int:
        """2L, the channels of the flow input."""
        return 2 * self.flow_fields


@dataclass(frozen=True, eq=False)
class Clip:
    """T sampled frames with the flow around each.

    Attributes:
        rgb: ``[T, 3, size, size]`` uint8, 0..255.
        flow: ``[T, 2L, size, size]`` uint8 codes of ``recipe``, in the order u, v of the first field, u, v of the
            second, and so on.
        times: ``[T]`` seconds from the start of the video.
        positions: ``[T]`` frame numbers, from 0.
        recipe: how the flow codes were made.
    """

    rgb: UInt8Array
    flow: UInt8Array
    times: npt.NDArray[np.float64]
    positions: Positions
    recipe: FlowRecipe


class FrameCountChanged(Exception):
    """A source found while reading that it holds another number of frames than it had said, and has corrected it.

    A message between a source and ``cut_clip``, which nobody else sees; its text is the name of the video.
    """


class ClipSource(Protocol):
    """A video that frames and 8-bit flow can be read from: a file, or an entry of the prepared store."""

    @property
    def recipe(self) -> FlowRecipe:
        """The recipe of the flow that ``read`` gives."""
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
            fields: first frames of flow fields, ascending, without repeats.

        Returns:
            Frames ``[len(frames), size, size, 3]`` RGB, codes ``[len(fields), size, size, 2]``, and the frames' times
            in seconds ``[len(frames)]``.

        Raises:
            FrameCountChanged: once at most, when decoding shows that ``num_frames`` had been wrong.
        """
        ...


def cut_clip(source: ClipSource, settings: ClipSettings, sampler: Sampler | None = None) -> Clip:
    """Cut one clip.

    Every frame and every field is read once, however often the clip repeats it.

    Args:
        source: a video.
        settings: T, L and the flow recipe, which must be the source's.
        sampler: gives T positions for a number of frames; eqs 13-14 where none is given.  It is asked again if the
            number of frames changes, so a random one must draw from the same ``sample_generator`` each time.

    Raises:
        RecipeMismatch: the source's recipe is another one.
        SettingsError: the sampler gives another number of positions than T, or one outside the video.
        VideoDamaged: the number of frames changed twice while the source was read.
        VideoError: the source cannot be read.
    """
    if source.recipe != settings.flow:
        raise RecipeMismatch(
            "clip", f"its flow is {source.recipe}, wanted is {settings.flow}", "make it again with the recipe wanted"
        )
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
    positions = sampler(num_frames) if sampler else evenly_spaced(num_frames, settings.frames)
    _check(positions, settings.frames, num_frames)
    windows = np.array([flow_window(int(at), settings.flow_fields, num_frames) for at in positions], np.int64)
    wanted, frame_rows = np.unique(positions, return_inverse=True)
    pairs, field_rows = np.unique(windows, return_inverse=True)
    frames, fields, times = source.read(wanted.tolist(), pairs.tolist())
    size = settings.flow.size
    flow = np.full((settings.frames, settings.flow_fields, 2, size, size), ZERO_CODE, np.uint8)
    # A video of one frame has no field, the window is empty, and no motion is what there is.
    for moment, rows in enumerate(field_rows.reshape(windows.shape)):
        for place, row in enumerate(rows):
            flow[moment, place] = fields[row].transpose(2, 0, 1)
    return Clip(
        rgb=np.ascontiguousarray(frames[frame_rows].transpose(0, 3, 1, 2)),
        flow=flow.reshape(settings.frames, settings.flow_channels, size, size),
        times=times[frame_rows],
        positions=positions,
        recipe=settings.flow,
    )


def _check(positions: Positions, count: int, num_frames: int) -> None:
    if len(positions) != count:
        raise SettingsError("sampler", f"it gave {len(positions)} positions", f"it must give {count}")
    if positions.min() < 0 or positions.max() >= num_frames:
        raise SettingsError(
            "sampler", f"it gave {positions.tolist()}", f"positions must lie within 0..{num_frames - 1}"
        )
