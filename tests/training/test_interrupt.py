"""A wish to stop is never lost, whenever it comes."""

import signal

import pytest

from actionfusion.training.interrupt import StopRequested, stop_switch


def asked_to_stop(stop):
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(StopRequested):
        stop.check()


def test_a_stop_waits_for_the_end_of_a_step():
    with pytest.raises(KeyboardInterrupt), stop_switch() as stop:
        asked_to_stop(stop)


def test_a_stop_that_no_step_saw_stops_what_follows():
    with pytest.raises(KeyboardInterrupt), stop_switch():
        signal.raise_signal(signal.SIGTERM)


def test_without_a_stop_nothing_is_raised():
    with stop_switch() as stop:
        stop.check()
