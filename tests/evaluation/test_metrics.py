"""Figures against hand counts, published numbers and properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionfusion.evaluation.metrics import Accuracy, classification_figures


def test_wilson_interval_of_45_right_answers():
    """45 of 45 gives a 95 % lower bound of 92.1 %."""
    low, high = Accuracy(45, 45).interval
    assert low == pytest.approx(0.921, abs=5e-4)
    assert high == 1.0


@given(st.integers(1, 500), st.data())
def test_wilson_interval_is_the_formulas(count, data):
    correct = data.draw(st.integers(0, count))
    z, share = 1.959963984540054, correct / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = Accuracy(correct, count).interval
    assert low == pytest.approx(max(centre - half, 0), abs=1e-9)
    assert high == pytest.approx(min(centre + half, 1), abs=1e-9)
    assert low <= share + 1e-12
    assert share <= high + 1e-12


def test_nothing_counted_says_nothing():
    assert Accuracy(0, 0).share == 0
    assert Accuracy(0, 0).interval == (0.0, 1.0)


@given(st.integers(2, 6), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_figures_are_those_counted_by_hand(classes, count, seed):
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, classes, count)
    probabilities = generator.dirichlet(np.ones(classes), count)
    figures = classification_figures([f"c{number}" for number in range(classes)], targets, probabilities)
    confusion = [[0] * classes for _ in range(classes)]
    for target, row in zip(targets, probabilities, strict=True):
        confusion[target][max(range(classes), key=row.__getitem__)] += 1
    assert figures.confusion.tolist() == confusion
    assert figures.top1 == Accuracy(sum(confusion[number][number] for number in range(classes)), count)
    assert [item.correct for item in figures.per_class] == [confusion[number][number] for number in range(classes)]
    assert [item.count for item in figures.per_class] == [sum(row) for row in confusion]


def test_it_is_said_with_count_and_interval():
    assert str(Accuracy(60, 96)) == "62.5 % (60/96; 95 % interval 52.5 to 71.5 %)"


@given(st.integers(2, 9), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_by_class_they_are_sklearns(classes, count, seed):
    from sklearn.metrics import f1_score, precision_score, recall_score, top_k_accuracy_score

    generator = np.random.default_rng(seed)
    targets, probabilities = generator.integers(0, classes, count), generator.dirichlet(np.ones(classes), count)
    figures = classification_figures([f"c{number}" for number in range(classes)], targets, probabilities)
    options = {"labels": list(range(classes)), "average": None, "zero_division": np.nan}
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        ours = [np.nan if getattr(part, name) is None else getattr(part, name) for part in figures.by_class]
        np.testing.assert_allclose(ours, score(targets, probabilities.argmax(1), **options))
    present = sorted(set(targets.tolist()))
    recalls = recall_score(targets, probabilities.argmax(1), labels=present, average="macro")
    assert figures.mean_class_accuracy == pytest.approx(recalls)
    assert figures.missing_classes == tuple(f"c{number}" for number in range(classes) if number not in present)
    if classes > 5:
        top5 = top_k_accuracy_score(targets, probabilities, k=5, labels=list(range(classes)))
        assert figures.top5.share == pytest.approx(top5)
        assert figures.top5.count == count
    else:
        assert figures.top5 is None


def test_the_first_five_of_equal_probabilities_are_those_that_predict_lists():
    figures = classification_figures("abcdefg", np.array([4, 5]), np.full((2, 7), 1 / 7))
    assert figures.top5 == Accuracy(1, 2)


def test_a_class_that_is_nowhere_has_no_figures():
    figures = classification_figures("abc", np.array([0, 0]), np.array([[0.6, 0.4, 0.0], [0.3, 0.7, 0.0]]))
    assert [(part.precision, part.recall) for part in figures.by_class] == [(1.0, 0.5), (0.0, None), (None, None)]
    assert figures.by_class[2].f1 is None
    assert figures.mean_class_accuracy == 0.5
    assert classification_figures("ab", np.zeros(0, np.int64), np.zeros((0, 2))).mean_class_accuracy == 0
