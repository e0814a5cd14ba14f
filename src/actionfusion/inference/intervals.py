"""How far apart a run's samples lie in a video that is not cut to one action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAPER_INTERVAL = 6
"""Frames: the middle of the intervals 2 to 10 that Ou and Sun 2019 train with (section 3.6)."""


def usual_interval(config: Mapping[str, Any]) -> int:
    """Frames from one sample to the next: the middle of the intervals that the run was trained with, else 6.

    Args:
        config: the run's ``config.yaml`` as plain values.

    Returns:
        1 or more; rounded down.
    """
    augmentation = config.get("augmentation")
    intervals = augmentation.get("intervals") if isinstance(augmentation, Mapping) else None
    if not isinstance(intervals, list | tuple) or len(intervals) != 2:
        return PAPER_INTERVAL
    low, high = intervals
    if not isinstance(low, int) or not isinstance(high, int) or not 1 <= low <= high:
        return PAPER_INTERVAL
    return (low + high) // 2
