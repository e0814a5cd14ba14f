"""Intervals against scipy, hand-computed figures, simulated groups, and what must hold of any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t, ttest_1samp

from actionfusion.intervals import clustered_difference, clustered_wilson, clusters, wilson

answers_in_groups = st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=2, max_size=12)


def flat(groups):
    right = [value for group in groups for value in group]
    return right, [f"g{number}" for number, group in enumerate(groups) for _ in group]


@given(st.integers(1, 3000), st.data())
def test_wilson_is_scipys(count, data):
    correct = data.draw(st.integers(0, count))
    bounds = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    assert wilson(correct, count) == pytest.approx((bounds.low, bounds.high), abs=1e-12)


@given(answers_in_groups)
def test_by_group_it_is_never_narrower_than_wilson(groups):
    right, units = flat(groups)
    low, high = clustered_wilson(right, units)
    plain = wilson(sum(right), len(right))
    assert low <= plain[0] + 1e-12
    assert high >= plain[1] - 1e-12
    assert 0 <= low <= sum(right) / len(right) + 1e-12
    assert sum(right) / len(right) - 1e-12 <= high <= 1


@given(st.lists(st.booleans(), min_size=3, max_size=20), st.integers(2, 8))
def test_groups_that_are_all_alike_inside_count_as_one_answer_each(groups, size):
    """And wider than Wilson's of the single videos, whatever the share."""
    right, units = flat([[value] * size for value in groups])
    number = len(groups)
    shrunk = (1.959963984540054 / t.ppf(0.975, number - 1)) ** 2
    share = sum(groups) / number
    # The variance between groups is p (1 - p) / (G - 1), that of single videos p (1 - p) / (n - 1).
    effective = number if share in {0, 1} else number * size * (number - 1) / (number * size - 1)
    effective *= shrunk
    low, high = clustered_wilson(right, units)
    assert (low, high) == pytest.approx(wilson(share * effective, effective), abs=1e-9)
    plain = wilson(sum(right), len(right))
    assert high - low > plain[1] - plain[0]


def test_a_design_effect_computed_by_hand():
    """Groups of 4: 4, 4, 2, 0 right.  p = 10/16; residuals 1.5, 1.5, -0.5, -2.5; var = 4/3 * 11 / 256 = 0.0573;

    of single videos 0.234375 / 15 = 0.015625; the design effect is 3.6667, the effective size 4.3636.
    """
    right, units = flat([[1] * 4, [1] * 4, [1, 1, 0, 0], [0] * 4])
    effective = 16 / (4 / 3 * 11 / 256 / 0.015625) * (1.959963984540054 / 3.182446305284263) ** 2
    assert effective == pytest.approx(4.363636 * 0.379294, abs=1e-5)
    assert clustered_wilson(right, units) == pytest.approx(wilson(0.625 * effective, effective))


def test_it_covers_what_others_miss():
    """Five groups of ten videos, their shares spread by a beta distribution about 0.7."""
    generator = np.random.default_rng(0)
    units = np.repeat([f"g{number}" for number in range(5)], 10).tolist()
    covered = {"groups": 0, "videos": 0}
    for _ in range(200):
        shares = generator.beta(2.1, 0.9, 5)
        right = (generator.random((5, 10)) < shares[:, None]).reshape(-1)
        intervals = (clustered_wilson(right, units), wilson(right.sum(), 50))
        for name, (low, high) in zip(covered, intervals, strict=True):
            covered[name] += low <= 0.7 <= high
    assert covered["groups"] / 200 > 0.93
    assert covered["videos"] / 200 < 0.85


def test_more_confidence_is_wider():
    right, units = flat([[1] * 4, [1] * 4, [1, 1, 0, 0], [0] * 4])
    effective = 16 / (4 / 3 * 11 / 256 / 0.015625) * (2.5758293035489 / t.ppf(0.995, 3)) ** 2
    assert clustered_wilson(right, units, 0.99) == pytest.approx(wilson(0.625 * effective, effective, 2.5758293035489))


def test_one_group_alone_tells_nothing():
    assert clustered_wilson([True, False], ["a", "a"]) is None
    assert clustered_difference([1.0, 0.0], ["a", "a"]) is None


def test_videos_without_a_group_are_drawn_alone():
    units = clusters(["a", None, "a", None], ["one", "two", "three", "four"])
    assert units[0] == units[2]
    assert len(set(units)) == 3
    assert "a" not in clusters([None], ["a"]), "a video is no group of the same name"


def test_of_groups_of_one_size_the_difference_is_students():
    means = np.random.default_rng(3).choice([-0.5, 0.0, 0.5], 7)
    units = np.repeat([f"g{number}" for number in range(7)], 4)
    expected = ttest_1samp(means, 0).confidence_interval(0.95)
    assert clustered_difference(np.repeat(means, 4), units) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("groups", [2, 3, 9])
def test_the_difference_of_equals_is_told_from_none_no_oftener_than_announced(groups):
    generator, units = np.random.default_rng(0), np.repeat([f"g{number}" for number in range(groups)], 10)
    told = 0
    for _ in range(400):
        shares = np.clip(generator.normal(0.7, 0.15, (2, groups)), 0, 1).repeat(10, axis=1)
        first, second = generator.random(shares.shape) < shares
        low, high = clustered_difference(first.astype(float) - second, units)
        told += not low <= 0 <= high
    assert told / 400 < 0.1


def test_a_difference_that_never_varies_is_not_certain():
    units = [f"g{number}" for number in range(9)] * 4
    none = clustered_wilson([False] * 36, units)[1]
    assert clustered_difference([0.0] * 36, units) == pytest.approx((-none, none))
    assert clustered_difference([1.0] * 36, units) == pytest.approx((1 - 2 * none, 1))
