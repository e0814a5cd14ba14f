"""How far apart a run's samples are in a video that is not cut to one action."""

from __future__ import annotations

from collections.abc import Mapping

from actionfusion.run_folder import RunFolder

PAPER_INTERVAL = 6
"""Frames: the middle of the intervals 2 to 10 that Ou and Sun 2019 train with (section 3.6)."""


def usual_interval(run: RunFolder) -> int:
    """Find the number of frames from one sample to the next, 1 or more.

    With dense sampling it is the stride; else the middle of the intervals that the run was trained with, rounded down,
    or 6 where the run does not say.
    """
    if run.clip.sampling == "dense":
        return run.clip.stride
    augmentation = run.config.get("augmentation")
    intervals = augmentation.get("intervals") if isinstance(augmentation, Mapping) else None
    if not isinstance(intervals, list | tuple) or len(intervals) != 2:
        return PAPER_INTERVAL
    low, high = intervals
    if not isinstance(low, int) or not isinstance(high, int) or not 1 <= low <= high:
        return PAPER_INTERVAL
    return (low + high) // 2
