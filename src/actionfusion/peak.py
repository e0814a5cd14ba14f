"""What a device can do at most, by large products: what speeds are held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_SIDES = {"cuda": 8192}
_SIDE = 1024
_CONV_CHANNELS, _CONV_SIDE = 256, 56  # as VGG-16's conv3 layers
_MOST_SECONDS = 0.5
_MOST_TRIES = 8


@lru_cache(maxsize=8)
def matrix_peak(device: torch.device, precision: torch.dtype) -> float:
    """Floating point operations a second of the best of a few large products, in this process.

    On a CPU a convolution is tried beside the product of square matrices: the library behind ``torch.mm`` (MKL) leaves
    more than half of an AMD processor's single precision lying, and the one behind convolutions (oneDNN) does not.  On
    a GPU a convolution may take a way with fewer operations than are counted, and is left out.
    """
    side = _SIDES.get(device.type, _SIDE)
    left = torch.ones(side, side, dtype=precision, device=device)
    right = torch.ones_like(left)
    peak = 2 * side**3 / _fastest(lambda: left @ right)
    if device.type == "cpu":
        picture = torch.ones(1, _CONV_CHANNELS, _CONV_SIDE, _CONV_SIDE, dtype=left.dtype)
        picture = picture.contiguous(memory_format=torch.channels_last)
        kernel = torch.ones(_CONV_CHANNELS, _CONV_CHANNELS, 3, 3, dtype=left.dtype)
        flops = 2 * _CONV_SIDE**2 * _CONV_CHANNELS**2 * 9
        with torch.inference_mode():
            peak = max(peak, flops / _fastest(lambda: F.conv2d(picture, kernel, padding=1)))
    return peak


def _fastest(product: Callable[[], Tensor]) -> float:
    """Time the fastest of a few goes."""
    best, started = float("inf"), time.perf_counter()
    for number in range(_MOST_TRIES + 1):
        before = time.perf_counter()
        result = product()
        result[(0,) * result.dim()].item()  # waits for the device
        if number:  # the first warms up
            best = min(best, time.perf_counter() - before)
        if number and time.perf_counter() - started > _MOST_SECONDS:
            break
    return best
