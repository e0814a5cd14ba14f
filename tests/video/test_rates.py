"""Frame rates: what is taken of a video at another rate than a run's training videos."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionfusion.errors import SettingsError
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.rates import (
    WHOLE,
    FrameRates,
    Pace,
    Thinning,
    frame_rate,
    mixed_rates,
    stored_rate,
    summarize_rates,
)
from actionfusion.video.video_source import VideoSource

AT_25 = FrameRates(25.0, 25.0, 25.0, 8)


@given(step=st.floats(1, 50), count=st.integers(1, 400))
def test_frames_that_are_taken_are_those_nearest_to_the_run_s_times(step, count):
    pace = Pace(step)
    taken = [source for source in range(count) if pace.index(source) is not None]
    assert [pace.index(source) for source in taken] == list(range(len(taken)))
    assert len(taken) == pace.count(count)
    # The nearest frame to each multiple of the step, by search; halves round up.
    for index, source in enumerate(taken):
        assert abs(source - index * step) <= 0.5
        assert pace.source(index) == source
    assert taken[-1] + step > count - 1.5


def test_every_frame_is_taken_near_the_run_s_rates():
    for rate in (None, 17, 24, 25, 29.97, 37.4):
        pace = AT_25.pace(rate)
        assert (pace.step, pace.note) == (1.0, None)
        assert [pace.index(number) for number in range(5)] == [0, 1, 2, 3, 4]
        assert pace.count(7) == 7
    mixed = FrameRates(25.0, 25.0, 60.0, 8)
    assert mixed.pace(60).step == 1.0
    assert mixed.pace(120).step == pytest.approx(4.8)


def test_far_rates_are_said():
    fast, slow = AT_25.pace(120), AT_25.pace(8)
    assert fast.step == pytest.approx(4.8)
    assert fast.note == "120 frames a second, read at 25: the run has learned from videos at 25"
    assert slow.step == 1.0
    assert slow.note.startswith("8 frames a second are few")


@pytest.mark.parametrize("rates", [(0.0, 25.0, 25.0), (25.0, 24.0, 25.0), (25.0, 25.0, float("inf"))])
def test_rates_that_are_none_are_refused(rates):
    with pytest.raises(SettingsError, match="rates"):
        FrameRates(*rates, 3)


def test_a_summary_leaves_single_odd_videos_out():
    assert summarize_rates([None, None]) is None
    found = summarize_rates([25.0] * 38 + [None, 1000.0])
    assert found == FrameRates(25.0, 25.0, 25.0, 39)
    assert stored_rate(np.array([0, 0.04, 0.08])) == pytest.approx(25)
    assert stored_rate(np.array([0.0])) is None


def test_rates_of_files(tmp_path, write_video):
    for rate in (25, 120, 5):
        path = write_video(tmp_path / f"{rate}.mp4", count=2 * rate, rate=rate, codec="libx264")
        assert frame_rate(path) == pytest.approx(rate, rel=0.02)
    # The stated rate of 120 is not that of its times, 40 ms apart.
    path = write_video(tmp_path / "wrong.mkv", count=20, rate=120, times=[40 * number for number in range(20)])
    assert frame_rate(path) == pytest.approx(25, rel=0.06)


def test_mixed_rates_are_said_with_their_counts():
    assert mixed_rates([25.0, 30.0, None, 24.0]) is None
    assert mixed_rates([]) is None
    assert mixed_rates([25.0] * 3 + [60.0]).startswith("frame rates differ, frames a second: 25 (3 videos), 60 (1 vid")


def test_a_running_video_is_thinned_by_its_times():
    pace = AT_25.pace(120)
    thinned = Thinning(pace)
    taken = [number for number in range(240) if thinned.takes(number / 120)]
    assert taken == [number for number in range(240) if pace.index(number) is not None]
    # It states twice the rate at which its pictures come: none is left out.
    thinned = Thinning(AT_25.pace(50))
    assert all(thinned.takes(number / 25) for number in range(50))
    # After a gap it goes on at the same rate.
    thinned = Thinning(pace)
    times = [*np.arange(12) / 120, *(5 + np.arange(24) / 120)]
    taken = [time for time in times if thinned.takes(time)]
    assert len(taken) == 3 + 5
    assert np.diff(taken[3:]) == pytest.approx(1 / 25, abs=1 / 120)


def test_a_clip_of_a_fast_copy_is_the_clip_of_the_video(tmp_path, write_video):
    generator = np.random.default_rng(3)
    pictures = list(generator.integers(0, 256, (40, 32, 32, 3), np.uint8))
    raw = {"codec": "ffv1", "pixel_format": "bgr0"}
    plain = write_video(tmp_path / "plain.mkv", pictures, rate=25, **raw)
    copies = [pictures[min(int(number / 4.8 + 0.5), 39)] for number in range(192)]
    fast = write_video(tmp_path / "fast.mkv", copies, rate=120, **raw)
    settings = ClipSettings(5, 4, FlowRecipe("dis", size=32))
    for frames in (1, 5):
        settings = ClipSettings(frames, 4, FlowRecipe("dis", size=32))
        wanted = cut_clip(VideoSource(plain, settings.flow, rates=AT_25), settings)
        source = VideoSource(fast, settings.flow, rates=AT_25)
        found = cut_clip(source, settings)
        assert source.num_frames == 40
        np.testing.assert_array_equal(found.rgb, wanted.rgb)
        np.testing.assert_array_equal(found.flow, wanted.flow)
        np.testing.assert_allclose(found.times, wanted.times, atol=0.005)
    assert VideoSource(fast, settings.flow).pace == WHOLE
    assert VideoSource(fast, settings.flow).num_frames == 192
