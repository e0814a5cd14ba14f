"""A run's answers at other frame rates than those of its training videos."""

import json
import shutil

import numpy as np
import pytest
import yaml

from actionfusion.data.segment_source import SegmentSource
from actionfusion.data.segments import Segment
from actionfusion.errors import RunFolderError
from actionfusion.inference.predict import predict
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.streams.stream import stream
from actionfusion.inference.timelines.untrimmed import VideoSamples, WindowSettings, see_video
from actionfusion.run_folder import open_run
from actionfusion.video.rates import FrameRates
from actionfusion.video.reading import iterate_frames

LOSSLESS = {"codec": "ffv1", "pixel_format": "bgr0"}


@pytest.fixture(scope="module")
def copies(tmp_path_factory, write_video, shapes_root):
    """Two clips as they are, and as copies at 120 and 10 frames a second that show the same at each time."""
    root = tmp_path_factory.mktemp("copies")
    for number, video in enumerate(sorted((shapes_root / "test").glob("motion_*/*.mp4"))[:3:2]):
        frames = [frame.image for frame in iterate_frames(video)]
        for rate in (25, 120, 10):
            count = int(len(frames) * rate / 25)
            shown = [frames[min(int(at * 25 / rate + 0.5), len(frames) - 1)] for at in range(count)]
            write_video(root / f"{number}-{rate}.mkv", shown, rate=rate, **LOSSLESS)
    return root


def at(rate, copies):
    return sorted(copies.glob(f"*-{rate}.mkv"))


def without_rates(run, target):
    shutil.copytree(run, target)
    config = yaml.safe_load((target / "config.yaml").read_text())
    del config["rates"]
    (target / "config.yaml").write_text(yaml.safe_dump(config))
    return target


def test_a_run_keeps_the_rates_of_its_training_videos(tiny_run, tmp_path):
    assert open_run(tiny_run).rates == FrameRates(25.0, 25.0, 25.0, 32)
    before = without_rates(tiny_run, tmp_path / "run")
    assert open_run(before).rates is None
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    for wrong in ({"low": 0}, {"median": float("nan")}, {"high": "x"}):
        (before / "config.yaml").write_text(yaml.safe_dump(config | {"rates": config["rates"] | wrong}))
        with pytest.raises(RunFolderError):
            assert open_run(before).rates


@pytest.mark.parametrize("segments", [False, True])
def test_fast_copies_have_the_answers_of_the_videos(tiny_run, copies, tmp_path, segments, capsys):
    options = {"segments": True, "every": 3, "stride": 2} if segments else {}

    def answers(run, rate):
        rows = predict(run, at(rate, copies), runtime="torch", **options)
        if not segments:
            return [[(item.label, item.probability) for item in row.predictions] for row in rows]
        return [[(item.label, item.probability, item.start, item.end) for item in row.segments] for row in rows]

    wanted = answers(tiny_run, 25)
    assert "note:" not in capsys.readouterr().err
    found = answers(tiny_run, 120)
    assert "120 frames a second, read at 25" in capsys.readouterr().err
    for one, other in zip(found, wanted, strict=True):
        assert [item[0] for item in one] == [item[0] for item in other]
        np.testing.assert_allclose([item[1:] for item in one], [item[1:] for item in other], atol=0.02)
    # A run of an earlier version does as it did, and what it did was another answer.
    earlier = answers(without_rates(tiny_run, tmp_path / "run"), 120)
    assert "note:" not in capsys.readouterr().err
    assert earlier != found


def test_a_slow_video_is_sampled_in_seconds_and_said(tiny_run, copies, capsys):
    recognizer = Recognizer.load(tiny_run, runtime="torch")
    clip, stepper = recognizer.clip_settings, recognizer.stepper
    seen = {
        rate: see_video(at(rate, copies)[0], stepper, clip, WindowSettings(5), pace=recognizer.rates.pace(rate))
        for rate in (25, 10)
    }
    assert np.diff(seen[25].times) == pytest.approx(0.2)
    assert np.diff(seen[10].times) == pytest.approx(0.2)
    predict(tiny_run, at(10, copies), runtime="torch")
    assert "2 of 2 videos: 10 frames a second are few" in capsys.readouterr().err


