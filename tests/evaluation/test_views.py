"""More than one look at a video: the mean of what the network says of each clip, the paper's clip among them."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionfusion.data.augment import flip
from actionfusion.errors import SettingsError
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.evaluation.views import Views, cut_views
from actionfusion.inference.recognizer import Recognizer
from actionfusion.video.clip import cut_clip
from actionfusion.video.sampling import consecutive, evenly_spaced, shifted_views
from actionfusion.video.video_source import VideoSource

SAMPLINGS = (evenly_spaced, partial(consecutive, stride=1), partial(consecutive, stride=3))


@given(st.integers(1, 400), st.integers(1, 20), st.integers(1, 12), st.sampled_from(SAMPLINGS))
def test_samples_lie_in_the_video_and_the_papers_is_the_first(num_frames, count, views, sampling):
    still = sampling(num_frames, count)
    rows = shifted_views(still, num_frames, views)
    assert rows.shape == (views, count)
    np.testing.assert_array_equal(rows[0], still)
    assert rows.min() >= 0
    assert rows.max() < num_frames
    if still[-1] - still[0] == (count - 1) * (interval := still[1] - still[0] if count > 1 else 0):
        assert (np.diff(rows, axis=1) == interval).all(), "the interval stays"


def test_samples_are_spread_over_the_room_there_is():
    """N = 25, T = 4: t' = 6, frames 5, 11, 17, 23 from 0; they can move by -5 to 1, evenly -5, -2, 1."""
    assert shifted_views(evenly_spaced(25, 4), 25, 3).tolist() == [[6 - 1, 11, 17, 23], [0, 6, 12, 18], [3, 9, 15, 21]]
    assert shifted_views(evenly_spaced(4, 4), 4, 5).tolist() == [[0, 1, 2, 3]] * 5, "no room at all"
    assert sorted(shifted_views(evenly_spaced(9, 1), 9, 3).ravel().tolist()) == [0, 4, 8], "T = 1"
    with pytest.raises(SettingsError, match="0 samples"):
        shifted_views(evenly_spaced(25, 4), 25, 0)
    with pytest.raises(SettingsError, match="0 samples"):
        Views(0)


def test_dense_samples_are_spread_over_the_video():
    """N = 21, T = 3, every other frame: the middle 8, 10, 12, which can move by -8 to 8."""
    still = consecutive(21, 3, 2)
    assert still.tolist() == [8, 10, 12]
    assert shifted_views(still, 21, 3).tolist() == [[8, 10, 12], [0, 2, 4], [16, 18, 20]]


def test_each_clip_is_what_cutting_it_alone_gives(grouped_run, grouped_root):
    settings = Recognizer.load(grouped_run).clip_settings
    video = sorted(grouped_root.glob("*/*.mp4"))[0]
    source = VideoSource(video, settings.flow)
    clips = cut_views(source, settings, Views(4, flip=True))
    rows = shifted_views(settings.positions(source.num_frames), source.num_frames, 4)
    assert len(clips) == 8
    for row, clip, mirrored in zip(rows, clips[:4], clips[4:], strict=True):
        alone = cut_clip(VideoSource(video, settings.flow), settings, lambda _, row=row: row)
        for name in ("rgb", "flow", "times", "positions"):
            np.testing.assert_array_equal(getattr(clip, name), getattr(alone, name))
            np.testing.assert_array_equal(getattr(mirrored, name), getattr(flip(alone), name))


def test_equal_samples_of_a_short_video_are_answered_once(grouped_run, grouped_root):
    recognizer = Recognizer.load(grouped_run)
    settings = recognizer.clip_settings
    source = VideoSource(sorted(grouped_root.glob("*/*.mp4"))[0], settings.flow)
    many = cut_views(source, settings, Views(200))
    assert len(many) < 200
    assert len({clip.positions.tobytes() for clip in many}) == len(many)


def test_probabilities_are_the_mean_over_the_clips(grouped_run, grouped_root, tmp_path, capsys):
    plain = evaluate(grouped_run, grouped_root, out=tmp_path / "plain.json")
    capsys.readouterr()
    several = evaluate(grouped_run, grouped_root, views=3, flip=True, out=tmp_path / "several.json")
    recognizer = Recognizer.load(grouped_run)
    for video, row in zip(several.videos, several.probabilities, strict=True):
        source = VideoSource(grouped_root / video, recognizer.clip_settings.flow)
        each = recognizer.probabilities(cut_views(source, recognizer.clip_settings, Views(3, flip=True)))
        np.testing.assert_allclose(row, each.astype(np.float64).mean(0), atol=1e-6)
    written = several.as_json()
    assert {name: written["views"][name] for name in ("temporal", "flip", "clips")} == {
        "temporal": 3, "flip": True, "clips": 6 * len(several.videos)
    }  # fmt: skip
    assert written["views"]["single"]["correct"] == plain.figures.top1.correct
    assert plain.as_json()["views"] == {"temporal": 1, "flip": False, "clips": len(plain.videos), "single": None}
    printed = " ".join(capsys.readouterr().out.split())
    assert "mean over 3 samples of each video and their mirror images" in printed
    assert "6.0 times the network's work" in printed


def test_samples_that_a_short_video_has_not_are_said(grouped_run, grouped_root, tmp_path, capsys):
    evaluation = evaluate(grouped_run, grouped_root, views=200, out=tmp_path / "figures.json")
    assert evaluation.clips < 200 * len(evaluation.videos)
    assert "mean over up to 200 samples" in capsys.readouterr().out
