"""Saliency, 3-D SIFT and HOOF have known answers, and SGSH learns from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actionfusion.errors import SettingsError
from actionfusion.models.solving import DescribedClips
from actionfusion.models.systems.salient_motion import SIFT_WIDTH, hoof, key_points, salient_regions, sift_3d
from actionfusion.models.systems.sgsh import SGSH, SGSHSettings

MIDDLE = np.array([[8, 16, 16]])


def ramp(axis: int, step: int = 3) -> np.ndarray:
    """A clip ``[16, 32, 32]`` that grows along one axis: time, y or x."""
    shape = [1, 1, 1]
    shape[axis] = -1
    size = (16, 32, 32)
    return np.broadcast_to((10 + step * np.arange(size[axis])).reshape(shape), size).astype(np.uint8)


def bins_of(described: np.ndarray) -> np.ndarray:
    """By direction in the picture and rise in time, over all parts: ``[8, 4]``."""
    return described.reshape(8, 8, 4).sum(0)


@pytest.mark.parametrize(("axis", "turn"), [(2, 0), (1, 2)])
def test_3d_sift_of_a_ramp_in_space_has_its_direction_and_does_not_rise(axis, turn):
    (described,) = sift_3d(ramp(axis), MIDDLE, 8, 4)
    bins = bins_of(described)
    assert described.shape == (SIFT_WIDTH,)
    assert np.linalg.norm(described) == pytest.approx(1)
    assert set(zip(*np.nonzero(bins > 1e-6), strict=True)) == {(turn, 1), (turn, 2)}  # between the two, at no rise
    assert bins[turn, 1] == pytest.approx(bins[turn, 2])
    parts = described.reshape(8, -1).sum(1)
    np.testing.assert_allclose(parts, parts[0])  # the same everywhere


def test_3d_sift_of_a_ramp_in_time_rises_and_of_its_reverse_falls():
    for clip, rise in ((ramp(0), 3), (ramp(0)[::-1], 0)):
        (described,) = sift_3d(clip, MIDDLE, 8, 4)
        assert bins_of(described).sum(0).argmax() == rise
        assert bins_of(described)[:, rise].sum() == pytest.approx(bins_of(described).sum())


def test_3d_sift_turns_with_the_picture_and_knows_nothing_of_a_flat_one():
    clip = np.random.default_rng(0).integers(0, 256, (16, 32, 32), dtype=np.uint8)
    turned = np.ascontiguousarray(np.rot90(clip, -1, (1, 2)))  # right becomes down
    (one,) = sift_3d(clip, MIDDLE, 8, 4)
    (other,) = sift_3d(turned, MIDDLE, 8, 4)
    parts = one.reshape(2, 2, 2, 8, 4)
    expected = np.roll(np.rot90(parts, -1, (1, 2)), 2, 3)
    np.testing.assert_allclose(other.reshape(2, 2, 2, 8, 4), expected, atol=1e-5)
    assert not sift_3d(np.full((16, 32, 32), 9, np.uint8), MIDDLE, 8, 4).any()


def test_hoof_is_the_same_under_mirroring_and_not_upside_down():
    flow = np.random.default_rng(1).normal(0.3, 1, (20, 20, 2)).astype(np.float32)
    mirrored, turned = flow * np.float32([-1, 1]), flow * np.float32([1, -1])
    np.testing.assert_allclose(hoof(flow), hoof(mirrored[:, ::-1]), atol=1e-6)
    np.testing.assert_allclose(hoof(flow), hoof(turned)[::-1], atol=1e-6)
    assert hoof(flow).sum() == pytest.approx(1)
    assert np.abs(hoof(flow) - hoof(turned)).max() > 0.01
    assert not hoof(np.zeros((4, 4, 2), np.float32)).any()


@pytest.mark.parametrize(("u", "v", "place"), [(0, -1, 0), (1, 0, 15), (-1, 0, 15), (0, 1, 29)])
def test_hoof_goes_from_up_to_down(u, v, place):
    assert hoof(np.full((4, 4, 2), (u, v), np.float32)).argmax() == place


def test_a_spot_is_salient_and_key_points_are_in_it():
    clip = np.full((4, 64, 64), 100, np.uint8)
    clip[:, 30:38, 40:48] = np.random.default_rng(0).integers(0, 256, (8, 8))
    salient = salient_regions(clip)
    assert salient[:, 32:36, 42:46].all()
    assert salient.mean() < 0.2
    points = key_points(clip, salient, 12)
    assert 4 <= len(points) <= 12
    assert salient[tuple(points.T)].all()
    assert not salient_regions(np.full((2, 64, 64), 100, np.uint8)).any()


def clip_of(direction: int, seed: int) -> torch.Tensor:
    """A textured spot that goes up or down, ``[8, 3, 32, 32]``."""
    generator = np.random.default_rng(seed)
    clip = np.full((8, 32, 32), 100, np.uint8)
    spot, x, y = generator.integers(0, 256, (9, 9)), generator.integers(4, 20), 11
    for time in range(8):
        at = y + direction * (time - 4)
        clip[time, at : at + 9, x : x + 9] = spot
    return torch.from_numpy(clip)[:, None].expand(-1, 3, -1, -1)


@torch.no_grad()
def test_up_and_down_are_learned_from_training_clips_alone() -> None:
    torch.manual_seed(0)
    model = SGSH(SGSHSettings.tiny(2)).eval()
    rgb, targets = torch.stack([clip_of(way, seed) for seed in range(8) for way in (-1, 1)]), torch.arange(2).repeat(8)
    names = tuple(map(str, range(16)))
    clips = DescribedClips(model.describe(model.features({"rgb": rgb})), targets, names, (None,) * 16)
    model.solve(clips)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    unseen = torch.stack([clip_of(way, seed) for seed in range(20, 26) for way in (-1, 1)])
    assert (model(rgb=unseen).argmax(1) == torch.arange(2).repeat(6)).float().mean() >= 0.9
    model.solve(clips)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_odd_neighbourhoods_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"network\.side: 7 is odd"):
        SGSHSettings(side=7)
