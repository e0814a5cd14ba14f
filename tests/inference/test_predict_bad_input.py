"""Every kind of bad, tiny and odd video in ``predict``: in its own row, whatever its neighbours are."""

import json
import os
from itertools import chain

import av
import numpy as np
import pytest

from actionfusion.__main__ import main
from actionfusion.inference import recognizer as recognizer_module
from actionfusion.inference.predict import predict
from actionfusion.video import video_source as video_source_module
from actionfusion.video.containers import MAX_PIXELS


def _pictures(count, width=64, height=48):
    """Noise over noise that moves: it compresses badly, so that a file is mostly pictures."""
    generator = np.random.default_rng(0)
    return list(generator.integers(0, 256, (count, height, width, 3), np.uint8))


def _sound(path, _):
    with path.open("wb") as file, av.open(file, "w", format="wav") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        tone.sample_rate = 8000
        out.mux([*stream.encode(tone), *stream.encode(None)])


def _no_frames(path, _):
    with path.open("wb") as file, av.open(file, "w", format="avi") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()


def _cut_off(path, write):
    path.write_bytes(write(path, _pictures(20), codec="libx264").read_bytes()[:-9000])


def _flipped(path, write):
    data = bytearray(write(path, _pictures(20), codec="libx264").read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 3000, 7):
        data[place] ^= 0xFF
    path.write_bytes(data)


def _huge(path, _):
    size = (65_535).to_bytes(2, "little") * 2
    assert MAX_PIXELS < 65_535**2
    palette = b"\x80\0\0" + bytes(3) + b"\xff" * 3
    path.write_bytes(b"GIF89a" + size + palette + b"\x2c" + bytes(4) + b"\1\0\1\0\0" + b"\2\2\x44\1\0" + b"\x3b")


def _bytes(data):
    return lambda path, _: path.write_bytes(data)


def _video(count, width=64, height=48, **settings):
    return lambda path, write: write(path, _pictures(count, width, height), **settings)


RAW = {"codec": "ffv1", "pixel_format": "bgr0"}  # of any size, odd ones too

