"""The command ``stream``: its answers are those of the file, one by one, and its ends are clean."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress

import av
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from actionfusion.__main__ import main
from actionfusion.errors import SettingsError, VideoDamaged, VideoError
from actionfusion.inference.intervals import usual_interval
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.streams.printing import StreamSummary
from actionfusion.inference.streams.stream import stream
from actionfusion.run_folder import open_run
from actionfusion.video.reading import Frame, count_frames, iterate_frames


@pytest.fixture(scope="module")
def recognizer(tiny_run):
    return Recognizer.load(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def clip(shapes_root):
    return next((shapes_root / "test" / "motion_up").glob("*.mp4"))


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def by_label(predictions):
    return {item["label"]: item["probability"] for item in predictions}


def offline(recognizer, path):
    return {item.label: item.probability for item in recognizer.predict(path, top_k=99)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for label, share in expected.items():
        assert found[label] == pytest.approx(share, abs=1e-4)


def check_file(recognizer, tiny_run, path, capsys):
    """T samples of the file, through the command, end with what ``predict`` says of it."""
    frames, count = recognizer.clip_settings.frames, count_frames(path)
    every = count // frames
    assert main(["stream", str(tiny_run), str(path), "--every", str(every), "--json", "--top_k", "99"]) == 0
    answers = lines(capsys)
    assert [answer["samples"] for answer in answers] == [min(n + 1, frames) for n in range(len(answers))]
    assert len(answers) == count // every
    assert_same(by_label(answers[frames - 1]["predictions"]), offline(recognizer, path))
    return answers


def test_a_file_answers_as_predict_does(recognizer, tiny_run, clip, capsys):
    answers = check_file(recognizer, tiny_run, clip, capsys)
    times = [answer["time"] for answer in answers]
    assert all(np.diff(times) > 0)
    assert [answer["settled"] for answer in answers[1:]] == times[:-1]
    assert [answer["start"] for answer in answers] == [times[max(0, n - 7)] for n in range(len(answers))]
    # 25 frames a second, and L / 2 = 2 frames that the flow of a sample needs after it.
    assert [answer["delay"] for answer in answers[:-1]] == pytest.approx([2 / 25] * (len(answers) - 1))
    assert all(answer["latency_ms"] > 0 and answer["dropped"] == 0 for answer in answers)


@pytest.mark.parametrize("name", ["weizmann", "ut-interaction", "UCF-101"])
def test_a_real_clip_answers_as_predict_does(recognizer, tiny_run, shared_data, name, capsys):
    path = min((shared_data / name).rglob("*.avi"), key=lambda each: (each.stat().st_size, each.name))
    check_file(recognizer, tiny_run, path, capsys)


def test_frames_can_be_stepped_by_hand(recognizer, clip):
    """The three lines of the README, with the state kept to try the last step twice."""
    frames = list(iterate_frames(clip, size=recognizer.clip_settings.flow.size))
    state, answers = recognizer.start(len(frames) // recognizer.clip_settings.frames), []
    for frame in frames:
        before = state
        answer, state = recognizer.step(frame, state)
        again, _ = recognizer.step(frame, before)
        if answer:
            answers.append(answer)
            np.testing.assert_array_equal(again.probabilities, answer.probabilities)
    answers += recognizer.stepper.finish(state)
    found = dict(zip(recognizer.labels, answers[recognizer.clip_settings.frames - 1].probabilities, strict=True))
    assert_same(found, offline(recognizer, clip))


def test_pictures_in_memory_are_scaled_and_timed(recognizer, clip):
    size = recognizer.clip_settings.flow.size
    state, other, times = recognizer.start(8), recognizer.start(8), []
    for frame in iterate_frames(clip, size=size):
        answer, state = recognizer.step(frame.image, state, time=frame.index / 5)
        expected, other = recognizer.step(Frame(frame.index, frame.index / 5, frame.image), other)
        assert (answer is None) == (expected is None)
        if answer:
            np.testing.assert_array_equal(answer.probabilities, expected.probabilities)
            times.append(answer.time)
    assert times[:2] == [7 / 5, 15 / 5]
    large = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    _, state = recognizer.step(large, recognizer.start(50))
    assert state.num_frames == 1
    _, state = recognizer.step(large, recognizer.start(1))
    assert state.collector.frames[-1].image.shape == (size, size, 3)


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_picture_is_refused(recognizer, picture):
    with pytest.raises(SettingsError, match="is no RGB picture"):
        recognizer.step(picture, recognizer.start(3))
    with pytest.raises(SettingsError, match="shape"):
        recognizer.step(Frame(0, 0.0, np.zeros((3, 3, 3), np.uint8)), recognizer.start(3))


@settings(max_examples=15)
@given(st.integers(1, 70), st.integers(1, 40))
def test_there_is_an_answer_for_each_whole_interval(recognizer, num_frames, every):
    size = recognizer.clip_settings.flow.size
    state, count = recognizer.start(every), 0
    for number in range(num_frames):
        answer, state = recognizer.step(np.full((size, size, 3), number, np.uint8), state)
        count += answer is not None
    assert count + len(recognizer.stepper.finish(state)) == num_frames // every


def test_the_interval_is_that_of_the_training(tiny_run, tmp_path, clip, capsys):
    assert usual_interval(open_run(tiny_run)) == 8
    assert main(["stream", str(tiny_run), str(clip), "--json"]) == 0
    assert len(lines(capsys)) == count_frames(clip) // 8
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.yaml", "labels.txt"):
        (copy / name).write_bytes((tiny_run / name).read_bytes())
    config = yaml.safe_load((copy / "config.yaml").read_text())
    for intervals, expected in (([2, 10], 6), ([3, 4], 3), (None, 6)):
        config["augmentation"] = {"intervals": intervals} if intervals else None
        (copy / "config.yaml").write_text(yaml.safe_dump(config))
        assert usual_interval(open_run(copy)) == expected


def test_plain_lines_and_a_summary(tiny_run, clip, capsys):
    assert main(["stream", str(tiny_run), str(clip), "--top_k", "2"]) == 0
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 8
    assert "latency" in output.out.splitlines()[0]
    assert "8 samples answered; 0 dropped (0.0%); latency: median" in output.err
    assert "0 outages" in output.err


def test_the_summary_counts_and_speaks_of_the_last_answers_only():
    summary = StreamSummary(samples=30_000, dropped=10_000, outages=1, lost=2)
    summary.latencies.extend([0.5] * 5_000 + [0.001 * n for n in range(1, 10_001)])
    text = str(summary)
    assert "10000 dropped (25.0%)" in text
    assert "of the last 10000: median 5000.5 ms, 95th percentile 9500.0 ms" in text
    assert "1 outage;" in text
    assert "2 damaged frames left out" in text


def test_python_may_call_it_and_gets_the_summary(tiny_run, clip, capsys):
    summary = stream(tiny_run, str(clip), every=4, live=False)
    assert (summary.samples, summary.dropped, summary.outages, summary.frames) == (16, 0, 0, 64)
    assert 0 < summary.latency(50) <= summary.latency(95)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.mp4"], "absent.mp4: there is no such file"),
        (["."], "this is not a file"),
        (["file:///etc/passwd"], "file:// is no address of a stream"),
        (["concat:a.mp4|b.mp4"], "concat:a.mp4|b.mp4: there is no such file"),
        (["subfile,,start,0,end,0,,:a"], "there is no such file"),
        (["97"], "camera 97: it cannot be opened"),
        (["http://"], "names no host"),
        (["a.mp4", "--every", "0"], "every"),
        (["a.mp4", "--top_k", "0"], "top_k"),
        (["a.mp4", "--wait", "-1"], "wait"),
    ],
)
def test_bad_sources_and_settings_are_one_clear_line(tiny_run, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["stream", str(tiny_run), *words]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_bad_files_say_what_they_say_elsewhere(tiny_run, tmp_path, encode, capsys):
    (tmp_path / "text.mp4").write_text("no video\n" * 99)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    (tmp_path / "sound.ts").write_bytes(encode(sound=True))
    (tmp_path / "empty.ts").write_bytes(b"")
    for name, message in {"text.mp4": "no video container", "list.m3u8": "no video container", "sound.ts": "only sound",
                       "empty.ts": "the file is empty"}.items():  # fmt: skip
        assert main(["stream", str(tiny_run), str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err


def test_a_damaged_file_is_an_error_after_what_came_before_it(tiny_run, tmp_path, clip, capsys):
    data = clip.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 6 // 10] + bytes(len(data) // 10) + data[len(data) * 7 // 10 :])
    with pytest.raises(VideoDamaged):
        stream(tiny_run, str(path), every=4, json=True)
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) >= 4
    assert "samples answered" in captured.err


def test_a_video_too_short_for_a_sample_says_how_to_sample_it(tiny_run, tmp_path, encode, capsys):
    path = tmp_path / "short.ts"
    path.write_bytes(encode(5))
    assert main(["stream", str(tiny_run), str(path)]) == 1
    assert "take --every 5 or less" in capsys.readouterr().err
    assert main(["stream", str(tiny_run), str(path), "--every", "5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def command(tiny_run, *words):
    return [sys.executable, "-m", "actionfusion", "stream", str(tiny_run), *words]


@pytest.fixture
def piped(monkeypatch):
    """Sends bytes through a pipe that is standard input until the test ends."""
    with ExitStack() as opened:

        def send(data):
            reading, writing = os.pipe()
            monkeypatch.setattr(sys, "stdin", opened.enter_context(os.fdopen(reading)))
            thread = threading.Thread(target=write_all, args=(writing, data))
            thread.start()
            opened.callback(thread.join)

        yield send


def write_all(writing, data):
    with suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe:
        pipe.write(data)


def test_a_pipe_answers_as_the_file_does(recognizer, tiny_run, tmp_path, encode, piped, capsys):
    path = tmp_path / "clip.ts"
    path.write_bytes(encode(64))
    piped(path.read_bytes())
    assert main(["stream", str(tiny_run), "-", "--every", "8", "--json", "--top_k", "99"]) == 0
    output = capsys.readouterr()
    answers = [json.loads(line) for line in output.out.splitlines()]
    assert len(answers) == 8
    assert_same(by_label(answers[7]["predictions"]), offline(recognizer, path))
    assert "8 samples answered; 0 dropped" in output.err


@pytest.mark.parametrize(
    ("given", "message"), [(b"", "ended without a byte"), (b"words " * 999, "no video was recognised")]
)
def test_a_pipe_of_nothing_or_of_something_else_is_an_error(tiny_run, given, message, piped, capsys):
    piped(given)
    assert main(["stream", str(tiny_run), "-"]) == 1
    error = capsys.readouterr().err
    assert "standard input" in error
    assert message in error
    assert error.count("\n") == 1


def test_a_pipe_without_a_frame_that_can_be_decoded_is_an_error(tiny_run, tmp_path, write_video, piped, capsys):
    path = write_video(tmp_path / "a.ts", count=12, codec="mpeg2video", options={"g": "50"})
    with av.open(str(path)) as source, av.open(str(tmp_path / "cut.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][3:]:
            packet.stream = stream
            target.mux(packet)
    piped((tmp_path / "cut.ts").read_bytes())
    assert main(["stream", str(tiny_run), "-"]) == 1
    assert "standard input: not one frame of it can be decoded" in capsys.readouterr().err


def test_a_reader_that_leaves_ends_it(tiny_run, encode):
    """``... | actionfusion stream RUN - | head -1``, while the writer goes on for ever."""
    process = subprocess.Popen(
        command(tiny_run, "-", "--every", "2", "--json"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    part = encode(64)
    process.stdin.write(part)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["samples"] == 1
    process.stdout.close()
    with suppress(BrokenPipeError):
        while process.poll() is None:
            process.stdin.write(part)
            process.stdin.flush()
    assert process.wait(60) == 1
    errors = process.stderr.read()
    assert b"Traceback" not in errors
    assert b"answered" in errors
    process.stderr.close()
    with suppress(BrokenPipeError):
        process.stdin.close()


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT for children")
@pytest.mark.parametrize(("words", "code"), [(["--live"], 0), ([], 1)])
def test_ctrl_c_ends_it_with_the_summary(tiny_run, encode, words, code):
    process = subprocess.Popen(
        command(tiny_run, "-", "--every", "2", "--json", *words),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdin.write(encode(64))
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"answered" in errors
    assert b"Traceback" not in errors
    assert (b"stopped" in errors) == (code == 1)


def test_a_terminal_gets_one_line_that_changes(tiny_run, clip):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(tiny_run, str(clip), "--top_k", "1"), stdout=theirs, stderr=subprocess.PIPE, env=_terminal()
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 4096):
            shown += data
    except OSError:  # Linux says so when the other side has gone
        pass
    os.close(ours)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"8 samples answered" in errors
    assert b"\x1b[2K" in shown  # the line is erased before it is written anew
    assert shown.count(b"dropped") >= 8
    assert shown.count(b"\n") < 8


def _terminal():
    return {**os.environ, "TERM": "xterm", "COLUMNS": "120"}


def test_nobody_waits_a_time_that_is_no_number(tiny_run, clip):
    with pytest.raises(SettingsError, match="nan seconds"):
        stream(tiny_run, str(clip), wait=float("nan"))


def test_every_error_of_a_source_is_a_video_error_or_a_setting(tiny_run, tmp_path):
    for name in (".", "absent", "\0", "a" * 5000, ""):
        with pytest.raises((VideoError, SettingsError)):
            stream(tiny_run, str(tmp_path / name) if name not in ("", "\0") else name)
