"""``predict --segments``: a video of several actions, read once, gives a timeline that says when each is seen."""

from __future__ import annotations

import csv
import io
import json
import weakref
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from rich.console import Console

from actionfusion import Recognizer
from actionfusion.__main__ import main
from actionfusion.data.shapes_files import write_clip
from actionfusion.errors import OutputError, SettingsError, VideoDamaged
from actionfusion.inference.predict import predict
from actionfusion.inference.stepping import Stepper, StreamPrediction
from actionfusion.inference.timelines import segments as segments_module
from actionfusion.inference.timelines.timeline import TimelineRules
from actionfusion.inference.timelines.untrimmed import BATCH, WindowSettings, find_segments, see_video
from actionfusion.inference.timelines.video_samples import VideoSamples
from actionfusion.models import FusionNetwork
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.reading import count_frames, iterate_frames
from actionfusion.video.video_source import VideoSource

RATE = 25
COLOURS = {"red": (76, 85, 255), "green": (150, 44, 21), "blue": (29, 255, 107)}  # Y, U, V


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    """A random network for 16-pixel clips of four samples and three colours."""
    torch.manual_seed(0)
    network = FusionNetwork.tiny(
        3, image_size=16, backbone=(6, "M", 8, "M", 8), fc6_width=12, hidden=10, flow_channels=4
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return Recognizer(network, ClipSettings(4, 2, FlowRecipe("dis", size=16)), list(COLOURS))


def _noisy(path: Path, count: int, seed: int = 0) -> Path:
    write_clip(np.random.default_rng(seed).integers(60, 200, (count, 3, 32, 32), dtype=np.uint8), path)
    return path


def _coloured(path: Path, parts: list[tuple[str, int]]) -> Path:
    planes = [np.broadcast_to(np.array(COLOURS[name], np.uint8)[:, None, None], (n, 3, 32, 32)) for name, n in parts]
    write_clip(np.concatenate(planes), path)
    return path


def _break(path: Path, frame: int) -> Path:
    """Overwrite a frame's packet."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    place, size = places[frame]
    data[place : place + size] = b"\xff" * size
    path.write_bytes(data)
    return path


class ColourStepper(Stepper[tuple[Any, ...]]):
    """Says what share of the last T samples is of each colour."""

    method = "exact state"

    def start(self) -> tuple[Any, ...]:
        return ()

    def windows(self, samples: Sequence[Any], window: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        found = []
        for sample in samples:
            window = (*window, (int(sample.rgb.mean((1, 2)).argmax()), sample.time))[-self._clip.frames :]
            found.append(window)
        return found

    def answers(self, windows: Sequence[tuple[Any, ...]]) -> list[StreamPrediction]:
        answers = []
        for window in windows:
            shares = np.bincount([colour for colour, _ in window], minlength=3) / len(window)
            answers.append(
                StreamPrediction(shares.astype(np.float32), window[0][1], window[-1][1], len(window), window[-1][1])
            )
        return answers


@pytest.mark.parametrize("every", [1, 3, 6])
def test_boundaries_lie_where_the_action_changes(every, recognizer, tmp_path, monkeypatch):
    monkeypatch.setattr(recognizer, "stepper", ColourStepper(recognizer.clip_settings))
    parts = [("red", 60), ("blue", 50), ("green", 70), ("blue", 45)]
    video = _coloured(tmp_path / "a.mp4", parts)
    found = find_segments(recognizer, video, WindowSettings(every)).segments
    assert [item.label for item in found] == [name for name, _ in parts]
    bounds = np.cumsum([0, *(count for _, count in parts)]) / RATE
    assert (found[0].start, found[-1].end) == (0, pytest.approx(bounds[-1]))
    assert all(one.end == two.start for one, two in pairwise(found))
    np.testing.assert_allclose([item.end for item in found], bounds[1:], atol=every / RATE)
    assert all(item.probability > 0.8 for item in found)


@pytest.mark.parametrize("every", [1, 2, 7])
def test_each_window_says_what_the_network_says_of_its_samples(every, recognizer, tmp_path):
    clip = recognizer.clip_settings
    video = _noisy(tmp_path / "a.mp4", 45)
    seen = see_video(video, recognizer.stepper, clip, WindowSettings(every))
    positions = np.arange(every - 1, 45, every)
    np.testing.assert_allclose(np.array(seen.times) * RATE, positions)
    assert [window.first for window in seen.windows] == list(range(len(positions) - 3))
    source = VideoSource(video, clip.flow)
    rows = []
    for window in seen.windows:
        chosen = positions[window.first : window.last + 1]
        rows.append(recognizer.probabilities([cut_clip(source, clip, lambda _, chosen=chosen: chosen)])[0])
        np.testing.assert_allclose(window.probabilities, rows[-1], atol=1e-5)
    assert np.ptp(rows, axis=0).max() > 1e-3


def test_a_trained_run_too(tiny_run, shapes_root):
    recognizer = Recognizer.load(tiny_run, device="cpu")
    clip = recognizer.clip_settings
    video = next((shapes_root / "test" / "motion_up").glob("*.mp4"))
    seen = see_video(video, recognizer.stepper, clip, WindowSettings(5))
    positions = np.arange(4, 64, 5)
    source = VideoSource(video, clip.flow)
    for window in seen.windows:
        chosen = positions[window.first : window.last + 1]
        whole = recognizer.probabilities([cut_clip(source, clip, lambda _, chosen=chosen: chosen)])[0]
        np.testing.assert_allclose(window.probabilities, whole, atol=1e-5)


@pytest.mark.parametrize(("stride", "firsts"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (4, [0, 4, 6])])
def test_a_stride_leaves_windows_out_but_no_sample(stride, firsts, recognizer, tmp_path):
    clip = recognizer.clip_settings
    video = _noisy(tmp_path / "a.mp4", 21)
    every = {
        window.first: window.probabilities
        for window in see_video(video, recognizer.stepper, clip, WindowSettings(2)).windows
    }
    few = see_video(video, recognizer.stepper, clip, WindowSettings(2, stride)).windows
    assert [window.first for window in few] == firsts
    for window in few:
        # Windows are answered together, and a product of fewer rows may differ in its last bit.
        np.testing.assert_allclose(window.probabilities, every[window.first], rtol=0, atol=1e-6)
    assert find_segments(recognizer, video, WindowSettings(2, stride)).segments[-1].end == pytest.approx(21 / RATE)


@pytest.mark.parametrize(("settings", "named"), [((2, 5), "stride"), ((0, 1), "every"), ((1, 0), "stride")])
def test_windows_that_make_no_sense(settings, named, recognizer, tmp_path):
    with pytest.raises(SettingsError, match=named):
        find_segments(recognizer, tmp_path / "a.mp4", WindowSettings(*settings))


@pytest.mark.parametrize("count", [1, 2, 7, 15])
def test_a_video_shorter_than_a_window_is_one_segment_with_the_whole_answer(count, recognizer, tmp_path):
    video = _noisy(tmp_path / "a.mp4", count)
    (found,) = find_segments(recognizer, video, WindowSettings(4), top_k=2).segments
    assert (found.start, found.end) == (0, pytest.approx(count / RATE))
    assert list(found.predictions) == pytest.approx(recognizer.predict(video, top_k=2))
    assert (found.label, found.probability) == (found.predictions[0].label, found.predictions[0].probability)
    (unsure,) = find_segments(recognizer, video, WindowSettings(4), TimelineRules(threshold=1)).segments
    assert (unsure.label, unsure.probability, len(unsure.predictions)) == (None, None, 3)


@pytest.mark.parametrize("frame", [0, 5, 9, 40, 41, 42, 43, 59])
def test_what_was_read_before_a_fault_is_given_beside_it(frame, recognizer, tmp_path):
    whole = _noisy(tmp_path / "a.mp4", 60)
    sound = see_video(whole, recognizer.stepper, recognizer.clip_settings, WindowSettings(3))
    broken = _break(whole, frame)
    with pytest.raises(VideoDamaged, match=f"decoded before it: {frame};"):
        list(iterate_frames(broken))
    clip = recognizer.clip_settings
    seen = see_video(broken, recognizer.stepper, clip, WindowSettings(3))
    found = find_segments(recognizer, broken, WindowSettings(3))
    assert found.error is not None
    assert found.error.kind == "damaged"
    # Only samples with all of their flow: frame p + 1 was read.
    assert [round(time * RATE) for time in seen.times] == list(range(2, frame - 1, 3))
    assert seen.times == sound.times[: len(seen.times)]
    for one, two in zip(seen.windows, sound.windows, strict=False):
        np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-5)
    if len(seen.times) < 4:
        assert found.segments == ()
    else:
        assert found.segments[0].start == 0
        assert found.segments[-1].end == pytest.approx(frame / RATE)


def test_the_end_is_known_where_no_sample_needs_the_last_frames(recognizer, tmp_path):
    for count in range(40, 50):
        samples = VideoSamples(_noisy(tmp_path / f"{count}.mp4", count), recognizer.clip_settings, 9)
        assert [sample.position for sample in samples] == list(range(8, count, 9))
        assert samples.end == pytest.approx(count / RATE)


def test_nothing_but_a_batch_of_samples_is_held(recognizer, tmp_path, monkeypatch):
    held: list[weakref.ref[Any]] = []
    most = 0

    read = recognizer.stepper.windows

    def watched(samples: Any, state: Any) -> Any:
        nonlocal most
        assert len(samples) <= BATCH
        held.extend(weakref.ref(sample) for sample in samples)
        most = max(most, sum(each() is not None for each in held))
        return read(samples, state)

    monkeypatch.setattr(recognizer.stepper, "windows", watched)
    clip = recognizer.clip_settings
    counts: list[int] = []
    video = _noisy(tmp_path / "a.mp4", 400)
    see_video(video, recognizer.stepper, clip, WindowSettings(2), watch=counts.append)
    assert len(held) == 200
    assert most <= 2 * BATCH
    assert counts == list(range(1, 401))


def test_the_command_gives_tables_files_and_the_exit_code(tiny_run, tmp_path, capsys):
    videos = [tmp_path / name for name in ("x/a.mp4", "y/a.mp4", "bad.mp4", "torn.mp4")]
    for place, video in enumerate(videos):
        video.parent.mkdir(exist_ok=True)
        _noisy(video, 90, place)
    videos[2].write_bytes(b"no video")
    _break(videos[3], 75)
    words = ["predict", str(tiny_run), *map(str, videos), "--segments", "--every=4", "--device=cpu"]
    assert main([*words, "--json", f"--out={tmp_path / 'out'}", "--top_k=3"]) == 1
    output = capsys.readouterr()
    printed = json.loads(output.out)
    assert [entry["video"] for entry in printed] == [str(video) for video in videos]
    assert [entry["error"] and entry["error"]["kind"] for entry in printed] == [None, None, "not_a_video", "damaged"]
    assert output.err.count("error: ") == 2
    assert [bool(entry["segments"]) for entry in printed] == [True, True, False, True]
    ends = [entry["segments"][-1]["end"] for entry in printed if entry["segments"]]
    assert ends == [3.6, 3.6, 3.0]
    assert {len(item["predictions"]) for entry in printed for item in entry["segments"]} == {3}

    names = ["a", "a-2", "bad", "torn"]
    endings = ("csv", "json", "vtt", "png")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{n}.{e}" for n in names for e in endings}
    for name, entry in zip(names, printed, strict=True):
        assert json.loads((tmp_path / "out" / f"{name}.json").read_text()) == entry
        with (tmp_path / "out" / f"{name}.csv").open(newline="") as file:
            rows = [(float(row["start"]), float(row["end"]), row["label"]) for row in csv.DictReader(file)]
        assert rows == [(item["start"], item["end"], item["label"]) for item in entry["segments"]]

    assert main([*words, "--threshold=1"]) == 1
    table = capsys.readouterr().out
    assert "no label" in table
    assert "0:03.6" in table
    assert "damaged" in table


def test_a_timeline_replaces_its_own_video_s_alone(tiny_run, tmp_path, monkeypatch):
    one, other = _noisy(tmp_path / "a.mp4", 60), tmp_path / "y" / "a.mp4"
    other.parent.mkdir()
    _noisy(other, 60, 1)
    out = tmp_path / "out"
    predict(tiny_run, [one], segments=True, out=out, device="cpu")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(SettingsError, match=r"is the timeline of .*another --out"):
        predict(tiny_run, [other], segments=True, out=out, device="cpu")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    monkeypatch.chdir(tmp_path)
    predict(tiny_run, ["a.mp4"], segments=True, every=3, out=out, device="cpu")
    assert json.loads((out / "a.json").read_text())["video"] == "a.mp4"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_how_far_the_reading_is(terminal, recognizer, tmp_path):
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=100)
    video = _noisy(tmp_path / "a.mp4", 60)
    with segments_module._watching(console, video, "1/1 [a].mp4") as watch:
        find_segments(recognizer, video, WindowSettings(3), watch=watch)
    assert ("[a].mp4" in said.getvalue()) == terminal
    assert ("60/60" in said.getvalue()) == terminal
    with segments_module._watching(console, tmp_path / "absent.mp4", "a") as watch:
        assert find_segments(recognizer, tmp_path / "absent.mp4", WindowSettings(3), watch=watch).error is not None


def test_the_usual_interval_is_the_run_s_own(tiny_run, tmp_path, monkeypatch):
    asked = []

    def find(recognizer, video, windows, rules, **options):
        asked.append((windows, rules))
        return find_segments(recognizer, video, windows, rules, **options)

    monkeypatch.setattr(segments_module, "find_segments", find)
    video = _noisy(tmp_path / "a.mp4", 70)
    result = predict(tiny_run, [video], segments=True, device="cpu")
    assert not result.failed
    assert asked == [(WindowSettings(8, 1), TimelineRules())]  # tiny trains with intervals of 8 alone
    predict(tiny_run, [video], segments=True, every=3, stride=2, threshold=0.5, shortest=1.5, device="cpu")
    assert asked[1] == (WindowSettings(3, 2), TimelineRules(0.5, 1.5))


def test_settings_of_the_command_that_make_no_sense(tiny_run, tmp_path):
    video = _noisy(tmp_path / "a.mp4", 20)
    for options in ({"every": 3}, {"stride": 2}, {"threshold": 0.5}, {"shortest": 1.0}, {"out": tmp_path / "o"}):
        with pytest.raises(SettingsError, match="--segments"):
            predict(tiny_run, [video], **options)
    with pytest.raises(SettingsError, match="top_k"):
        predict(tiny_run, [video], segments=True, top_k=0)
    with pytest.raises(SettingsError, match="stride"):
        predict(tiny_run, [video], segments=True, stride=9)
    with pytest.raises(OutputError, match="another --out"):
        predict(tiny_run, [video], segments=True, out=video / "o")


def test_real_clips_one_after_the_other(recognizer, tmp_path, shared_data):
    """A real codec: samples that are read in one go are those that are looked up one by one."""
    clip = recognizer.clip_settings
    video = sorted((shared_data / "UCF-101" / "PushUps").glob("*.avi"))[0]
    count = count_frames(video)
    seen = see_video(video, recognizer.stepper, clip, WindowSettings(6))
    positions = np.arange(5, count, 6)
    assert len(seen.times) == len(positions)
    source = VideoSource(video, clip.flow)
    for window in seen.windows[:: max(len(seen.windows) // 3, 1)]:
        chosen = positions[window.first : window.last + 1]
        whole = recognizer.probabilities([cut_clip(source, clip, lambda _, chosen=chosen: chosen)])[0]
        np.testing.assert_allclose(window.probabilities, whole, atol=1e-5)