# name: the file's, which kind of error it gives, and how it is made
BAD = {
    "empty": ("a.mp4", "not_a_video", _bytes(b"")),
    "text": ("notes.txt", "not_a_video", _bytes(b"hello world\n" * 100)),
    "page": ("page.mp4", "not_a_video", _bytes(b"<!DOCTYPE html><html><body>404</body></html>")),
    "playlist": ("list.m3u8", "not_a_video", _bytes(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n")),
    "picture": ("a.gif", "damaged", _bytes(b"GIF89a")),
    "cut off": ("a.mkv", "damaged", _cut_off),
    "without its table": ("a.mp4", "damaged", _cut_off),
    "flipped bits": ("a.mkv", "damaged", _flipped),
    "sound": ("a.wav", "no_video_stream", _sound),
    "no frames": ("a.avi", "no_frames", _no_frames),
    "huge": ("bomb.gif", "too_large", _huge),
    "folder": ("folder", "missing", lambda path, _: path.mkdir()),
    "pipe": ("pipe.mp4", "missing", lambda path, _: os.mkfifo(path)),
    "device": ("zero.mp4", "missing", lambda path, _: path.symlink_to("/dev/zero")),
    "loop": ("loop.mp4", "missing", lambda path, _: path.symlink_to(path)),
    "missing": ("none.mp4", "missing", lambda path, _: None),
    "no UTF-8": (b"\xff\xe9.mp4".decode("utf-8", "surrogateescape"), "missing", lambda path, _: None),
    "NUL": ("a\0b.mp4", "missing", lambda path, _: None),
    "long name": ("x" * 5000, "missing", lambda path, _: None),
}
ODD = {
    "one frame": ("a.avi", _video(1)),
    "two frames": ("a.mp4", _video(2, codec="libx264")),
    "fewer frames than T": ("a.mp4", _video(5, codec="libx264")),
    "1x1": ("a.mkv", _video(12, 1, 1, **RAW)),
    "very wide": ("a.mkv", _video(12, 3000, 1, **RAW)),
    "very high": ("a.mkv", _video(12, 2, 3000, **RAW)),
    "no UTF-8": (b"caf\xe9 \xff.mp4".decode("utf-8", "surrogateescape"), _video(12)),
    "newline and quotes": ("it's “odd”\n;rm *.mp4", _video(12)),
    "address": ("http:x.mp4", _video(12)),
    "grey": ("a.mkv", _video(12, codec="ffv1", pixel_format="gray")),
    "10 bits": ("a.mkv", _video(12, codec="libx264", pixel_format="yuv420p10le")),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory, write_video, tiny_run, shapes_root):
    """What ``predict --json`` says of all of them at once, sound videos between them; and of the sound ones alone."""
    root = tmp_path_factory.mktemp("videos")
    good = sorted(map(str, (shapes_root / "test").glob("*/*.mp4")))
    names, videos = [], []
    for number, (name, (file, *_, make)) in enumerate(chain(BAD.items(), ODD.items())):
        folder = root / str(number)
        folder.mkdir()
        make(folder / file, write_video)
        names += [name, "good"]
        videos += [str(folder / file), good[number % len(good)]]
    results, alone = (predict(tiny_run, some, runtime="torch") for some in (videos, good))
    return names, videos, results, {row.video: row for row in alone}


@pytest.mark.parametrize("name", [*(f"bad: {name}" for name in BAD), *(f"odd: {name}" for name in ODD)])
def test_each_bad_video_is_an_error_and_each_odd_one_an_answer(name, rows):
    names, videos, results, _ = rows
    kind, _, name = name.partition(": ")
    place = names.index(name) if kind == "bad" else len(names) - 1 - names[::-1].index(name)
    row = results[place]
    assert row.video == videos[place]
    if kind == "bad":
        assert row.predictions == ()
        assert row.error.kind == BAD[name][1]
        assert row.error.subject == row.video
        assert str(row.error).count("\n") == 0
        json.dumps(row.as_json())
    else:
        assert row.error is None
        assert sum(item.probability for item in row.predictions) <= 1.0001
        assert len(row.predictions) == 5


def test_the_rest_goes_on_in_its_place_with_its_own_answer(rows):
    names, videos, results, alone = rows
    assert [row.video for row in results] == videos
    assert results.failed
    for name, row in zip(names, results, strict=True):
        if name == "good":
            assert row.error is None
            assert row.predictions == alone[row.video].predictions


def test_it_exits_with_1_and_names_each_error(rows, tiny_run, capsys):
    names, videos, _, _ = rows
    bad = [video for name, video in zip(names, videos, strict=True) if name in ("empty", "sound", "folder")]
    assert main(["predict", str(tiny_run), *bad, videos[1], "--json", "--runtime", "torch"]) == 1
    captured = capsys.readouterr()
    assert [entry["error"] and entry["error"]["kind"] for entry in json.loads(captured.out)] == [
        *("not_a_video", "no_video_stream", "missing"),
        None,
    ]
    assert captured.err.count("error:") == 3


@pytest.mark.parametrize("later", ["shorter", "longer", "cut off", "another codec", "gone", "empty"])
@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_a_file_that_changes_while_it_is_read(name, later, tmp_path, write_video, tiny_run, monkeypatch):
    """Between looking through its packets and decoding them: the answer to what is there then, or an error."""
    settings = {"codec": "libx264"} if name == "a.mp4" else {}
    path = write_video(tmp_path / name, _pictures(24), **settings)
    after = tmp_path / f"after-{name}"
    if later in ("shorter", "longer"):
        write_video(after, _pictures(9 if later == "shorter" else 40), **settings)
    elif later == "another codec":
        write_video(after, _pictures(24), codec="mjpeg", pixel_format="yuvj420p")
    else:
        after.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 2] if later == "cut off" else b"")
    scan = video_source_module.scan_packets

    def scan_and_change(scanned):
        found = scan(scanned)
        if later == "gone":
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(after.read_bytes())
        return found

    monkeypatch.setattr(video_source_module, "scan_packets", scan_and_change)
    row = predict(tiny_run, [path], runtime="torch")[0]
    if later in ("shorter", "longer", "another codec"):
        monkeypatch.undo()
        fresh = recognizer_module.Recognizer.load(tiny_run, runtime="torch").predict(path)
        assert row.error is None
        assert row.predictions == tuple(fresh)
    else:
        assert row.error.kind == {"gone": "missing", "empty": "not_a_video", "cut off": "damaged"}[later]
