import base64
import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actionfusion.errors import SettingsError
from actionfusion.reporting.filmstrip import (
    LIGHTNESS,
    FilmStrip,
    common_scale,
    flow_colours,
    flow_pictures,
    flow_wheel,
    frame_pictures,
    heat_pictures,
    middle_fields,
)
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.flow import FlowRecipe


def _pixels(source: str) -> np.ndarray:
    kind, content = source.split(",", 1)
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content, validate=True))))


def _field(u: float, v: float) -> np.ndarray:
    return np.full((4, 4, 2), (u, v), np.float32)


class _NumberedFields:
    """A source whose flow frame n is n pixels to the right."""

    recipe = FlowRecipe("dis", bound=127.0, size=16)
    frame_size = 16
    num_frames = 60

    def read(self, frames, fields):
        codes = np.full((len(fields), 16, 16, 2), 128, np.uint8)
        codes[..., 0] += np.array(fields, np.uint8)[:, None, None]
        return np.zeros((len(frames), 16, 16, 3), np.uint8), codes, np.array(frames) / 25


@pytest.mark.parametrize("length", [2, 4, 6])
def test_the_middle_field_is_the_flow_from_the_sampled_frame_to_the_next(length):
    source = _NumberedFields()
    clip = cut_clip(source, ClipSettings(8, length, source.recipe), lambda _: np.arange(8, dtype=np.int64) * 7 + 4)
    fields = middle_fields(clip)
    assert fields.shape == (8, 16, 16, 2)
    np.testing.assert_array_equal(fields[..., 0], np.broadcast_to(clip.positions[:, None, None], (8, 16, 16)))
    assert not fields[..., 1].any()


def test_rest_is_transparent_and_faster_is_stronger_up_to_the_scale():
    alpha = [int(flow_colours(_field(speed, 0), 4.0)[0, 0, 3]) for speed in (0, 0.5, 1, 2, 4, 9)]
    assert alpha[0] == 0
    assert alpha == sorted(alpha)
    assert len(set(alpha[:5])) == 5
    assert alpha[4:] == [255, 255]


def test_directions_have_the_colours_that_the_key_names():
    right, up, left, down = (flow_colours(_field(*motion), 1)[0, 0, :3].astype(int) for motion in
                             ((1, 0), (0, -1), (-1, 0), (0, 1)))  # fmt: skip
    assert right.argmax() == 0, "red"
    assert up[2] < min(up[:2]) - 60, "yellow: red and green without blue"
    assert left[0] < min(left[1:]), "green: no red"
    assert left.argmax() == 1
    assert down.argmax() == 2, "blue"


