"""A video file as the source of clips, also where its packets are not its frames."""

import numpy as np
import pytest

from actionfusion.errors import NoFrames, VideoError
from actionfusion.video import reading as reading_module
from actionfusion.video import video_source as video_source_module
from actionfusion.video.clip import ClipSettings, FrameCountChanged, cut_clip
from actionfusion.video.flow import FlowRecipe, flow_engine
from actionfusion.video.reading import count_frames, iterate_frames
from actionfusion.video.video_source import VideoSource

RECIPE = FlowRecipe("dis", size=48)
SETTINGS = ClipSettings(frames=17, flow_frames=4, flow=RECIPE)
# An MPEG-4 picture with vop_coded = 0 (ISO/IEC 14496-2, section 6.2.5): "nothing here", as in real DivX and Xvid files.
NOT_CODED = b"\0\0\1\xb6\x50\xcf"


def _moving(count: int) -> list[np.ndarray]:
    """A texture that drifts two pixels a frame, over a grey that names the frame."""
    texture = np.random.default_rng(3).integers(0, 80, (60, 80 + 2 * count, 1), np.uint8).repeat(3, axis=2)
    texture = np.kron(texture[::4, ::4], np.ones((4, 4, 1), np.uint8))
    return [texture[:48, 2 * index : 2 * index + 64] + np.uint8(2 * index) for index in range(count)]


@pytest.fixture
def gapped(tmp_path, mux_video):
    """45 packets, of which 5 give no frame."""
    path = mux_video(
        tmp_path / "gapped.avi",
        [(_moving(40), "mpeg4", 0)],
        extra=dict.fromkeys((3, 7, 8, 30, 36), NOT_CODED),
    )
    assert count_frames(path) == 45
    return path


def _check_clip(clip, path):
    """Against eqs 13-14 and the window of section 3.5, counted from 1 as the paper does, on every frame."""
    every = list(iterate_frames(path, size=RECIPE.size))
    interval = max(len(every) // 17, 1)
    numbers = [min(k * interval, len(every)) for k in range(1, 18)]
    engine = flow_engine(RECIPE.engine)
    grey = [np.rint(frame.image @ [0.299, 0.587, 0.114]).astype(np.uint8) for frame in every]
    for row, number in enumerate(numbers):
        assert clip.positions[row] == number - 1
        assert clip.times[row] == every[number - 1].time
        np.testing.assert_array_equal(clip.rgb[row].transpose(1, 2, 0), every[number - 1].image)
        for place, start in enumerate(range(number - 2, number + 2)):
            first = min(max(start, 1), len(every) - 1)
            field = engine(grey[first - 1], grey[first])
            codes = clip.flow[row, 2 * place : 2 * place + 2].transpose(1, 2, 0)
            # Grey here is rounded a little otherwise than OpenCV's, which the flow may feel in places.
            assert np.median(np.abs(RECIPE.decode(codes) - field)) < 0.1


def test_a_clip_of_a_plain_video(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi", _moving(40))
    clip = cut_clip(VideoSource(path, RECIPE), SETTINGS)
    assert clip.rgb.shape == (17, 3, 48, 48)
    assert clip.flow.shape == (17, 8, 48, 48)
    _check_clip(clip, path)


@pytest.mark.parametrize("guess", [None, 45, 12, 41, 1000])
def test_a_clip_follows_the_frames_and_not_the_packets(guess, gapped):
    source = VideoSource(gapped, RECIPE, guess)
    clip = cut_clip(source, SETTINGS)
    assert source.num_frames == 40
    _check_clip(clip, gapped)


def test_the_count_changes_once_and_is_right_then(gapped):
    source = VideoSource(gapped, RECIPE)
    assert source.num_frames == 45
    with pytest.raises(FrameCountChanged, match=r"gapped\.avi"):
        source.read([0, 44], [0, 43])
    assert source.num_frames == 40
    frames, codes, times = source.read([0, 39], [0, 38])
    assert frames.shape == (2, 48, 48, 3)
    assert codes.shape == (2, 48, 48, 2)
    assert times.shape == (2,)


def test_a_right_guess_takes_one_decoding(gapped, monkeypatch):
    readings = []
    decode = reading_module._decode

    def counted(*args):
        readings.append(0)
        for picture in decode(*args):
            readings[-1] += 1
            yield picture

    monkeypatch.setattr(reading_module, "_decode", counted)
    monkeypatch.setattr(video_source_module, "count_frames", lambda path: pytest.fail("the number was known"))
    source = VideoSource(gapped, RECIPE, 40)
    first = cut_clip(source, SETTINGS)
    assert readings == [40]
    second = cut_clip(source, SETTINGS)
    # From then on a reading ends with the last frame that it needs: the 34th, with two fields after it.
    assert readings == [40, 36]
    np.testing.assert_array_equal(first.rgb, second.rgb)
    np.testing.assert_array_equal(first.flow, second.flow)


def test_flow_alone_reads_both_its_frames(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi", _moving(12))
    source = VideoSource(path, RECIPE)
    frames, codes, times = source.read([], [2, 7, 8])
    assert frames.shape == (0, 48, 48, 3)
    assert times.shape == (0,)
    _, every, _ = source.read([], range(11))
    np.testing.assert_array_equal(codes, every[[2, 7, 8]])
    # The texture moves two pixels to the left in 64, which is 1.5 of 48.
    assert np.median(RECIPE.decode(codes)[:, 12:36, 12:36, 0]) == pytest.approx(-1.5, abs=0.3)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_short_videos(count, tmp_path, write_video):
    path = write_video(tmp_path / "a.avi", _moving(count))
    clip = cut_clip(VideoSource(path, RECIPE), SETTINGS)
    assert clip.positions.tolist() == [min(k, count) - 1 for k in range(1, 18)]
    if count == 1:
        assert np.all(clip.flow == 128)
    else:
        _check_clip(clip, path)


def test_a_video_without_frames_and_a_missing_one(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "a.avi", count=2)
    monkeypatch.setattr(video_source_module, "count_frames", lambda path: 0)
    with pytest.raises(NoFrames):
        cut_clip(VideoSource(path, RECIPE), SETTINGS)
    monkeypatch.undo()
    with pytest.raises(VideoError, match="there is no such file"):
        cut_clip(VideoSource(tmp_path / "none.avi", RECIPE), SETTINGS)


def test_real_clips_with_more_packets_than_frames(shared_data):
    for name, packets, frames in (
        ("UCF-101/Basketball/v_Basketball_g16_c01.avi", 528, 482),
        ("ut-interaction/set1/hand_shaking/17_3_0.avi", 123, 121),
    ):
        path = shared_data / name
        assert count_frames(path) == packets
        source = VideoSource(path, RECIPE)
        clip = cut_clip(source, SETTINGS)
        assert source.num_frames == frames
        _check_clip(clip, path)
