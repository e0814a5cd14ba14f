"""The command ``benchmark``: what it reports hangs together; how long anything takes is the machine's affair."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from actionfusion import benchmark
from actionfusion.errors import NotAVideo, RunFolderError, SettingsError, VideoMissing
from actionfusion.inference.speed.benchmark import BenchmarkReport, Case, Row
from actionfusion.inference.speed.measured import Times, in_rounds, write_generated
from actionfusion.inference.speed.peaks import machine_peaks
from actionfusion.video.reading import read_frames

QUICK = {"runtime": "torch", "repetitions": 2, "most_seconds": 0.1}


@pytest.fixture(scope="module")
def clip(shapes_root):
    return sorted(shapes_root.glob("test/*/*.mp4"))[0]


@pytest.fixture(autouse=True)
def _quick_peaks(monkeypatch):
    peaks = {"fp32": 2e11, "bf16": 1e11, "int8": 4e11}
    monkeypatch.setattr("actionfusion.inference.speed.benchmark.machine_peaks", lambda device: dict(peaks))


def check(found):
    """Hold the parts of a report to each other."""
    for row in found["rows"]:
        for name in ("whole_seconds", "network_seconds", "step_seconds"):
            assert 0 < row[name]["low"] <= row[name]["median"] <= row[name]["high"]
        assert row["clips_a_second"] == pytest.approx(1 / row["whole_seconds"]["median"], rel=1e-3)
        if found["tflop_a_clip"] is not None:
            rate = found["tflop_a_clip"] / row["network_seconds"]["median"]
            assert row["tflops"] == pytest.approx(rate, rel=2e-3)
            assert row["share_of_peak"] == pytest.approx(rate / found["peak_tflops"][row["precision"]], rel=2e-3)
    assert found["rows"][0]["largest_difference"] == 0
    advised = {name: found["advised"][name] for name in ("runtime", "precision")}
    assert advised in [{name: row[name] for name in advised} for row in found["rows"]]


def test_a_run_is_measured_and_written(small_run_source, clip, tmp_path, capsys):
    out = tmp_path / "speed.json"
    report = benchmark(small_run_source, clip, out=out, json=True, **QUICK)
    found = json.loads(out.read_text())
    printed = capsys.readouterr()
    assert json.loads(printed.out) == found
    assert "loading torch fp32" in printed.err
    check(found)
    assert [(row["runtime"], row["precision"]) for row in found["rows"]] == [("torch", "fp32"), ("torch", "bf16")]
    assert all(row["repetitions"] == 2 for row in found["rows"])
    assert {*found["cutting_seconds"]} == {"decode", "flow", "clip"}
    assert found["video"] == clip.name
    assert str(small_run_source) not in out.read_text(), "a report that travels names no path of this machine"
    assert math.isclose(report.flops / 1e12, found["tflop_a_clip"], rel_tol=1e-3)
    benchmark(small_run_source, clip, out=out, **QUICK)
    shown = capsys.readouterr().out
    assert "advised: torch" in shown
    assert "file to" in shown


def test_without_a_video_one_is_generated(small_run_source, scratch, capsys):
    report = benchmark(small_run_source, **QUICK)
    assert report.video == "generated"
    assert "no video was given" in capsys.readouterr().err


def test_the_generated_video_is_what_is_said_of_it(tmp_path):
    video = read_frames(write_generated(tmp_path / "x.mp4"), [0, 249], size=64, strict=True)
    assert video.num_frames == 250
    assert np.abs(video.images[0].astype(int) - video.images[1]).mean() > 5, "it moves"


def test_a_prepared_runtime_answers_as_pytorch(small_run, clip):
    pytest.importorskip("onnxruntime")
    found = benchmark(small_run, clip, **QUICK | {"runtime": "onnx"}).as_json()
    check(found)
    assert [row["runtime"] for row in found["rows"]] == ["torch", "onnx"]
    assert 0 <= found["rows"][1]["largest_difference"] < 1e-4
    assert found["rows"][1]["same_label"]
    (left,) = found["left_out"]
    assert (left["runtime"], left["precision"]) == ("onnx", "int8")
    assert "--root" in left["reason"]


def test_what_is_not_installed_is_left_out_with_the_reason(small_run_source, clip, monkeypatch):
    backend = "actionfusion.inference.runtimes.backend"
    monkeypatch.setattr("actionfusion.inference.runtimes.packages.is_installed", lambda name: name != "onnxruntime")
    monkeypatch.setattr(f"{backend}.is_installed", lambda name: name != "onnxruntime")
    report = benchmark(small_run_source, clip, **QUICK | {"runtime": "onnx"})
    assert [str(row.case) for row in report.rows] == ["torch fp32"]
    assert all("pip install 'actionfusion[onnx]'" in reason for _, reason in report.left_out)


def test_what_cannot_be_measured_is_said_in_a_line(small_run_source, clip, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for run, video, error in (
        (tmp_path / "none", clip, RunFolderError),
        (small_run_source, text, NotAVideo),
        (small_run_source, tmp_path / "none.mp4", VideoMissing),
        (small_run_source, "rtsp://camera/1", VideoMissing),
    ):
        with pytest.raises(error):
            benchmark(run, video, **QUICK)
    for wrong in ({"repetitions": 1}, {"most_seconds": 0}, {"runtime": "other"}):
        with pytest.raises(SettingsError):
            benchmark(small_run_source, clip, **QUICK | wrong)


def test_a_file_of_something_else_is_not_written_over(small_run_source, clip, tmp_path):
    out = tmp_path / "mine.json"
    out.write_text('{"format": "mine"}')
    with pytest.raises(SettingsError, match="did not write it"):
        benchmark(small_run_source, clip, out=out, **QUICK)
    assert out.read_text() == '{"format": "mine"}'


def row(case, seconds, *probabilities):
    times = Times(list(seconds), [0.1] * len(seconds), [0.1] * len(seconds))
    return Row(Case(*case.split()), "cpu", times, np.array(probabilities, np.float32))


@pytest.mark.parametrize(
    ("rows", "advised", "why"),
    [
        ([row("onnx fp32", (0.5, 0.5), 0.9, 0.1)], "onnx fp32", "2 times as fast"),
        ([row("onnx fp32", (0.98, 0.98), 0.9, 0.1)], "torch fp32", "none is 5%"),
        ([row("onnx fp32", (0.5, 1.1), 0.9, 0.1)], "torch fp32", "in every round"),
        ([row("openvino int8", (0.5, 0.5), 0.7, 0.3)], "torch fp32", "openvino int8 is faster, but more than 0.01 off"),
        ([row("openvino bf16", (2, 2), 0.9, 0.1)], "torch fp32", "the fastest"),
    ],
)
def test_advised_is_what_is_faster_and_answers_the_same(rows, advised, why):
    first = row("torch fp32", (1.0, 1.0), 0.9, 0.1)
    report = BenchmarkReport("run", "m", "v", "cpu", 10**9, {"fp32": 1e11}, {}, (first, *rows), (), 0.0)
    best, reason = report.advised
    assert str(best.case) == advised
    assert why in reason
    bare = replace(report, flops=None, peaks={}).as_json()
    assert bare["tflop_a_clip"] is None
    assert bare["rows"][0]["share_of_peak"] is None


def test_rounds_go_through_all_calls_in_turn():
    called = []
    calls = {name: lambda name=name: called.append(name) for name in "ab"}
    assert {name: len(each) for name, each in in_rounds(calls, 3, 1e9).items()} == {"a": 3, "b": 3}
    assert called == list("ab" * 4)
    assert {name: len(each) for name, each in in_rounds(calls, 50, 0).items()} == {"a": 2, "b": 2}


def test_the_peak_is_of_every_precision():
    import torch

    peaks = machine_peaks(torch.device("cpu"), side=256, pictures=1, repetitions=1)
    assert {*peaks} == {"fp32", "bf16", "int8"}
    assert all(1e8 < peak < 1e16 for peak in peaks.values())
