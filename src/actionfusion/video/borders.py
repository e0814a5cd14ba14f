"""Measure the borders of a video: bars of one colour at the edges of the picture, such as letterbox bars.

A border is made of rows or columns that have the colour of the outermost one along their whole length and in all
sampled frames, but for the noise of coding, and it ends with a sharp edge.  A plain sky or wall ends gradually.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.video.pictures import UInt8Array

FloatArray = npt.NDArray[np.float64]

# Converting one unscaled costs about as much as decoding it, and what moves shows in a few.
_MOST_FRAMES = 8
# Root mean square in levels by which coding changes a border.  The edge of the picture rings into the border by up
# to that share of its height.
_LEAST_NOISE, _MOST_NOISE = 3.0, 10.0
_NOISE_SHARE = 0.25
# An edge reaches that share of its height within as many lines; the height is the median over more lines than the
# blocks of codecs have.
_SHARP, _SHARP_LINES = 0.6, 2
_EDGE_LINES = 24


@dataclass(frozen=True)
class Borders:
    """Widths of the borders, each as a share of the picture's height or width, 0 to 1.

    Attributes:
        top: of the height.
        bottom: of the height.
        left: of the width.
        right: of the width.
    """

    top: float = 0.0
    bottom: float = 0.0
    left: float = 0.0
    right: float = 0.0


def border_positions(positions: range) -> range:
    """Choose the frames to measure borders in, evenly, among those that are read anyway."""
    return positions[:: max(-(-len(positions) // _MOST_FRAMES), 1)]


class BorderMeter:
    """Sums up pictures of one video; memory does not grow with their number."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._squares = np.zeros((0, 0), np.float32)

    def add(self, picture: UInt8Array) -> None:
        """Add an RGB picture ``[H, W, 3]``, unscaled; one of another size than the first is passed over."""
        # Green has most of the luminance, and costs less than grey.
        green = cv2.extractChannel(picture, 1)
        if not self._count:
            self._sum, self._squares = np.zeros((2, *green.shape), np.float32)
        if green.shape == self._sum.shape:
            cv2.accumulate(green, self._sum)
            cv2.accumulateSquare(green, self._squares)
            self._count += 1

    def borders(self) -> Borders | None:
        """Measure the borders; None without pictures, and no borders where the whole picture has one colour."""
        if not self._count:
            return None
        height, width = self._sum.shape
        top, bottom, left, right = 0, height, 0, width
        # Twice, since bars above and below show only once bars of another colour at the sides are off.
        for _ in range(2):
            above, below = self._bars(np.s_[top:bottom, left:right], over=1)
            top, bottom = top + above, bottom - below
            if top >= bottom:
                return Borders()
            before, behind = self._bars(np.s_[top:bottom, left:right], over=0)
            left, right = left + before, right - behind
            if left >= right:
                return Borders()
            if not before and not behind:
                break
        return Borders(top / height, (height - bottom) / height, left / width, (width - right) / width)

    def _bars(self, inside: tuple[slice, slice], over: int) -> tuple[int, int]:
        """Count the lines in the bars at the start and at the end, with columns averaged (1) or rows (0)."""
        mean, square = (
            cv2.reduce(values[inside], over, cv2.REDUCE_AVG, dtype=cv2.CV_64F).reshape(-1) / self._count
            for values in (self._sum, self._squares)
        )
        return _bar(mean, square), _bar(mean[::-1], square[::-1])


def _bar(mean: FloatArray, square: FloatArray) -> int:
    """Count the lines in the bar at the start, from each line's mean and mean square ``[n]``."""
    departure = np.sqrt(np.maximum(square - 2 * mean[0] * mean + mean[0] ** 2, 0))
    beyond = np.flatnonzero(departure > _MOST_NOISE)
    if not len(beyond):
        return len(mean)
    height = float(np.median(departure[beyond[0] : beyond[0] + _EDGE_LINES]))
    noise = min(max(_NOISE_SHARE * height, _LEAST_NOISE), _MOST_NOISE)
    bar = int(np.flatnonzero(departure > noise)[0])
    return bar if departure[bar : bar + _SHARP_LINES].max() > _SHARP * height else 0
