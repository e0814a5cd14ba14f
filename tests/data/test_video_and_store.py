"""Training straight from video gives the same samples as the prepared store, up to the store's JPEG loss."""

from functools import partial

import av
import cv2
import numpy as np
import pytest

from actionfusion.data.augment import Augmentation
from actionfusion.data.loading import ClipDataset, LabelledSource
from actionfusion.data.prepare import prepare
from actionfusion.data.store import StoredVideo, entry_path
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.video_source import VideoSource

# The bound: what docs/data.md tells of the store, with some room.  Flow in steps of its 8-bit codes, since JPEG rounds
# these; a step is bound / 127 pixels.
LOWEST_PSNR = 36.0
MEAN_STEPS, MOST_STEPS = 0.1, 8
SETTINGS = ClipSettings(4, 4, FlowRecipe("dis", 10.0, 64))


def write_walk(path, seed, count=40):
    """A texture that wanders by up to 2 px a frame before another that stands still."""
    generator = np.random.default_rng(seed)
    far, near = (
        np.clip(128 + 60 * cv2.GaussianBlur(noise, (0, 0), 2.5) / 0.12, 0, 255).astype(np.uint8)
        for noise in generator.normal(size=(2, 160, 200, 3)).astype(np.float32)
    )
    place = np.array([20.0, 20.0])
    with path.open("wb") as file, av.open(file, "w", format="avi") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 120, "yuv420p", 3_000_000
        for _ in range(count):
            place = np.clip(place + generator.uniform(-2, 2, 2), 0, 40)
            picture = far[:120, :160].copy()
            x, y = place.astype(int) + 30
            picture[y : y + 50, x : x + 50] = near[40:90, 40:90]
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode())


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("walks")
    paths = [root / f"{seed}.avi" for seed in range(3)]
    for seed, path in enumerate(paths):
        write_walk(path, seed)
    return paths


def both_ways(paths, store, settings, augmentation):
    """The data set straight from video and from the store."""
    items = [(path, path.name) for path in paths]
    report = prepare(items, store, settings.flow, workers=0)
    assert not report.failures
    openers = (
        lambda path, name: partial(VideoSource, path, settings.flow),
        lambda path, name: partial(StoredVideo, entry_path(store, name)),
    )
    return [
        ClipDataset(
            [LabelledSource(name, opener(path, name), 0) for path, name in items],
            settings,
            augmentation=augmentation,
            seed=5,
        )
        for opener in openers
    ]


def check_bound(direct, stored):
    """One clip within the bound of another, and the same in everything that is not a picture."""
    np.testing.assert_array_equal(direct.positions, stored.positions)
    np.testing.assert_array_equal(direct.times, stored.times)
    squares = np.square(direct.rgb.astype(float) - stored.rgb).mean()
    assert 10 * np.log10(255**2 / max(squares, 1e-9)) > LOWEST_PSNR
    steps = np.abs(direct.flow.astype(int) - stored.flow)
    assert steps.mean() < MEAN_STEPS
    assert steps.max() <= MOST_STEPS


@pytest.mark.parametrize("augmentation", [None, Augmentation((1, 6), flip=True)], ids=["eqs 13-14", "random"])
def test_clips_differ_by_no_more_than_the_bound(videos, tmp_path, augmentation):
    direct, stored = both_ways(videos, tmp_path, SETTINGS, augmentation)
    starts = set()
    for epoch in range(4):
        for index in range(len(videos)):
            (clip, *rest), (other, *same) = direct[epoch, index], stored[epoch, index]
            assert rest == same
            check_bound(clip, other)
            starts.add(clip.positions.tobytes())
            # Both streams show something, so the bound is not kept by nothing.
            assert clip.rgb.std() > 20
            assert np.abs(clip.recipe.decode(clip.flow)).max() > 0.5
    assert len(starts) >= (1 if augmentation is None else 8)


def test_every_change_is_drawn_alike(videos, tmp_path):
    """Crop and brightness enlarge the loss, but move nothing."""
    direct, stored = both_ways(
        videos, tmp_path, SETTINGS, Augmentation((2, 10), flip=True, smallest_crop=0.6, brightness=0.3)
    )
    for epoch in range(4):
        clip, other = direct[epoch, 0][0], stored[epoch, 0][0]
        np.testing.assert_array_equal(clip.positions, other.positions)
        for mine, theirs in ((clip.rgb, other.rgb), (clip.flow, other.flow)):
            assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.98


def test_real_clips_keep_the_bound(shared_data, tmp_path):
    paths = sorted((shared_data / "UCF-101").rglob("*.avi"))[::100]
    settings = ClipSettings(8, 4, FlowRecipe("dis", 10.0, 96))
    direct, stored = both_ways(paths, tmp_path, settings, Augmentation((2, 10), flip=True))
    for index in range(len(paths)):
        check_bound(direct[1, index][0], stored[1, index][0])
