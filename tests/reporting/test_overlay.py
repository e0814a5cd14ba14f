"""The overlay video and the pictures in it."""

import weakref
from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actionfusion.reporting import overlay as overlay_module
from actionfusion.reporting.heatmaps import activation_picture, heat_over, scaled_heat
from actionfusion.reporting.overlay import Overlay, draw_overlay, write_overlay
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.reading import iterate_frames, probe


def _overlay(positions=(2, 5, 8), classes=5, target=1, size=32):
    frames = len(positions)
    heat = np.zeros((frames, 4, 4), np.float32)
    for moment in range(frames):
        heat[moment, moment % 4, 0] = 1
    running = np.full((frames, classes), 0.05, np.float32)
    running[:, target] = np.linspace(0.2, 0.8, frames)
    recipe = FlowRecipe("tvl1", 8.0, size)
    return Overlay([f"class {k}" for k in range(classes)], target, np.array(positions), heat, running, recipe, 2.0)


@pytest.fixture
def make_video(tmp_path):
    """Grey pictures that grow lighter, at the times given in hundredths of a second."""

    def make(times, width=64, height=48):
        path = tmp_path / "video.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 100)
            for index, time in enumerate(times):
                picture = np.full((height, width, 3), 40 + 5 * index, np.uint8)
                picture[:, : width // 2, 0] = 220
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 100)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.mark.parametrize(
    "times", [range(0, 48, 4), [0, 4, 8, 30, 34, 70, 71, 72, 90, 94, 98, 102], [0]], ids=["steady", "unsteady", "one"]
)
def test_every_frame_is_there_at_its_time(make_video, tmp_path, times):
    video = make_video(times)
    assert write_overlay(tmp_path / "out.mp4", video, _overlay()) == len(times)
    before, after = list(iterate_frames(video)), list(iterate_frames(tmp_path / "out.mp4"))
    np.testing.assert_allclose([frame.time for frame in after], [frame.time for frame in before], atol=2e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "video.mkv"]


@pytest.mark.parametrize(("width", "height"), [(65, 49), (320, 20), (20, 320), (1280, 720)])
def test_pictures_of_any_shape_can_be_coded(make_video, tmp_path, width, height):
    if width % 2:
        frame = np.zeros((height, width, 3), np.uint8)
        picture = draw_overlay(frame, 0, np.zeros((32, 32, 2), np.float32), _overlay())
        assert all(side % 2 == 0 for side in picture.shape[:2])
        return
    write_overlay(tmp_path / "out.mp4", make_video([0, 4, 8], width, height), _overlay())
    about = probe(tmp_path / "out.mp4")
    assert about.frame_count == 3
    assert about.width <= 2 * 480 + 48


def test_frames_are_not_kept(make_video, tmp_path, monkeypatch):
    living, most = weakref.WeakSet(), []

    def watched(path):
        for frame in iterate_frames(path):
            living.add(frame)
            most.append(len(living))
            yield frame

    monkeypatch.setattr(overlay_module, "iterate_frames", watched)
    write_overlay(tmp_path / "out.mp4", make_video(range(0, 160, 4)), _overlay())
    assert len(most) == 40
    assert max(most) <= 3


def test_the_bytes_do_not_depend_on_what_lay_in_memory(make_video, tmp_path, monkeypatch):
    video, generator, coded = make_video(range(0, 64, 4), 64, 64), np.random.default_rng(0), []
    texture = cv2.resize(generator.integers(0, 256, (20, 30, 3)).astype(np.uint8), (528, 392))

    def littered(image, index, *_):
        _ = [generator.random(30_000) for _ in range(50)]
        return np.roll(texture, (index, 2 * index), (0, 1))

    monkeypatch.setattr(overlay_module, "draw_overlay", littered)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_overlay(tmp_path / name, video, _overlay())
        coded.append((tmp_path / name).read_bytes())
    assert coded[0] == coded[1] == coded[2]


