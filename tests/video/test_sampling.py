"""Which frames are sampled: eqs 13-14, the random interval, and the random numbers of a sample."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from actionfusion.errors import SettingsError
from actionfusion.video.sampling import evenly_spaced, random_interval, sample_generator

nums_frames = st.integers(1, 600)
counts = st.integers(1, 40)
ranges = st.tuples(st.integers(1, 12), st.integers(1, 12)).map(lambda ends: (min(ends), max(ends)))
samples = st.tuples(st.integers(0, 2**70), st.integers(0, 10**4), st.integers(0, 10**6))


def looks_uniform(counter):
    """A test at 0.1 %; the seeds are fixed, so it fails always or never.  One value alone is uniform."""
    return len(counter) == 1 or chisquare(list(counter.values())).pvalue > 0.001


def interval_of(positions):
    steps = set(np.diff(positions).tolist())
    assert len(steps) == 1
    return steps.pop()


@pytest.mark.parametrize(
    ("num_frames", "count", "counted_from_1"),
    [
        (22, 17, list(range(1, 18))),  # UCF Sports' shortest video: t' = 1, the tail is dropped
        (300, 17, list(range(17, 290, 17))),
        (17, 17, list(range(1, 18))),
        (33, 17, list(range(1, 18))),
        (34, 17, list(range(2, 35, 2))),
        (5, 8, [1, 2, 3, 4, 5, 5, 5, 5]),
        (1, 3, [1, 1, 1]),
        (10, 1, [10]),
    ],
)
def test_equations_13_and_14(num_frames, count, counted_from_1):
    positions = evenly_spaced(num_frames, count)
    assert (positions + 1).tolist() == counted_from_1
    assert positions.dtype == np.int64


@given(nums_frames, counts)
@settings(deadline=None)
def test_even_sampling_as_the_equations_write_it(num_frames, count):
    positions = evenly_spaced(num_frames, count)
    if num_frames >= count:
        assert positions.tolist() == [k * int(num_frames / count) - 1 for k in range(1, count + 1)]
    else:
        assert positions.tolist() == list(range(num_frames)) + [num_frames - 1] * (count - num_frames)


@given(nums_frames, counts, ranges, samples)
@settings(max_examples=300, deadline=None)
def test_a_random_sample_has_t_frames_within_the_video_at_one_interval(num_frames, count, intervals, sample):
    positions = random_interval(num_frames, count, sample_generator(*sample), intervals)
    assert positions.shape == (count,)
    assert positions.dtype == np.int64
    assert positions.min() >= 0
    assert positions.max() < num_frames
    if num_frames < count:
        assert positions.tolist() == list(range(num_frames)) + [num_frames - 1] * (count - num_frames)
    elif count > 1:
        longest = (num_frames - 1) // (count - 1)
        assert min(intervals[0], longest) <= interval_of(positions) <= min(intervals[1], longest)


@given(nums_frames, samples)
@settings(deadline=None)
def test_a_sample_is_a_function_of_seed_epoch_and_index_alone(num_frames, sample):
    np.random.default_rng().random()
    first = random_interval(num_frames, 17, sample_generator(*sample))
    sample_generator(1, 2, 3).random(5)
    np.testing.assert_array_equal(first, random_interval(num_frames, 17, sample_generator(*sample)))


@pytest.mark.parametrize(
    ("num_frames", "intervals", "expected"),
    [
        (400, (2, 10), range(2, 11)),
        (161, (2, 10), range(2, 11)),  # 16 steps of 10 just fit
        (160, (2, 10), range(2, 10)),
        (49, (2, 10), range(2, 4)),
        (33, (2, 10), [2]),
        (32, (2, 10), [1]),  # not even 2 fits
        (17, (2, 10), [1]),
        (100, (3, 3), [3]),
        (400, (1, 4), range(1, 5)),
    ],
)
def test_every_interval_that_fits_is_drawn_equally_often(num_frames, intervals, expected):
    num_draws = 300 * len(expected)
    drawn = Counter(
        interval_of(random_interval(num_frames, 17, sample_generator(0, 0, index), intervals))
        for index in range(num_draws)
    )
    assert sorted(drawn) == list(expected)
    assert looks_uniform(drawn)


@pytest.mark.parametrize(("num_frames", "interval", "num_starts"), [(60, 3, 12), (37, 2, 5), (33, 2, 1), (25, 1, 9)])
def test_the_start_is_uniform_over_all_that_fit(num_frames, interval, num_starts):
    starts = Counter(
        int(random_interval(num_frames, 17, sample_generator(7, epoch, 3), (interval, interval))[0])
        for epoch in range(200 * num_starts)
    )
    assert sorted(starts) == list(range(num_starts))
    assert looks_uniform(starts)


def test_one_frame_is_drawn_from_the_whole_video():
    assert {int(random_interval(5, 1, sample_generator(0, 0, i))[0]) for i in range(200)} == set(range(5))


def test_neighbouring_samples_have_streams_of_their_own():
    sizes = (0, 1, 2, 3, 2**32, 2**32 + 1, 2**33)
    streams = {
        tuple(sample_generator(seed, epoch, index).integers(0, 2**63, 4).tolist())
        for seed in sizes
        for epoch in sizes[:4]
        for index in sizes[:4]
    }
    assert len(streams) == len(sizes) * 4 * 4


def test_draws_of_neighbouring_samples_are_independent():
    draws = np.array([[sample_generator(0, epoch, index).random() for index in range(60)] for epoch in range(60)])
    assert chisquare(np.histogram(draws, bins=20, range=(0, 1))[0]).pvalue > 0.001
    for one, other in ((draws[:, :-1], draws[:, 1:]), (draws[:-1], draws[1:])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("sample", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_a_negative_number_names_no_sample(sample):
    with pytest.raises(SettingsError, match=r"^seed: "):
        sample_generator(*sample)


@pytest.mark.parametrize(("num_frames", "count"), [(0, 17), (-1, 17), (10, 0), (10, -2)])
def test_nothing_can_be_sampled_from_nothing(num_frames, count):
    with pytest.raises(SettingsError, match=r"^sampling: "):
        evenly_spaced(num_frames, count)
    with pytest.raises(SettingsError, match=r"^sampling: "):
        random_interval(num_frames, count, sample_generator(0, 0, 0))


@pytest.mark.parametrize("intervals", [(0, 3), (-2, 2), (5, 4)])
def test_intervals_that_are_no_range_are_refused(intervals):
    with pytest.raises(SettingsError, match=r"^sampling\.intervals: "):
        random_interval(100, 17, sample_generator(0, 0, 0), intervals)
