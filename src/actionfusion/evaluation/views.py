"""More than one look at a video: several samples of its frames, and their mirror images."""

from __future__ import annotations

from dataclasses import dataclass, replace

from actionfusion.data.augment import flip
from actionfusion.errors import SettingsError
from actionfusion.video.clip import Clip, ClipSettings, ClipSource, cut_clip
from actionfusion.video.sampling import Positions, shifted_views


@dataclass(frozen=True)
class Views:
    """How many clips of one video are scored, and their probabilities averaged.

    Args:
        temporal: samples of its frames (``video.sampling.shifted_views``); the first is that of eqs 13-14.
        flip: also the mirror image of each, with the flow's u negated.

    Raises:
        SettingsError: no sample.
    """

    temporal: int = 1
    flip: bool = False

    def __post_init__(self) -> None:
        if self.temporal < 1:
            raise SettingsError("views", f"{self.temporal} samples of a video are none", "take 1 or more")

    @property
    def clips(self) -> int:
        """The most clips of one video; a short video has fewer samples that differ."""
        return self.temporal * (1 + self.flip)

    @property
    def single(self) -> bool:
        """Whether it is the one clip that training and prediction see."""
        return self.clips == 1


def cut_views(source: ClipSource, settings: ClipSettings, views: Views) -> list[Clip]:
    """Cut the clips of a video, the one of eqs 13-14 first; of equal samples of a short video one is left.

    The video is read once, and each frame and flow frame of it once, whatever the number of samples.

    Args:
        source: a video.
        settings: T, L and the flow recipe.
        views: which clips.

    Raises:
        VideoError: the source cannot be read.
        RecipeMismatch: the source's recipe is another one.
    """
    if views.temporal == 1:
        clips = [cut_clip(source, settings)]
    else:

        def positions(num_frames: int) -> Positions:
            return shifted_views(settings.positions(num_frames), num_frames, views.temporal).reshape(-1)

        together = cut_clip(source, replace(settings, frames=settings.frames * views.temporal), positions)
        starts = range(0, len(together.positions), settings.frames)
        samples = [_sample(together, slice(start, start + settings.frames)) for start in starts]
        clips = list({sample.positions.tobytes(): sample for sample in samples}.values())
    return clips + [flip(clip) for clip in clips] if views.flip else clips


def _sample(clip: Clip, rows: slice) -> Clip:
    return replace(
        clip,
        rgb=clip.rgb[rows],
        flow=None if clip.flow is None else clip.flow[rows],
        times=clip.times[rows],
        positions=clip.positions[rows],
    )
