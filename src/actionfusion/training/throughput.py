"""How fast a training is, and how near to what the machine can do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from actionfusion.training.settings import PRECISIONS, PrecisionName

_SIDES = {"cuda": 8192}
_SIDE = 1024
_MOST_SECONDS = 0.5
_MOST_TRIES = 8


@dataclass(frozen=True)
class Speed:
    """Of an epoch's learning.

    Attributes:
        samples_per_second: clips, over all processes.
        data_wait: share of the time that the network waited for clips, 0 to 1.
        tflops: floating point operations, 1e12 a second, forward and backward as PyTorch counts them.
        peak_share: those over what the same devices reach on large matrices.
    """

    samples_per_second: float
    data_wait: float
    tflops: float
    peak_share: float

    def __str__(self) -> str:
        return (
            f"{self.samples_per_second:.3g} clips/s, {self.data_wait:.0%} waiting for data, "
            f"{self.tflops:.3g} TFLOP/s = {self.peak_share:.0%} of the matrix peak"
        )


@lru_cache(maxsize=8)
def matrix_peak(device: torch.device, precision: PrecisionName) -> float:
    """Floating point operations a second of the best of a few products of large square matrices, in this process."""
    side = _SIDES.get(device.type, _SIDE)
    left = torch.ones(side, side, dtype=PRECISIONS[precision], device=device)
    right = torch.ones_like(left)
    best, started = float("inf"), time.perf_counter()
    for number in range(_MOST_TRIES + 1):
        before = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        if number:  # the first warms up
            best = min(best, time.perf_counter() - before)
        if number and time.perf_counter() - started > _MOST_SECONDS:
            break
    return 2 * side**3 / best


def speed(*, clips: int, seconds: float, waited: float, flops_per_clip: float, peak: float) -> Speed:
    """The speed of so many clips.

    Args:
        clips: over all processes.
        seconds: of learning.
        waited: seconds of them in which this process waited for data.
        flops_per_clip: forward and backward.
        peak: of all processes' devices together, a second.
    """
    seconds = max(seconds, 1e-9)
    flops = clips * flops_per_clip / seconds
    return Speed(clips / seconds, waited / seconds, flops / 1e12, flops / peak)
