"""Choose the frames of a video that the network sees.  Positions count from 0; the paper's formulas count from 1.

Sources: Ou and Sun 2019, eqs 13 and 14 (testing) and section 3.6 (training).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from actionfusion.errors import SettingsError

Positions = npt.NDArray[np.int64]


def _check(num_frames: int, count: int) -> None:
    if num_frames < 1 or count < 1:
        raise SettingsError("sampling", f"cannot take {count} frames out of {num_frames}", "both must be at least 1")


def evenly_spaced(num_frames: int, count: int) -> Positions:
    """Choose the ``count`` positions of eqs 13-14: frames t', 2t', ..., Tt' counted from 1, with t' = int(N / T).

    A video of fewer frames than ``count`` is read one frame at a time and its last frame repeats.

    Args:
        num_frames: N, frames of the video.
        count: T, frames to take.

    Returns:
        Positions ``[count]`` from 0, in ascending order.

    Raises:
        SettingsError: no frames, or none asked for.
    """
    _check(num_frames, count)
    interval = max(num_frames // count, 1)
    return np.minimum(np.arange(1, count + 1, dtype=np.int64) * interval, num_frames) - 1


def consecutive(num_frames: int, count: int, stride: int = 1) -> Positions:
    """Take ``count`` frames ``stride`` apart from the middle of a video, as 3-D networks want them.

    A video too short for that is read from its first frame, and its last frame repeats.

    Args:
        num_frames: N, frames of the video.
        count: T, frames to take.
        stride: frames from one to the next.

    Returns:
        Positions ``[count]`` from 0, in ascending order.

    Raises:
        SettingsError: no frames, none asked for, or a stride under 1.
    """
    _check(num_frames, count)
    if stride < 1:
        raise SettingsError("clip.stride", f"{stride} frames from one to the next", "take 1 or more")
    start = max((num_frames - 1 - (count - 1) * stride) // 2, 0)
    return np.minimum(start + stride * np.arange(count, dtype=np.int64), num_frames - 1)


def shifted_views(still: Positions, num_frames: int, views: int) -> npt.NDArray[np.int64]:
    """Move one sample of a video by as many frames as the video leaves room for.

    The intervals stay.  The shifts are spread evenly from the one that begins with the first frame to the one that ends
    with the last, and the one nearest to none is none, so that the sample itself is among them.  A short video leaves
    less room than ``views`` shifts, and some of them are then the same.

    Args:
        still: positions ``[T]`` of the sample.
        num_frames: N, frames of the video.
        views: V, samples.

    Returns:
        Positions ``[V, T]`` from 0, each row in ascending order; the first is ``still``.

    Raises:
        SettingsError: no sample asked for.
    """
    if views < 1:
        raise SettingsError("views", f"{views} samples of a video are none", "take 1 or more")
    shifts = np.rint(np.linspace(-still[0], num_frames - 1 - still[-1], views)).astype(np.int64)
    nearest = int(np.abs(shifts).argmin())
    others = np.delete(shifts, nearest)
    return np.minimum(still + np.concatenate(([0], others))[:, None], num_frames - 1)


def random_interval(
    num_frames: int, count: int, generator: np.random.Generator, intervals: tuple[int, int] = (2, 10)
) -> Positions:
    """Choose ``count`` positions at one random interval from a random start, as section 3.6 trains.

    The interval is drawn from ``intervals`` (both ends count), each end clamped to the largest interval that fits;
    the start is uniform over all that fit.  A video of fewer frames than ``count`` repeats its last frame.  The paper
    says that flow windows overlap "if tau >= L"; they do if tau < L, so no rule binds the interval to L.

    Args:
        num_frames: N, frames of the video.
        count: T, frames to take.
        generator: where the interval and then the start are drawn from.
        intervals: the smallest and largest tau, in frames; the paper's is 2 to 10.

    Returns:
        Positions ``[count]`` from 0, in ascending order.

    Raises:
        SettingsError: no frames, none asked for, or intervals that are not 1 <= low <= high.
    """
    _check(num_frames, count)
    low, high = intervals
    if not 1 <= low <= high:
        raise SettingsError("sampling.intervals", f"{low}..{high} is no range", "take 1 <= low <= high")
    longest = max((num_frames - 1) // (count - 1), 1) if count > 1 else 1
    interval = int(generator.integers(min(low, longest), min(high, longest) + 1))
    span = (count - 1) * interval
    start = int(generator.integers(0, max(num_frames - span, 1)))
    return np.minimum(start + interval * np.arange(count, dtype=np.int64), num_frames - 1)


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Make the random numbers of one training sample: a function of these three alone, in whichever worker.

    Raises:
        SettingsError: a number below 0.
    """
    if min(seed, epoch, index) < 0:
        raise SettingsError("seed", f"seed {seed}, epoch {epoch}, index {index} has a negative", "count from 0")
    # As a key the epoch and index cannot run into a seed of more than 32 bits, as they do in one list with it.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, index)))
