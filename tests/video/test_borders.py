"""Borders are as wide as the bars that were drawn, whatever their colour and the noise of coding."""

import numpy as np
import pytest

from actionfusion.video.borders import BorderMeter, Borders, border_positions
from actionfusion.video.reading import iterate_frames

HEIGHT, WIDTH, COUNT = 96, 128, 20
CODECS = {
    "fine.mp4": {"codec": "libx264", "options": {"crf": "20"}},
    "coarse.mp4": {"codec": "libx264", "options": {"crf": "32"}},
    "old.avi": {"codec": "mpeg4", "options": {"qmin": "8", "qmax": "12", "b": "2000000"}},
}


def scene(seed=0, low=40, high=216):
    """Noisy blocks that slide to the right, so that no line has one colour."""
    generator = np.random.default_rng(seed)
    wall = generator.integers(low, high, (HEIGHT // 8, 2 * WIDTH // 8, 3)).repeat(8, 0).repeat(8, 1)
    noise = generator.normal(0, 4, (COUNT, HEIGHT, WIDTH, 3))
    frames = [wall[:, 2 * number : 2 * number + WIDTH] + noise[number] for number in range(COUNT)]
    return np.clip(frames, 0, 255).astype(np.uint8)


def with_bars(frames, top=0, bottom=0, left=0, right=0, colour=(0, 0, 0)):
    frames = frames.copy()
    frames[:, :top] = frames[:, HEIGHT - bottom :] = colour
    frames[:, :, :left] = frames[:, :, WIDTH - right :] = colour
    return frames


def measured(pictures):
    meter = BorderMeter()
    for picture in pictures:
        meter.add(picture)
    return meter.borders()


def lines(borders):
    return [borders.top * HEIGHT, borders.bottom * HEIGHT, borders.left * WIDTH, borders.right * WIDTH]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (20, 60, 200)])
@pytest.mark.parametrize("bars", [(13, 13, 0, 0), (0, 0, 11, 17), (12, 9, 10, 14), (0, 21, 0, 0), (0, 0, 0, 0)])
def test_bars_in_a_coded_video(name, colour, bars, tmp_path, write_video):
    path = write_video(tmp_path / name, with_bars(scene(), *bars, colour), **CODECS[name])
    frames = iterate_frames(path, size=16, unscaled=border_positions(range(COUNT)))
    found = measured(frame.unscaled for frame in frames if frame.unscaled is not None)
    np.testing.assert_allclose(lines(found), bars, atol=1)


def test_bars_of_two_colours_at_once():
    frames = with_bars(scene(), top=12, bottom=12, colour=(250, 250, 250))
    np.testing.assert_allclose(lines(measured(with_bars(frames, left=16, right=20))), (12, 12, 16, 20))


def test_noise_of_the_bars_themselves_is_passed_over():
    frames = with_bars(scene(), top=10, bottom=20, colour=(30, 30, 30)).astype(float)
    noisy = np.clip(frames + np.random.default_rng(1).normal(0, 2, frames.shape), 0, 255).astype(np.uint8)
    np.testing.assert_allclose(lines(measured(noisy)), (10, 20, 0, 0))


def test_what_shows_in_one_frame_alone_is_no_border():
    frames = with_bars(scene(), top=16)
    frames[11, 4:12, 30:90] = 200
    assert measured(frames).top * HEIGHT <= 4


def test_a_dark_moment_does_not_hide_the_picture():
    frames = with_bars(scene(), left=8)
    frames[:5] = 0
    assert lines(measured(frames)) == [0, 0, 8, 0]


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_a_picture_of_one_colour_has_no_border(colour):
    noise = np.random.default_rng(2).normal(0, 1, (4, HEIGHT, WIDTH, 3))
    assert measured(np.clip(colour + noise, 0, 255).astype(np.uint8)) == Borders()


def test_two_colours_that_meet_leave_no_picture_either():
    assert measured(with_bars(np.full((4, HEIGHT, WIDTH, 3), 90, np.uint8), top=40)) == Borders()


def test_a_sky_that_ends_gradually_is_no_border():
    frames = scene(low=0, high=40).astype(float)
    height = np.arange(HEIGHT)[:, None, None]
    sky = np.clip(1.5 - height / 40, 0, 1)
    assert lines(measured((sky * 210 + (1 - sky) * frames).astype(np.uint8))) == [0, 0, 0, 0]


def test_without_pictures_borders_are_unknown():
    assert measured([]) is None


def test_pictures_of_another_size_are_passed_over():
    frames = with_bars(scene(), top=12)
    assert measured([frames[0], frames[1][:50], *frames[2:]]) == measured([frames[0], *frames[2:]])


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 63, 64])
def test_frames_are_chosen_evenly_among_those_that_are_read(count):
    read = range(0, 3 * count, 3)
    chosen = border_positions(read)
    assert set(chosen) <= set(read)
    assert min(count, 5) <= len(chosen) <= 8


def test_frames_come_at_both_sizes(tmp_path, write_video, numbered):
    path = write_video(tmp_path / "a.mp4", numbered(9, 64, 48), rotation=(90, False, False))
    upright = list(iterate_frames(path))
    both = list(iterate_frames(path, wanted=range(0, 9, 2), size=16, unscaled=[2, 3, 6]))
    assert [frame.index for frame in both] == [0, 2, 4, 6, 8]
    assert [frame.index for frame in both if frame.unscaled is not None] == [2, 6]
    for frame in both:
        assert frame.image.shape == (16, 16, 3)
        if frame.unscaled is not None:
            np.testing.assert_array_equal(frame.unscaled, upright[frame.index].image)
