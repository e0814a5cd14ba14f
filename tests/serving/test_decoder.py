"""The decoding process, run within this one: what it says of a video, and what it never says."""

import io
import json

import numpy as np
import pytest

from actionfusion.run_folder import open_run
from actionfusion.serving import decoder as decoding
from actionfusion.serving.limits import VIDEO_CODECS
from actionfusion.serving.messages import LENGTH, BrokenMessage, array_sizes, as_array, packed, read_header
from actionfusion.settings import plain


@pytest.fixture
def do(tiny_run):
    """Gives a decoder jobs, and reads what it answers."""
    clip = open_run(tiny_run).clip

    def run(*jobs, rates=None):
        limits = {"pixels": 640 * 480, "frames": 400, "seconds": 20.0, "codecs": sorted(VIDEO_CODECS)}
        given = io.BytesIO()
        for job in jobs:
            data = job.pop("data", b"")
            for part in packed(job):
                given.write(part)
            given.write(data)
        given.seek(0)
        channel = io.BytesIO()
        setup = {"clip": json.loads(json.dumps(plain(clip))), "rates": rates, "limits": limits}
        decoding.Decoder(given, channel, setup).run()
        channel.seek(0)
        found = []
        while (header := decoding.receive(channel)) is not None:
            sizes = array_sizes(header).items()
            arrays = {name: as_array(channel.read(size), kind, shape) for name, (kind, shape, size) in sizes}
            if header["kind"] != "progress":
                found.append((header, arrays))
        assert found[0][0]["kind"] == "ready"
        return found[1:]

    return run


def test_a_clip_is_that_of_the_recognizer(do, clip, tiny_run):
    from actionfusion.inference.recognizer import Recognizer

    wanted = Recognizer.load(tiny_run, runtime="torch", device="cpu").clip(clip)
    (answer, arrays), (done, _) = do({"task": "clip", "path": str(clip), "threads": 1})
    assert (answer["kind"], done["kind"]) == ("clip", "done")
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, getattr(wanted, name))


def test_rates_far_from_those_of_the_run_are_noted(do, clip):
    rates = {"low": 5.0, "median": 5.0, "high": 5.0, "videos": 3}
    (answer, _), _ = do({"task": "clip", "path": str(clip), "threads": 1}, rates=rates)
    assert "read at 5" in answer["note"]


def test_samples_come_one_by_one_with_the_end(do, clip):
    *samples, (end, _), (done, _) = do({"task": "samples", "path": str(clip), "threads": 1, "every": 4})
    assert {header["kind"] for header, _ in samples} == {"sample"}
    assert (end["kind"], end["error"], done["kind"]) == ("end", None, "done")
    assert end["seconds"] > samples[-1][0]["time"]


def test_a_camera_is_followed_until_another_message(do):
    import cv2

    data = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    pictures = [{"kind": "picture", "time": index / 25, "bytes": len(data), "data": data} for index in range(8)]
    *answers, (done, _) = do({"task": "camera", "every": 2, "threads": 1}, *pictures, {"kind": "end"})
    assert [header["kind"] for header, _ in answers].count("sample") == 3
    assert done["kind"] == "done"


def test_an_error_names_no_path_of_the_server(do, tmp_path):
    path = tmp_path / "0123456789abcdef"
    path.write_text("no video")
    (error, _), (done, _) = do({"task": "clip", "path": str(path), "threads": 1})
    assert (error["kind"], error["name"], done["kind"]) == ("error", "not_a_video", "done")
    (gone, _), _ = do({"task": "samples", "path": str(tmp_path / "gone"), "threads": 1, "every": 2})
    assert gone["name"] == "missing"
    assert str(tmp_path) not in json.dumps([error, gone])


@pytest.mark.parametrize(
    "head",
    [b"", b"[]", b"{", b"[" * 60_000, b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff", b'"' + b"x" * (1 << 17) + b'"'],
)
def test_what_is_no_message_is_broken(head):
    with pytest.raises(BrokenMessage):
        read_header(head)


@pytest.mark.parametrize(
    "arrays",
    [
        [],
        {"a": []},
        {"a": "u1"},
        {"a": ["O", 1]},
        {"a": ["u1", -1]},
        {"a": ["u1", 1.5]},
        {"a": ["u1", True]},
        {"a": ["u1", 1 << 40]},
        {"a": ["u1", 1, 1, 1, 1, 1]},
        {"a": ["f8", 1 << 16, 1 << 16]},
        {"a": ["u1", 1 << 30], "b": ["u1", 1]},
    ],
)
def test_arrays_that_no_clip_has_are_broken(arrays):
    with pytest.raises(BrokenMessage):
        array_sizes({"arrays": arrays})


def test_a_message_that_is_cut_short_is_its_end():
    assert decoding.receive(io.BytesIO(b"\1")) is None
    with pytest.raises(EOFError):
        decoding.receive(io.BytesIO(LENGTH.pack(10) + b"{}"))
