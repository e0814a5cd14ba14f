"""Random changes to a training clip, drawn once for both streams so that they stay aligned pixel by pixel.

Sources: the random start and interval are Ou and Sun 2019, section 3.6; crop and flip follow Feichtenhofer et al. 2016
(same crop for the whole stack, u negated on a flip).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.errors import SettingsError
from actionfusion.video.clip import Clip
from actionfusion.video.flow import LARGEST_CODE_STEP, ZERO_CODE

UInt8Array = npt.NDArray[np.uint8]

# A code of 0, which only lossy storage makes, is taken for 1: its negative would not fit.
_NEGATED = (2 * ZERO_CODE - np.maximum(np.arange(256), 1)).astype(np.uint8)


@dataclass(frozen=True)
class Augmentation:
    """What varies between two readings of one training video.

    Args:
        intervals: lowest and highest interval between sampled frames (2 to 10 in the paper), clamped to the video.
        flip: mirror half of the clips; leave it off where classes differ in left and right.
        smallest_crop: side of the smallest square crop as a share of the picture, 0.5 to 1; the crop is enlarged back
            to full size, and the flow with it. 1 crops nothing.
        brightness: largest change of the RGB frames' contrast and brightness as a share of the range, 0 to 0.5;
            the flow stays as it is.
        drawn_by: what a video's random numbers follow from beside seed and epoch: its name, so that they do not change
            with the other videos, or its place among them, as in earlier versions, whose runs go on so.

    Raises:
        SettingsError: a value outside its range.
    """

    intervals: tuple[int, int] = (2, 10)
    flip: bool = False
    smallest_crop: float = 1.0
    brightness: float = 0.0
    drawn_by: Literal["name", "place"] = "name"

    def __post_init__(self) -> None:
        low, high = self.intervals
        if not 1 <= low <= high:
            raise SettingsError("augmentation.intervals", f"{low}..{high} is no range", "take 1 <= low <= high")
        if not 0.5 <= self.smallest_crop <= 1:
            raise SettingsError("augmentation.smallest_crop", f"{self.smallest_crop}", "take 0.5 to 1")
        if not 0 <= self.brightness <= 0.5:
            raise SettingsError("augmentation.brightness", f"{self.brightness}", "take 0 to 0.5")
        if self.drawn_by not in {"name", "place"}:
            raise SettingsError("augmentation.drawn_by", f"{self.drawn_by!r}", "take name or place")


def augment(clip: Clip, settings: Augmentation, generator: np.random.Generator) -> Clip:
    """Crop, flip and change the brightness of a whole clip at random.

    The same numbers are drawn whatever the settings, so that switching one off leaves the others as they were.
    """
    side, left, top, mirrored, contrast, lightness = generator.random(6)
    if settings.smallest_crop < 1:
        clip = crop(clip, 1 - side * (1 - settings.smallest_crop), left, top)
    if settings.flip and mirrored < 0.5:
        clip = flip(clip)
    if settings.brightness > 0:
        gain = 1 + (2 * contrast - 1) * settings.brightness
        shift = (2 * lightness - 1) * settings.brightness * 127.5
        table = np.clip(np.rint((np.arange(256) - 127.5) * gain + 127.5 + shift), 0, 255).astype(np.uint8)
        clip = replace(clip, rgb=_mapped(clip.rgb, table))
    return clip


def flip(clip: Clip) -> Clip:
    """Mirror a clip: columns reversed and u negated."""
    if clip.flow is None:
        return replace(clip, rgb=_mirrored(clip.rgb))
    flow = _mirrored(clip.flow)
    flow[:, 0::2] = _mapped(flow[:, 0::2], _NEGATED)
    return replace(clip, rgb=_mirrored(clip.rgb), flow=flow)


def crop(clip: Clip, share: float, left: float, top: float) -> Clip:
    """Cut a square and enlarge it back to full size; displacements grow with the picture.

    Args:
        clip: the clip.
        share: side of the crop as a share of the picture's, in (0, 1].
        left: position of the crop, 0 at the left border to 1 at the right.
        top: likewise from top to bottom.
    """
    rgb, _ = _enlarged_crop(clip.rgb, share, left, top)
    if clip.flow is None:
        return replace(clip, rgb=rgb)
    flow, scale = _enlarged_crop(clip.flow, share, left, top)
    steps = np.clip(np.rint((np.arange(256) - ZERO_CODE) * scale), -LARGEST_CODE_STEP, LARGEST_CODE_STEP)
    return replace(clip, rgb=rgb, flow=_mapped(flow, (steps + ZERO_CODE).astype(np.uint8)))


def _enlarged_crop(pictures: UInt8Array, share: float, left: float, top: float) -> tuple[UInt8Array, float]:
    """Return the crop of ``[T, C, H, W]`` at full size, and how many times it was enlarged."""
    full = pictures.shape[-1]
    side = max(round(full * share), 1)
    x, y = round(left * (full - side)), round(top * (full - side))
    cut = pictures[..., y : y + side, x : x + side]
    if side == full:
        return np.ascontiguousarray(cut), 1.0
    enlarged = np.empty(pictures.shape, np.uint8)
    # Of more than four channels at once OpenCV resizes without vector instructions, as it maps and flips; NumPy always.
    # The augmentation would be half of what a clip from the store costs.
    for row in np.ndindex(*pictures.shape[:2]):
        cv2.resize(cut[row], (full, full), dst=enlarged[row], interpolation=cv2.INTER_LINEAR)
    return enlarged, full / side


def _mirrored(pictures: UInt8Array) -> UInt8Array:
    """Reverse the columns of ``[T, C, H, W]``."""
    rows = np.ascontiguousarray(pictures).reshape(-1, pictures.shape[-1])
    return cv2.flip(rows, 1).astype(np.uint8, copy=False).reshape(pictures.shape)


def _mapped(pictures: UInt8Array, table: UInt8Array) -> UInt8Array:
    """Compute ``table[pictures]``."""
    rows = np.ascontiguousarray(pictures).reshape(-1, pictures.shape[-1])
    return cv2.LUT(rows, table).astype(np.uint8, copy=False).reshape(pictures.shape)
