"""One draw for both streams: RGB and flow stay aligned, and flow stays true."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionfusion.data.augment import Augmentation, augment, crop, flip
from actionfusion.errors import SettingsError
from actionfusion.video.clip import Clip
from actionfusion.video.flow import FlowRecipe

SIZE = 32


def make_clip(seed: int = 0, frames: int = 3) -> Clip:
    generator = np.random.default_rng(seed)
    return Clip(
        rgb=generator.integers(0, 256, (frames, 3, SIZE, SIZE), dtype=np.uint8),
        flow=generator.integers(1, 256, (frames, 8, SIZE, SIZE), dtype=np.uint8),
        times=np.arange(frames) / 25,
        positions=np.arange(frames),
        recipe=FlowRecipe("dis", size=SIZE),
    )


def test_flip_reverses_columns_and_negates_u_alone():
    clip = make_clip()
    mirrored = flip(clip)
    before, after = clip.recipe.decode(clip.flow), clip.recipe.decode(mirrored.flow)
    np.testing.assert_array_equal(mirrored.rgb, clip.rgb[..., ::-1])
    np.testing.assert_allclose(after[:, 0::2], -before[:, 0::2, :, ::-1], atol=1e-5)
    np.testing.assert_array_equal(after[:, 1::2], before[:, 1::2, :, ::-1])


def test_flip_twice_is_nothing():
    clip = make_clip()
    again = flip(flip(clip))
    np.testing.assert_array_equal(again.rgb, clip.rgb)
    np.testing.assert_array_equal(again.flow, clip.flow)


def test_crop_moves_both_streams_alike_and_scales_displacements():
    clip = make_clip()
    # The same pattern in a channel of each stream shows whether they stay on each other.
    pattern = np.tile(np.linspace(96, 160, SIZE).astype(np.uint8), (SIZE, 1))
    clip.rgb[:, 0] = pattern
    clip.flow[:, 2] = pattern
    cropped = crop(clip, 0.5, 1.0, 0.0)
    seen = cropped.rgb[:, 0].astype(np.float64) - 128
    displaced = cropped.flow[:, 2].astype(np.float64) - 128
    np.testing.assert_allclose(displaced, np.clip(2 * seen, -127, 127), atol=2)
    assert cropped.rgb.shape == clip.rgb.shape
    # The right half was taken: its left border lies at the middle of the pattern.
    assert abs(int(cropped.rgb[0, 0, 0, 0]) - int(pattern[0, SIZE // 2])) <= 2


@given(share=st.floats(0.5, 1), left=st.floats(0, 1), top=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_crop_is_that_of_whole_pictures_with_their_channels_last(share, left, top, seed):
    clip = make_clip(seed)
    cropped = crop(clip, share, left, top)
    side = max(round(SIZE * share), 1)
    x, y = round(left * (SIZE - side)), round(top * (SIZE - side))
    for before, after, grows in ((clip.rgb, cropped.rgb, False), (clip.flow, cropped.flow, True)):
        for picture, result in zip(before, after, strict=True):
            window = np.ascontiguousarray(picture[:, y : y + side, x : x + side].transpose(1, 2, 0))
            expected = cv2.resize(window, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)
            if grows:
                expected = np.clip(np.rint((expected.astype(float) - 128) * (SIZE / side)), -127, 127) + 128
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("count", [1, 5])
def test_brightness_is_one_curve_for_all_pixels(count):
    clip = make_clip(3, count)
    changed = augment(clip, Augmentation(brightness=0.4), np.random.default_rng(4))
    curve = {before: set(changed.rgb[clip.rgb == before].tolist()) for before in np.unique(clip.rgb).tolist()}
    assert all(len(after) == 1 for after in curve.values())
    values = np.array([after.pop() for _, after in sorted(curve.items())])
    assert (np.diff(values) >= 0).all()
    middle = (values > 0) & (values < 255)
    assert np.abs(np.diff(np.diff(values[middle]))).max() <= 1  # a line, but for rounding


def test_a_code_that_only_lossy_storage_makes_does_not_wrap():
    clip = make_clip()
    clip.flow[:] = 0
    mirrored = flip(clip)
    assert (mirrored.flow[:, 0::2] == 255).all()
    assert (mirrored.flow[:, 1::2] == 0).all()


@given(seed=st.integers(0, 2**32), low=st.floats(0.5, 1), brightness=st.floats(0, 0.5), mirrored=st.booleans())
@settings(max_examples=30, deadline=None)
def test_is_a_function_of_its_numbers_and_keeps_shapes(seed, low, brightness, mirrored):
    clip, how = make_clip(seed % 7), Augmentation(flip=mirrored, smallest_crop=low, brightness=brightness)
    first = augment(clip, how, np.random.default_rng(seed))
    second = augment(clip, how, np.random.default_rng(seed))
    np.testing.assert_array_equal(first.rgb, second.rgb)
    np.testing.assert_array_equal(first.flow, second.flow)
    assert first.rgb.shape == clip.rgb.shape
    assert first.flow.shape == clip.flow.shape
    assert first.flow.min() >= 1


def test_brightness_leaves_the_flow():
    clip = make_clip()
    changed = augment(clip, Augmentation(brightness=0.5), np.random.default_rng(1))
    np.testing.assert_array_equal(changed.flow, clip.flow)
    assert (changed.rgb != clip.rgb).any()


def test_nothing_switched_on_changes_nothing():
    clip = make_clip()
    same = augment(clip, Augmentation(), np.random.default_rng(0))
    np.testing.assert_array_equal(same.rgb, clip.rgb)
    np.testing.assert_array_equal(same.flow, clip.flow)


@pytest.mark.parametrize(
    "wrong", [{"intervals": (0, 3)}, {"intervals": (4, 3)}, {"smallest_crop": 0.2}, {"brightness": 0.9}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingsError):
        Augmentation(**wrong)
