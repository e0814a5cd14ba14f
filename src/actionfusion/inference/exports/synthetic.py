"""A synthetic video: smooth noise that drifts, where no video is given."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.video.clip import ClipSettings, UInt8Array
from actionfusion.video.flow import compute_flow
from actionfusion.video.pictures import resized

_STEP = (1, 2)  # pixels that each frame moves down and to the right
_GRAIN = 8  # pixels between two random values


class SyntheticVideo:
    """Implements ``ClipSource``: coloured smooth noise, in which everything moves by (2, 1) pixels a frame.

    Args:
        clip: sizes of its frames and flow, and the recipe of the flow.
        num_frames: of the video.
        seed: of the noise.
    """

    def __init__(self, clip: ClipSettings, num_frames: int, seed: int = 0) -> None:
        self.recipe = clip.flow
        self.frame_size = clip.frame_size
        self.num_frames = num_frames
        size = clip.decoded_size
        grains = -(-size // _GRAIN)
        noise = np.random.default_rng(seed).integers(0, 256, (grains, grains, 3)).astype(np.uint8)
        self._picture = cv2.resize(noise, (size, size), interpolation=cv2.INTER_LINEAR)

    def read(
        self, frames: Sequence[int], fields: Sequence[int]
    ) -> tuple[UInt8Array, UInt8Array, npt.NDArray[np.float64]]:
        """Read frames and flow as ``ClipSource`` says, at 25 frames a second."""
        of_fields = {*fields, *(start + 1 for start in fields)}
        codes = compute_flow(
            {index: resized(self._at(index), self.recipe.size) for index in of_fields}, fields, self.recipe
        )
        pictures = [resized(self._at(index), self.frame_size) for index in frames]
        return np.stack(pictures), codes, np.array(frames) / 25.0

    def _at(self, index: int) -> UInt8Array:
        down, right = _STEP
        moved: UInt8Array = np.roll(self._picture, (index * down, index * right), axis=(0, 1))
        return moved
