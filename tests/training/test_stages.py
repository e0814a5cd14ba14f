"""When a stage ends, and how fast it learns until then."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionfusion.errors import SettingsError
from actionfusion.training.stages import PAPER_STAGES, Plateau, Stage


def test_the_papers_two_stages():
    assert [(item.learning_rate, item.max_epochs) for item in PAPER_STAGES] == [(1e-5, 140), (1e-6, 46)]
    assert all(item.schedule == "constant" for item in PAPER_STAGES)


def test_plateau_waits_for_its_patience_and_starts_anew_when_accuracy_rises():
    plateau = Plateau()
    seen = [(0.5, 1.0), (0.5, 0.9), (0.6, 0.9), (0.6, 0.8), (0.5, 0.1)]
    better = [plateau.update(*figures) for figures in seen[:4]]
    assert better == [True, True, True, True]
    assert not plateau.reached(2)
    assert not plateau.update(*seen[4])
    assert plateau.reached(2)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 5))
def test_plateau_is_reached_exactly_when_the_best_is_that_old(accuracies, patience):
    plateau = Plateau()
    for count, accuracy in enumerate(accuracies, 1):
        plateau.update(accuracy, 1.0)
        first_best = accuracies.index(max(accuracies[:count]))
        assert plateau.reached(patience) == (count - 1 - first_best >= patience)


def test_no_patience_never_ends():
    plateau = Plateau()
    for _ in range(100):
        plateau.update(0.1, 1.0)
    assert not plateau.reached(None)


def test_cosine_climbs_and_falls_to_zero():
    stage = Stage(learning_rate=1e-3, schedule="cosine", warmup=0.1)
    assert stage.rate_at(0) == pytest.approx(1e-4)
    assert stage.rate_at(0.1) == pytest.approx(1e-3)
    assert stage.rate_at(0.55) == pytest.approx(5e-4)
    assert stage.rate_at(1) == pytest.approx(0, abs=1e-12)
    assert Stage(schedule="cosine", warmup=0.0).rate_at(0) == pytest.approx(1e-5)


@pytest.mark.parametrize("wrong", [{"learning_rate": 0}, {"max_epochs": 0}, {"patience": 0}, {"warmup": 1}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingsError):
        Stage(**wrong)
