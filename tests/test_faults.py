"""A few of the faults of ``benchmarks/faults.py``, which fails every write of every command."""

import pytest

from faults import KINDS, Bench, clips_in, driver


@pytest.fixture(scope="module")
def commands():
    """The process that runs them."""
    with driver() as started:
        yield started


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return clips_in(tmp_path_factory.mktemp("clips"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "prepare"])
def test_after_a_write_that_fails_the_command_ends_in_one_line_and_goes_on(command, commands, clips, tmp_path):
    bench = Bench(command, clips, tmp_path / "work", commands)
    assert bench.writes > 10
    # From the first write to the last, each kind of fault in turn.
    numbers = range(1, bench.writes + 1, bench.writes // 5)
    wrong = {
        (number, kind): bench.faults_of(kind, number)
        for number, kind in ((number, KINDS[turn % len(KINDS)]) for turn, number in enumerate(numbers))
    }
    assert not any(wrong.values()), wrong