@settings(max_examples=40, deadline=None)
@given(st.floats(-np.pi, np.pi), st.floats(0.01, 30), st.floats(0.5, 20))
def test_a_colour_tells_the_direction_whatever_the_speed_and_all_are_equally_light(angle, speed, scale):
    colour = flow_colours(_field(speed * np.cos(angle), speed * np.sin(angle)), scale)[0, 0, :3]
    slow = flow_colours(_field(0.5 * np.cos(angle), 0.5 * np.sin(angle)), scale)[0, 0, :3]
    assert np.abs(colour.astype(int) - slow.astype(int)).max() <= 1
    lab = cv2.cvtColor((colour[None, None] / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[0, 0]
    assert lab[0] == pytest.approx(LIGHTNESS, abs=4), "up to what sRGB cannot show"
    read = np.arctan2(-lab[2], lab[1])
    assert abs((read - angle + np.pi) % (2 * np.pi) - np.pi) < 0.35


def test_one_scale_serves_all_clips_and_never_blows_up_noise(make_clip):
    still = make_clip(motion=[(0.1, 0)] * 4)
    slow, fast = make_clip(motion=[(2.2, 0)] * 4), make_clip(motion=[(0, -8.1)] * 4)
    assert common_scale([]) == common_scale([still]) == 1.0
    assert common_scale([slow]) == 2.5
    assert common_scale([slow, fast]) == common_scale([fast, slow]) == 8.5


@pytest.mark.parametrize("size", [32, 224])
def test_pictures_show_the_frames_and_their_flow(make_clip, size):
    clip = make_clip(3, size, motion=[(0, 0), (4, 0), (0, 4)])
    frames, flows = frame_pictures(clip), flow_pictures(clip, 4.0)
    assert [frame.caption for frame in frames] == ["0.00 s", "0.20 s", "0.40 s"]
    for moment, frame in enumerate(frames):
        pixels = _pixels(frame.source)
        assert pixels.shape == (160, 160, 3)
        for half, rows in ((0, slice(8, 70)), (1, slice(90, 152))):
            expected = clip.rgb[moment, :, half * (size - 1), size // 2].astype(float)
            np.testing.assert_allclose(pixels[rows].reshape(-1, 3).mean(0), expected, atol=6)
    still, right, down = (_pixels(flow.source) for flow in flows)
    assert still.shape == (160, 160, 4)
    assert not still[..., 3].any()
    assert right[80, 80].argmax() != 2
    assert right[80, 80, 3] > 250
    assert down[80, 80, :3].argmax() == 2
    assert "1 of 3" in frames[0].description
    # 4 px of a bound of 20 is stored as 25 of 127 steps.
    assert "up to 3.9 px" in flows[1].description


def test_a_clip_without_flow_has_frames_alone(make_clip):
    clip = replace(make_clip(3), flow=None)
    assert len(frame_pictures(clip)) == 3
    assert flow_pictures(clip, 4.0) == []
    assert common_scale([clip]) == 1.0
    assert common_scale([clip, make_clip(motion=[(2.2, 0)] * 4)]) == 2.5


def test_the_key_is_a_disc_coloured_by_the_same_rule():
    key = _pixels(flow_wheel(3.0).source)
    middle = key.shape[0] // 2
    assert key[0, 0, 3] == 0
    assert key[middle, middle, 3] < 40
    right = flow_colours(_field(3, 0), 3.0)[0, 0, :3].astype(int)
    assert np.abs(key[middle, -8, :3].astype(int) - right).max() < 25


def test_the_prediction_is_the_most_probable_label_in_any_order(make_clip):
    clip = make_clip()
    strip = FilmStrip("clip", "wave", clip, [("bend", 0.2), ("wave", 0.7), ("jump", 0.1)])
    assert strip.ranking == [("wave", 0.7), ("bend", 0.2), ("jump", 0.1)]
    assert strip.correct is True
    assert FilmStrip("clip", "bend", clip, strip.predictions).correct is False
    assert FilmStrip("clip", "", clip, strip.predictions).correct is None


@pytest.mark.parametrize("predictions", [[], [("wave", 1.2)], [("wave", -0.1)], [("wave", float("nan"))]])
def test_impossible_predictions_are_refused(make_clip, predictions):
    with pytest.raises(SettingsError, match="clip 5"):
        FilmStrip("clip 5", "wave", make_clip(), predictions)


def test_a_probability_rounded_just_above_one_is_none_the_worse(make_clip):
    assert FilmStrip("clip", "wave", make_clip(), [("wave", float(np.float32(1) + np.float32(1e-6)))]).correct


def test_a_heat_map_glows_where_it_is_hot_and_leaves_the_cold_as_it_was(make_clip):
    clip = make_clip(3)
    heat = np.zeros((3, 4, 4), np.float32)
    heat[1, 0, 3] = 1.0
    strip = FilmStrip("a.mp4", "walk", clip, [("walk", 0.9), ("run", 0.1)], heat=heat)
    frames = frame_pictures(clip)
    pictures = heat_pictures(strip)
    assert len(pictures) == 3
    plain, hot = (_pixels(part[1].source)[..., :3].astype(int) for part in (frames, pictures))
    changed = np.abs(hot - plain).max(-1)
    assert changed[:40, 120:].mean() > 60
    assert changed[80:, :80].max() <= 8, "no more than the compression of pictures"
    assert "up to 1.00" in pictures[1].description
    assert np.abs(_pixels(pictures[0].source).astype(int) - _pixels(frames[0].source).astype(int)).max() <= 8
    assert heat_pictures(FilmStrip("a.mp4", "walk", clip, [("walk", 1.0)])) == []


@pytest.mark.parametrize(
    ("heat", "reason"),
    [
        (np.zeros((2, 4, 4)), "does not fit 3 frames"),
        (np.zeros((3, 4)), "does not fit 3 frames"),
        (np.zeros((3, 0, 4)), "does not fit 3 frames"),
        (np.full((3, 4, 4), 1.5), "leaves 0 to 1"),
        (np.full((3, 4, 4), np.nan), "leaves 0 to 1"),
    ],
)
def test_a_heat_map_that_fits_no_clip_is_refused(make_clip, heat, reason):
    with pytest.raises(SettingsError, match=reason):
        FilmStrip("a.mp4", "walk", make_clip(3), [("walk", 1.0)], heat=heat.astype(np.float32))
