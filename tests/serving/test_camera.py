"""A camera in a page: the answers are those of ``Recognizer.step``, and what is wrong ends the connection."""

import json
import struct
from contextlib import contextmanager, suppress

import cv2
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from actionfusion.inference.recognizer import Recognizer


def jpeg(index, width=64, height=48):
    picture = np.random.default_rng(5).integers(0, 90, (height, width, 3), dtype=np.uint8)
    picture[8:24, 2 * index % 48 : 2 * index % 48 + 16] = 240
    return cv2.imencode(".jpg", picture)[1].tobytes()


@contextmanager
def camera(server, first=None, **more):
    address = f"ws://127.0.0.1:{server.port}/api/stream"
    with connect(address, subprotocols=["actionfusion.v1"], compression=None, **more) as line:
        line.send(json.dumps({"token": None, "every": 2, "rate": 25.0} if first is None else first))
        yield line


def message(time, data):
    return struct.pack("<d", time) + data


def error_of(line):
    kind = json.loads(line.recv(20))["error"]["kind"]
    with pytest.raises(ConnectionClosed):
        line.recv(20)
    return kind


def test_answers_are_those_of_a_stream(server, tiny_run, wait_until):
    recognizer = Recognizer.load(tiny_run, runtime="torch", device="cpu")
    state, expected = recognizer.start(2), []
    for index in range(24):
        picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg(index), np.uint8), 1), cv2.COLOR_BGR2RGB)
        answer, state = recognizer.step(picture, state, 100 + index / 25)
        if answer is not None:
            expected.append((answer.time, recognizer.best(answer.probabilities, 5)))
    found = []
    with camera(server) as line:
        assert line.subprotocol == "actionfusion.v1"
        assert json.loads(line.recv(20)) == {"ready": True, "every": 2}
        for index in range(24):
            line.send(message(100 + index / 25, jpeg(index)))
            try:  # wait after each picture, so that none is dropped
                found.append(json.loads(line.recv(0.2)))
            except TimeoutError:
                continue
    assert [item["time"] for item in found] == [time for time, _ in expected]
    for item, (_, best) in zip(found, expected, strict=True):
        assert item["dropped"] == 0
        assert item["method"] == "exact state"
        assert item["delay_ms"] >= 0
        scores = {each["label"]: each["score"] for each in item["predictions"]}
        assert scores == pytest.approx({each.label: each.probability for each in best}, abs=1e-5)
    wait_until(lambda: server.answers.cameras == 0)


def test_pictures_that_come_too_fast_are_dropped_and_counted(server):
    with camera(server) as line:
        line.recv(20)
        for index in range(300):
            line.send(message(index / 1000, jpeg(index)))
        answers = []
        # Slowly now: a sample is answered when its next pictures are there, and of those before many are dropped.
        while (not answers or answers[-1]["time"] < 0.3) and index < 700:
            index += 1
            line.send(message(index / 1000, jpeg(index)))
            with suppress(TimeoutError):
                answers.append(json.loads(line.recv(0.1)))
    assert answers[-1]["time"] >= 0.3
    assert answers[-1]["dropped"] > 0
    assert len(answers) + answers[-1]["dropped"] <= index + 1


WRONG = [[], {"every": 0}, {"every": "x"}, {"every": True}, {"rate": 0}, {"rate": "x"}, {"rate": -1}, {"x": "y" * 9999}]


@pytest.mark.parametrize("first", WRONG)
def test_a_first_message_that_makes_no_sense_is_refused(server, first):
    with camera(server, first) as line:
        assert error_of(line) in ("settings", "request")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "request"),
        (b"short", "request"),
        (message(0, b""), "request"),
        (message(0, b"\x89PNG\r\n\x1a\n" + bytes(100)), "request"),
        (message(float("nan"), jpeg(0)), "request"),
        (message(float("inf"), jpeg(0)), "request"),
        (message(0, jpeg(0)[:200]), "damaged"),
        (message(0, b"\xff\xd8" + bytes(1000)), "damaged"),
        (message(0, b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\3" + bytes(100)), "too_large"),
        (message(0, cv2.imencode(".jpg", np.zeros((600, 800, 3), np.uint8))[1].tobytes()), "too_large"),
    ],
)
def test_a_picture_that_is_none_ends_the_connection(server, data, kind, wait_until):
    with camera(server) as line:
        line.recv(20)
        line.send(data)
        assert error_of(line) == kind
    wait_until(lambda: server.answers.cameras == 0)


def test_times_must_grow_and_pictures_be_bytes(server):
    for second in (message(0, jpeg(1)), "text"):
        with camera(server) as line:
            line.recv(20)
            line.send(message(0, jpeg(0)))
            line.send(second)
            assert error_of(line) == "request"


def test_a_message_that_is_too_large_ends_the_connection(server):
    with camera(server) as line:
        line.recv(20)
        line.send(message(0, b"\xff\xd8" + bytes(100_000)))
        with pytest.raises(ConnectionClosed):
            line.recv(20)


def test_cameras_are_bounded_and_leave_nothing(server, wait_until):
    wait_until(lambda: server.answers.cameras == 0)
    with camera(server) as one:
        one.recv(20)
        with camera(server) as two:
            assert error_of(two) == "busy"
    wait_until(lambda: server.answers.cameras == 0)
    with camera(server) as again:
        assert json.loads(again.recv(20))["ready"]
    wait_until(lambda: server.answers.cameras == 0)


def test_the_token_comes_with_the_first_message(running, tiny_run, tmp_path, small_limits):
    token = "a-token-of-no-secret-at-all"
    with running(tiny_run, tmp_path, limits=small_limits, token=token) as server:
        for wrong in (None, "wrong-token-of-some-length", 5):
            with camera(server, {"token": wrong, "every": 2}) as line:
                assert error_of(line) == "token"
        with camera(server, {"token": token, "every": 2}) as line:
            assert json.loads(line.recv(20))["ready"]