def test_samples_of_a_fast_copy_end_with_the_video(tiny_run, copies):
    recognizer = Recognizer.load(tiny_run, runtime="torch")
    ends = []
    for rate in (25, 120):
        video = at(rate, copies)[0]
        reading = VideoSamples(video, recognizer.clip_settings, 7, pace=recognizer.rates.pace(rate))
        assert [sample.position for sample in reading][:3] == [6, 13, 20]
        ends.append(reading.end)
    assert ends[1] == pytest.approx(ends[0], abs=0.02)


def test_a_stream_of_a_fast_copy(tiny_run, copies, capsys):
    lines = {}
    for rate in (25, 120):
        stream(tiny_run, str(at(rate, copies)[0]), json=True, every=4, runtime="torch")
        captured = capsys.readouterr()
        assert ("120 frames a second, read at 25" in captured.err) == (rate == 120)
        lines[rate] = [json.loads(line) for line in captured.out.splitlines()]
    assert len(lines[25]) == len(lines[120]) > 5
    for one, other in zip(lines[25], lines[120], strict=True):
        assert one["time"] == pytest.approx(other["time"], abs=0.005)
        assert [item["probability"] for item in one["predictions"]] == pytest.approx(
            [item["probability"] for item in other["predictions"]], abs=0.02
        )


def test_positions_are_those_of_the_file(tiny_run, copies):
    recognizer = Recognizer.load(tiny_run, runtime="torch")
    clip = recognizer.clip(at(120, copies)[0])
    assert clip.positions / 120 == pytest.approx(clip.times, abs=0.002)


def test_evaluate_reads_fast_copies_as_predict_does(tiny_run, copies, tmp_path):
    from actionfusion.evaluation.evaluate import evaluate

    root = tmp_path / "root" / "motion_up"
    root.mkdir(parents=True)
    for video in at(120, copies):
        shutil.copy(video, root)
    evaluation = evaluate(tiny_run, root.parent, split="all-test", out=tmp_path / "figures.json")
    assert any("2 of 2 videos: 120 frames a second, read at 25" in note for note in evaluation.notes)
    rows = predict(tiny_run, at(120, copies), runtime="torch", top_k=8)
    for row, probabilities in zip(rows, evaluation.probabilities, strict=True):
        found = dict(zip(evaluation.figures.labels, probabilities, strict=True))
        assert found == pytest.approx({item.label: item.probability for item in row.predictions}, abs=1e-6)


def test_a_segment_of_a_fast_copy_has_the_frames_of_the_same_seconds(tiny_run, copies):
    recognizer = Recognizer.load(tiny_run, runtime="torch")
    recipe, rates = recognizer.clip_settings.flow, recognizer.rates
    for segment in (Segment(0.0, 0.4), Segment(0.4, 0.9), Segment(0.4, 0.42)):
        usual, fast = (SegmentSource(at(rate, copies)[0], segment, recipe, rates=rates) for rate in (25, 120))
        assert abs(usual.num_frames - fast.num_frames) <= 1
        frames = range(min(usual.num_frames, fast.num_frames))
        (ours, _, one), (theirs, _, other) = (source.read(frames, ()) for source in (usual, fast))
        assert one == pytest.approx(other, abs=0.021)
        assert np.abs(ours.astype(int) - theirs).mean() < 4
    assert "120 frames a second, read at 25" in fast.pace.note


def test_check_lists_mixed_rates(copies, tmp_path, capsys):
    from actionfusion.data.check import check

    root = tmp_path / "root"
    for label, rate in (("a", 25), ("b", 120)):
        (root / label).mkdir(parents=True)
        for video in at(rate, copies):
            shutil.copy(video, root / label)
    check("folder", root, out=tmp_path / "manifest.csv", workers=0)
    assert "frame rates differ, frames a second: 25 (2 videos), 120 (2 videos)" in capsys.readouterr().err
