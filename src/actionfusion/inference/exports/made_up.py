"""A made-up video: smooth noise that drifts, for whoever has none at hand."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.video.clip import UInt8Array
from actionfusion.video.flow import FlowRecipe, flow_fields

_STEP = (1, 2)  # pixels that each frame moves down and to the right
_GRAIN = 8  # pixels between two random values


class MadeUpVideo:
    """Implements ``ClipSource``: coloured smooth noise, in which everything moves by (2, 1) pixels a frame.

    Args:
        recipe: of the flow.
        num_frames: of the video.
        seed: of the noise.
    """

    def __init__(self, recipe: FlowRecipe, num_frames: int, seed: int = 0) -> None:
        self.recipe = recipe
        self.frame_size = recipe.size
        self.num_frames = num_frames
        grains = -(-recipe.size // _GRAIN)
        noise = np.random.default_rng(seed).integers(0, 256, (grains, grains, 3)).astype(np.uint8)
        self._picture = cv2.resize(noise, (recipe.size, recipe.size), interpolation=cv2.INTER_LINEAR)

    def read(
        self, frames: Sequence[int], fields: Sequence[int]
    ) -> tuple[UInt8Array, UInt8Array, npt.NDArray[np.float64]]:
        """As ``ClipSource`` says, at 25 frames a second."""
        needed = {*frames, *fields, *(start + 1 for start in fields)}
        pictures = {index: self._at(index) for index in needed}
        codes = flow_fields(pictures, fields, self.recipe)
        return np.stack([pictures[index] for index in frames]), codes, np.array(frames) / 25.0

    def _at(self, index: int) -> UInt8Array:
        down, right = _STEP
        moved: UInt8Array = np.roll(self._picture, (index * down, index * right), axis=(0, 1))
        return moved
