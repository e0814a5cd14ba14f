"""How fast a training is, and how near to what the machine can do."""

from __future__ import annotations

from dataclasses import dataclass


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


def speed(*, clips: int, seconds: float, waited: float, flops_per_clip: float, peak: float) -> Speed:
    """Find the speed of so many clips.

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
