"""Fields computed in threads while pictures come are those computed afterwards, one by one."""

import threading

import cv2
import numpy as np
import pytest

from actionfusion.errors import SettingsError
from actionfusion.video.flow import FlowRecipe, compute_flow
from actionfusion.video.flow_maker import FlowMaker
from actionfusion.video.threads import ReadingStopped, Share, one_opencv_thread, sharing

RECIPE = FlowRecipe("dis", size=64)


def _pictures(count: int) -> list[np.ndarray]:
    texture = np.random.default_rng(1).integers(0, 256, (64, 64 + 3 * count, 3), np.uint8)
    texture = cv2.GaussianBlur(texture, (9, 9), 2)
    return [np.ascontiguousarray(texture[:, 3 * index : 3 * index + 64]) for index in range(count)]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("pairs", [[], [0], [0, 1, 2, 3, 4, 5, 6], [1, 5], [2, 3, 9]])
def test_the_fields_are_those_of_flow_fields(threads, pairs):
    pictures = _pictures(12)
    before = threading.active_count(), cv2.getNumThreads()
    with sharing(Share(threads, threading.Event())), FlowMaker(pairs, RECIPE) as maker:
        for index in sorted({*pairs, *(start + 1 for start in pairs), 7}):
            maker.add(index, pictures[index])
        fields = maker.fields()
    assert (threading.active_count(), cv2.getNumThreads()) == before
    assert fields.dtype == np.uint8
    np.testing.assert_array_equal(fields, compute_flow(pictures, pairs, RECIPE))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stop_and_a_fault_leave_no_thread_behind(threads):
    pictures = _pictures(6)
    before = threading.active_count(), cv2.getNumThreads()
    share = Share(threads, threading.Event())
    with sharing(share), FlowMaker(range(5), RECIPE) as maker:
        maker.add(0, pictures[0])
        maker.add(1, pictures[1])
        share.stop.set()
        with pytest.raises(ReadingStopped):
            maker.add(2, pictures[2])
    with FlowMaker(range(5), RECIPE) as maker, pytest.raises(SettingsError, match=r"give uint8 \[64, 64, 3\]"):
        maker.add(0, pictures[0][:, :32])
    assert (threading.active_count(), cv2.getNumThreads()) == before


def test_opencv_gets_its_threads_back_when_the_last_has_let_go():
    cv2.setNumThreads(3)
    try:
        first, second = one_opencv_thread(), one_opencv_thread()
        first.__enter__()
        second.__enter__()
        assert cv2.getNumThreads() == 1
        first.__exit__(None, None, None)
        assert cv2.getNumThreads() == 1
        second.__exit__(None, None, None)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(-1)  # as many as there are cores
