"""Where: maps that are right on a network whose explanation is known, and equal to independent computations."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actionfusion.errors import SettingsError
from actionfusion.explanation.localization import (
    enlarged,
    grad_cam,
    occlusion,
    pointing_hits,
    rank_agreement,
    share_within,
)
from actionfusion.explanation.target import log_odds


@pytest.mark.parametrize("way", [grad_cam, occlusion, lambda asked: occlusion(asked, hidden="map")])
def test_evidence_in_one_corner_is_found_there_and_nowhere_else(red_corner, way):
    asked = red_corner((0, 1, 2, 3, 4))
    maps = way(asked)
    corner = np.zeros((5, 32, 32), bool)
    corner[:, 20:, 20:] = True
    assert pointing_hits(maps, corner).all()
    assert np.nanmin(share_within(maps, corner)) > 0.7
    # Beyond the patch's reach and the kernel's nothing speaks for the class at all.
    assert enlarged(maps, 32, 32)[:, :12, :12].max() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("hidden", ["input", "map"])
def test_only_the_frame_that_has_the_evidence_can_lose_it(red_corner, hidden):
    drops = occlusion(red_corner((2,)), hidden=hidden)
    assert drops[2].max() > 0.1
    np.testing.assert_allclose(np.delete(drops, 2, axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"conv_reduce": "flatten", "head": "literal"}, {"streams": "flow"}])
def test_grad_cam_agrees_with_autograd_through_the_whole_network(random_target, changes):
    asked = random_target(**changes)
    network, kept = asked.model, []
    layer = network.fusion if network.fusion is not None else network.backbones["flow"]
    hook = layer.register_forward_hook(lambda *call: kept.append(call[-1]))
    probability = network(**asked.clips).softmax(1)[0, asked.index]
    hook.remove()
    # Of p itself, by d ln(p / (1 - p)) = dp / (p (1 - p)); and the channels' sum is taken one by one.
    (gradient,) = torch.autograd.grad(probability, kept[0])
    gradient = (gradient / (probability * (1 - probability))).detach().reshape(4, -1, 4, 4).numpy()
    values = kept[0].detach().reshape(4, -1, 4, 4).numpy()
    expected = np.zeros((4, 4, 4))
    for frame in range(4):
        for channel in range(values.shape[1]):
            expected[frame] += gradient[frame, channel].mean() * values[frame, channel]
    np.testing.assert_allclose(grad_cam(asked), np.maximum(expected, 0), rtol=1e-3, atol=1e-6)


def test_occlusion_agrees_with_whole_clips_that_are_covered_by_hand(random_target):
    asked = random_target()
    drops = occlusion(asked, cells=4)
    with torch.no_grad():
        before = log_odds(asked.model(**asked.clips), 1)
        for moment, row, column in [(0, 0, 0), (1, 2, 3), (3, 3, 1)]:
            rgb, flow = asked.clips["rgb"].clone(), asked.clips["flow"].clone()
            across = slice(max(column * 8 - 4, 0), column * 8 + 12)
            down = slice(max(row * 8 - 4, 0), row * 8 + 12)
            rgb[0, moment, :, down, across] = asked.clips["rgb"].mean(dim=(1, 3, 4))[0, :, None, None]
            flow[0, moment, :, down, across] = 128
            after = log_odds(asked.model(rgb, flow), 1)
            assert drops[moment, row, column] == pytest.approx((before - after).item(), abs=1e-4)


def test_batches_do_not_change_the_maps(random_target, monkeypatch):
    asked = random_target()
    whole = [occlusion(asked), occlusion(asked, hidden="map")]
    monkeypatch.setattr("actionfusion.explanation.target._BATCH_VALUES", 1)
    for maps, hidden in zip(whole, ("input", "map"), strict=True):
        np.testing.assert_allclose(occlusion(asked, hidden=hidden), maps, atol=1e-5)


def test_no_gradient_is_left_behind(random_target):
    asked = random_target()
    grad_cam(asked)
    occlusion(asked)
    assert all(parameter.grad is None for parameter in asked.model.parameters())


@pytest.mark.parametrize(("hidden", "cells"), [("input", 0), ("input", 33), ("map", 5)])
def test_a_grid_that_does_not_fit_is_refused(random_target, hidden, cells):
    with pytest.raises(SettingsError, match=f"grid of {cells}"):
        occlusion(random_target(), hidden=hidden, cells=cells)


# Values that stay apart when they are scaled, as the smallest of floating point do not.
maps_of_any_kind = arrays(
    np.float32, (3, 4, 4), elements=st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)
)


@given(maps_of_any_kind, st.floats(0.5, 8))
def test_a_map_agrees_with_itself_at_any_scale(maps, factor):
    agreement = rank_agreement(maps, np.float32(factor) * maps)
    assert agreement is None if np.ptp(maps) == 0 else agreement > 0.9


def test_rank_agreement_knows_order_and_its_absence():
    ramp = np.arange(32, dtype=np.float32).reshape(2, 4, 4) + 1
    assert rank_agreement(ramp, ramp**2) == pytest.approx(1)
    assert rank_agreement(ramp, 1 / ramp) == pytest.approx(-1)
    assert rank_agreement(ramp, -ramp) is None  # all of it speaks against the class
    finer = np.repeat(np.repeat(ramp, 2, axis=1), 2, axis=2)
    assert rank_agreement(ramp, finer) == pytest.approx(1)


@given(maps_of_any_kind, st.integers(0, 2**9 - 1))
def test_pointing_and_share_have_the_area_as_their_average(maps, pattern):
    """Shifted over every place of the picture, a target is hit as often as it covers."""
    target = np.array([pattern >> bit & 1 for bit in range(9)], bool).reshape(3, 3)
    picture = np.zeros((8, 8), bool)
    picture[:3, :3] = target
    shifted = [np.roll(picture, (down, across), (0, 1)) for down in range(8) for across in range(8)]
    hits = np.mean([pointing_hits(maps, np.repeat(one[None], 3, axis=0)) for one in shifted], axis=0)
    points = np.ptp(enlarged(maps, 8, 8).reshape(3, -1), axis=1) > 0
    np.testing.assert_allclose(hits, picture.mean() * points, atol=1e-9)
    within = np.array([share_within(maps, np.repeat(one[None], 3, axis=0)) for one in shifted])
    lit = maps.max(axis=(1, 2)) > 0
    np.testing.assert_allclose(within[:, lit].mean(axis=0), picture.mean(), atol=1e-6)
    assert np.isnan(within[:, ~lit]).all()