def test_without_h264_it_is_mpeg4(make_video, tmp_path, monkeypatch):
    codecs = {"no_such_codec": {}, "mpeg4": overlay_module.CODECS["mpeg4"]}
    monkeypatch.setattr(overlay_module, "CODECS", codecs)
    write_overlay(tmp_path / "out.mp4", make_video([0, 4, 8]), _overlay())
    assert probe(tmp_path / "out.mp4").codec == "mpeg4"


def test_heat_and_answers_follow_the_frames():
    laid = _overlay()
    np.testing.assert_array_equal(laid.heat_at(0), laid.heat[0])
    np.testing.assert_array_equal(laid.heat_at(5), laid.heat[1])
    np.testing.assert_array_equal(laid.heat_at(99), laid.heat[2])
    np.testing.assert_allclose(laid.heat_at(3), (2 * laid.heat[0] + laid.heat[1]) / 3, rtol=1e-6)
    assert laid.probabilities_at(1) == (0, None)
    assert laid.probabilities_at(2)[0] == 1
    seen, row = laid.probabilities_at(7)
    assert seen == 2
    np.testing.assert_array_equal(row, laid.running[1])


def test_a_video_shorter_than_the_clip_repeats_its_last_frame():
    laid = _overlay((0, 1, 1, 1))
    np.testing.assert_array_equal(laid.heat_at(0), laid.heat[0])
    np.testing.assert_array_equal(laid.heat_at(1), laid.heat[3])
    assert laid.probabilities_at(1)[0] == 4


def test_the_class_asked_for_always_has_a_bar():
    laid = _overlay(classes=9)
    assert laid.bars()[0] == 1
    unlikely = replace(laid, target=8)
    assert 8 in unlikely.bars()
    assert len(unlikely.bars()) == 4
    assert _overlay(classes=2).bars() == [1, 0]


def test_what_is_probable_has_the_longer_bar():
    early, late = (
        draw_overlay(np.zeros((48, 64, 3), np.uint8), index, np.zeros((32, 32, 2), np.float32), _overlay())
        for index in (2, 8)
    )
    filled = [int((picture == overlay_module.ASKED).all(axis=-1).sum()) for picture in (early, late)]
    assert filled[1] / filled[0] == pytest.approx(4, abs=0.2)


@given(arrays(np.float32, (3, 2, 2), elements=st.floats(-1, 8, width=32)))
def test_heat_is_in_proportion_within_a_frame_and_its_root_between_frames(maps):
    heat = scaled_heat(maps)
    assert ((heat >= 0) & (heat <= 1 + 1e-5)).all()
    positive = np.maximum(maps, 0)
    peaks = positive.max(axis=(1, 2))
    if peaks.max() > 1e-3:
        np.testing.assert_allclose(heat.max(axis=(1, 2)), np.sqrt(peaks / peaks.max()), atol=1e-3)
    for before, after in zip(positive, heat, strict=True):
        if before.max() > 1e-3:
            np.testing.assert_allclose(after / after.max(), before / before.max(), atol=1e-4)


def test_heat_lies_where_it_is_and_leaves_the_rest():
    frame = np.full((40, 60, 3), 100, np.uint8)
    heat = np.zeros((4, 6), np.float32)
    heat[3, 5] = 1
    picture = heat_over(frame, heat).astype(int)
    assert picture.shape == frame.shape
    changed = np.abs(picture - 100).sum(axis=-1) > 0
    assert changed[-5:, -5:].all()
    assert not changed[:20].any()


def test_an_activation_is_drawn_at_its_place(random_activations):
    picture = activation_picture(np.zeros((8, 8, 3), np.uint8), random_activations)
    assert picture.shape[2] == 4
    tile = picture[20:180, 166:326, :3].astype(int).sum(axis=-1)
    assert np.unravel_index(tile.argmax(), tile.shape) == (80, 120)  # cell (2, 3) of 4


@pytest.fixture
def random_activations():
    from actionfusion.explanation.activations import LayerActivations

    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 2, 3] = 5
    return [LayerActivations(1, "conv1_1", 8, (3, 0), maps)]
