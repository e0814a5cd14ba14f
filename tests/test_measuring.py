"""What the benchmarks measure with: parts are counted once, everything is put back, cases run in turn."""

from importlib import import_module
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def measuring():
    return import_module("measuring")


@pytest.fixture
def burn(measuring, monkeypatch):
    """Moves a clock that only this moves."""
    now = [0.0]

    def move(seconds):
        now[0] += seconds

    clock = SimpleNamespace(process_time=lambda: now[0], perf_counter=lambda: now[0])
    monkeypatch.setattr(measuring, "time", clock)
    monkeypatch.setattr("actionfusion.timing.time", clock)
    return move


def test_parts_add_up_to_the_whole_and_nothing_counts_twice(measuring, burn):
    room = SimpleNamespace(inner=lambda: burn(2))
    room.outer = lambda: (burn(3), room.inner())
    room.steps = lambda count: (burn(1) for _ in range(count))
    room.make = lambda: lambda: burn(4)
    before = dict(vars(room))
    with measuring.Stopwatch() as watch:
        watch.time(room, "inner", "inner")
        watch.time(room, "outer", "outer")
        watch.time_generator(room, "steps", "steps")
        watch.time_made(room, "make", "made")
        room.outer()
        room.inner()
        assert len(list(room.steps(4))) == 4
        room.make()()
        burn(5)
    assert watch.seconds == {"outer": 5, "inner": 2, "steps": 4, "made": 4}
    assert watch.calls == {"outer": 1, "inner": 2, "steps": 5, "made": 1}
    assert watch.shares(20, ("inner", "outer", "steps", "made")) == {
        "inner": 0.1,
        "outer": 0.25,
        "steps": 0.2,
        "made": 0.2,
        "rest": 0.25,
    }
    assert vars(room) == before


def test_a_part_may_depend_on_the_arguments(measuring):
    room = SimpleNamespace(work=lambda kind: kind)
    with measuring.Stopwatch() as watch:
        watch.time(room, "work", lambda kind: kind if kind == "flow" else None)
        assert [room.work("flow"), room.work("other")] == ["flow", "other"]
    assert watch.calls == {"flow": 1}


def test_everything_is_put_back_after_an_error(measuring):
    def fail():
        raise KeyError

    room = SimpleNamespace(work=fail)

    def watched():
        with measuring.Stopwatch() as watch:
            watch.time(room, "work", "part")
            room.work()

    with pytest.raises(KeyError):
        watched()
    assert room.work is fail


def test_cases_run_in_turn_and_the_first_round_is_not_counted(measuring, burn):
    runs = []
    costs = measuring.in_turn({"a": lambda: (runs.append("a"), burn(1)), "b": lambda: (runs.append("b"), burn(2))}, 3)
    assert runs == ["a", "b"] * 4
    assert costs == {"a": [(1, 1)] * 3, "b": [(2, 2)] * 3}


def test_ratios_are_taken_repetition_by_repetition(measuring):
    assert measuring.ratio([2, 6, 3], [1, 2, 3]) == {"median": 2, "low": 1, "high": 3}
