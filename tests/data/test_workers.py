"""Tasks reach their results whatever becomes of a process."""

import math
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time

import cv2
import pytest

from actionfusion.data.store import check_quality
from actionfusion.data.workers import WorkerDied, WorkerPool
from actionfusion.errors import SettingsError


def test_pool_gives_each_task_its_result():
    with WorkerPool(2) as pool:
        assert sorted(pool.run(operator.neg, range(20))) == [(task, -task) for task in range(20)]
        # A process that dies is replaced, and the others are not disturbed.
        results = dict(pool.run(os._exit, [3, 4, 5]))
        assert results == {code: WorkerDied(code) for code in (3, 4, 5)}
        assert dict(pool.run(operator.neg, [1, 2, 3])) == {1: -1, 2: -2, 3: -3}
        with pytest.raises(RuntimeError, match="math domain error"):
            list(pool.run(math.sqrt, [-1.0]))
        # An error of ours comes as it is.
        with pytest.raises(SettingsError, match="0 is no JPEG quality"):
            list(pool.run(check_quality, [0]))
    assert multiprocessing.active_children() == []


def test_each_process_keeps_to_one_opencv_thread():
    before = cv2.getNumThreads()
    with WorkerPool(1) as pool:
        assert [count for _, count in pool.run(operator.call, [cv2.getNumThreads])] == [1]
    with WorkerPool(0) as pool:
        assert [count for _, count in pool.run(operator.call, [cv2.getNumThreads])] == [1]
    assert cv2.getNumThreads() == before


def test_leaving_by_an_exception_ends_the_work_at_once():
    start = time.monotonic()

    def work():
        with WorkerPool(2) as pool:
            for task, _ in pool.run(time.sleep, [0, 600, 600]):
                assert task == 0
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - start < 60
    assert multiprocessing.active_children() == []


BLOCKED = """
import signal
from actionfusion.data.workers import interrupts_held_back
with interrupts_held_back():
    print(*sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
print(*signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no signal masks")
def test_the_first_process_too_starts_without_seeing_a_signal():
    # In a process of its own, where multiprocessing's resource tracker does not run yet: to start it unblocks two.
    shown = subprocess.run([sys.executable, "-c", BLOCKED], check=True, capture_output=True, text=True).stdout
    assert shown.splitlines() == [f"{signal.SIGHUP:d} {signal.SIGINT:d} {signal.SIGTERM:d}", ""]


def test_how_a_process_ended_is_said():
    assert str(WorkerDied(3)) == "exit code 3"
    assert str(WorkerDied(-9)) == "Killed"


def test_a_number_of_processes():
    with pytest.raises(SettingsError, match="-1 processes"):
        WorkerPool(-1)
    with WorkerPool(3) as pool:
        assert list(pool.run(operator.neg, [])) == []
        assert multiprocessing.active_children() == []
