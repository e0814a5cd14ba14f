"""Calibration against scikit-learn, hand-computed bins, and answers whose temperature is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from actionfusion.evaluation.calibration import calibration, fit_temperature, tempered


def drawn(seed, count=200, classes=4, sharpness=2.0):
    generator = np.random.default_rng(seed)
    probabilities = softmax(generator.normal(0, sharpness, (count, classes)), axis=1)
    targets = np.array([generator.choice(classes, p=row) for row in probabilities])
    return targets, probabilities


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 60))
def test_scores_are_sklearns(seed, classes, count):
    targets, probabilities = drawn(seed, count, classes)
    figures = calibration(targets, probabilities)
    labels = list(range(classes))
    truth = np.eye(classes)[targets]
    assert figures.nll == pytest.approx(log_loss(targets, probabilities, labels=labels), abs=1e-9)
    assert figures.brier == pytest.approx(((probabilities - truth) ** 2).sum() / count)
    if classes > 2:
        theirs = brier_score_loss(targets, probabilities, labels=labels, scale_by_half=False)
        assert figures.brier == pytest.approx(theirs)


@given(st.integers(0, 10**6), st.integers(1, 300))
def test_bins_are_sklearns_and_make_the_error(seed, count):
    targets, probabilities = drawn(seed, count)
    figures = calibration(targets, probabilities)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    accuracies, confidences = calibration_curve(right, confidence, n_bins=15)
    filled = [part for part in figures.bins if part.count]
    assert [part.accuracy for part in filled] == pytest.approx(accuracies)
    assert [part.confidence for part in filled] == pytest.approx(confidences)
    assert sum(part.count for part in figures.bins) == count
    error = sum(part.count / count * abs(part.accuracy - part.confidence) for part in filled)
    assert figures.ece == pytest.approx(error)
    assert [part.low for part in figures.bins] == pytest.approx([number / 15 for number in range(15)])
    assert all(part.accuracy is None and part.confidence is None for part in figures.bins if not part.count)


def test_an_error_computed_by_hand():
    """Sure with 0.9 and right in 1 of 2, sure with 0.6 and right in 2 of 2: (2 * 0.4 + 2 * 0.4) / 4."""
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]])
    assert calibration(np.array([0, 0, 0, 1]), probabilities).ece == pytest.approx(0.4)


def test_the_surest_and_the_least_sure_fall_into_a_bin():
    figures = calibration(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert figures.bins[-1].count == 2
    assert np.isfinite(figures.nll), "a probability of 0 in single precision is no certainty"
    assert calibration(np.zeros(0, np.int64), np.zeros((0, 3))) is None


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_is_found(true):
    targets, probabilities = drawn(5, 20000)
    distorted = tempered(probabilities, 1 / true)
    found = fit_temperature(targets, distorted)
    assert found == pytest.approx(true, rel=0.05)
    before, after = calibration(targets, distorted), calibration(targets, tempered(distorted, found))
    assert after.nll <= before.nll + 1e-12
    assert after.ece < 0.015
    if true != 1:
        assert before.ece > 0.05


@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_a_temperature_changes_no_answer_and_no_other_has_less_loss(seed, other):
    targets, probabilities = drawn(seed, 40)
    found = fit_temperature(targets, probabilities)
    loss = calibration(targets, tempered(probabilities, found)).nll
    assert loss <= calibration(targets, tempered(probabilities, other)).nll + 1e-6
    assert (tempered(probabilities, other).argmax(1) == probabilities.argmax(1)).all()
    np.testing.assert_allclose(tempered(probabilities, 1.0), probabilities, atol=1e-12)


def test_where_all_is_right_the_coolest_is_taken():
    probabilities = np.array([[0.7, 0.3], [0.2, 0.8]])
    assert fit_temperature(np.array([0, 1]), probabilities) == 0.02
