"""When and which stream: sums that must come out, and frames and streams that must count for nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actionfusion.explanation.contributions import (
    GATE_QUANTILES,
    frame_drops,
    gate_statistics,
    running_probabilities,
    shares,
    stream_contributions,
)
from actionfusion.explanation.target import AttributionTarget, log_odds


def test_a_frame_that_the_network_takes_no_notice_of_has_no_share(red_corner):
    drops = frame_drops(red_corner((0,)))
    assert drops[0] > 0.1
    # Frame 1 stands beside the red one, which once more in its place would bring more red.
    assert drops[1] < 0
    np.testing.assert_array_equal(drops[2:], 0)


def test_a_clip_that_stands_still_has_no_frame_that_matters(random_target):
    asked = random_target(5)
    clips = {stream: clip[:, :1].repeat(1, 5, 1, 1, 1) for stream, clip in asked.clips.items()}
    still = AttributionTarget(asked.model, clips, 1)
    np.testing.assert_allclose(frame_drops(still), 0, atol=1e-5)
    np.testing.assert_array_equal(shares(np.zeros(5, np.float32)), 0)


def test_leaving_out_agrees_with_frames_replaced_by_hand(random_target):
    asked = random_target(4, streams="rgb", target=2)
    drops = frame_drops(asked)
    with torch.no_grad():
        maps = asked.model.features(asked.clips)["rgb"]
        before = log_odds(asked.model.classify_maps(maps), 2)
        for moment, kept in [(0, [1]), (2, [1, 3]), (3, [2])]:
            after = 0.0
            for place in kept:
                changed = maps.clone()
                changed[:, moment] = maps[:, place]
                after += log_odds(asked.model.classify_maps(changed), 2).item() / len(kept)
            assert drops[moment] == pytest.approx(before.item() - after, abs=1e-5)


def test_a_clip_of_one_frame_is_held_against_empty_maps(red_corner):
    drops = frame_drops(red_corner((0,), frames=1))
    assert drops[0] > 1
    assert shares(drops)[0] == 1


@given(st.lists(st.integers(-500, 500).map(lambda hundredths: hundredths / 100), min_size=1, max_size=8))
def test_shares_keep_sign_and_sum_to_one(drops):
    values = shares(np.array(drops, np.float32))
    total = np.abs(np.array(drops)).sum()
    np.testing.assert_allclose(np.abs(values).sum(), 1 if total else 0, rtol=1e-4)
    assert (np.sign(values) == np.sign(drops)).all()


def test_the_last_running_answer_is_the_answer(random_target):
    asked = random_target(5)
    rows = running_probabilities(asked)
    assert rows.shape == (5, 4)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)
    with torch.no_grad():
        whole = asked.model(**asked.clips).softmax(1)[0].numpy()
        first = asked.model(asked.clips["rgb"][:, :2], asked.clips["flow"][:, :2]).softmax(1)[0].numpy()
    np.testing.assert_allclose(rows[-1], whole, atol=1e-6)
    np.testing.assert_allclose(rows[1], first, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), target=st.integers(0, 3), fusion=st.sampled_from(["conv3d", "max", "concat"]))
def test_shapley_values_are_complete(random_target, seed, target, fusion):
    asked = random_target(2, seed=seed, target=target, fusion=fusion)
    parts = stream_contributions(asked)
    frames, fields = asked.clips["rgb"], asked.clips["flow"]
    colour = frames.mean(dim=(1, 3, 4))[0].view(1, 1, 3, 1, 1).expand_as(frames)
    rest = torch.full_like(fields, 128.0)
    with torch.no_grad():
        value = {
            (rgb, flow): log_odds(asked.model(frames if rgb else colour, fields if flow else rest), target).item()
            for rgb in (False, True)
            for flow in (False, True)
        }
    assert parts.nothing + parts.appearance + parts.motion == pytest.approx(value[True, True], abs=1e-4)
    assert parts.nothing == pytest.approx(value[False, False], abs=1e-4)
    first_alone = value[True, False] - value[False, False]
    after_flow = value[True, True] - value[False, True]
    assert parts.appearance == pytest.approx((first_alone + after_flow) / 2, abs=1e-4)
    assert parts.together == pytest.approx(after_flow - first_alone, abs=2e-4)


def test_a_stream_without_effect_adds_nothing(red_corner):
    parts = stream_contributions(red_corner((0, 1, 2)))
    assert parts.motion == 0
    assert parts.together == 0
    assert parts.appearance > 1


@pytest.mark.parametrize(
    ("streams", "missing", "there"), [("rgb", "motion", "appearance"), ("flow", "appearance", "motion")]
)
def test_one_stream_has_all_of_it_and_says_so(random_target, streams, missing, there):
    parts = stream_contributions(random_target(streams=streams))
    assert parts.streams == streams
    assert getattr(parts, missing) is None
    assert parts.together is None
    assert parts.nothing + getattr(parts, there) == pytest.approx(parts.answer, abs=1e-5)


@pytest.mark.parametrize("norm", ["tf", "gates", "ba", "batch", "none"])
def test_gates_are_those_of_the_equations_and_the_answer_stays(random_target, norm):
    asked = random_target(3, norm=norm)
    with torch.no_grad():
        before = asked.model(**asked.clips)
        found = {gates.name: gates for gates in gate_statistics(asked)}
        after = asked.model(**asked.clips)
    assert torch.equal(before, after)
    assert list(found) == ["conv", "fc", "last"]
    for gates in found.values():
        assert gates.mean.shape == (3, 3)
        assert gates.quantiles.shape == (len(GATE_QUANTILES), 3, 3)
        assert (np.diff(gates.quantiles, axis=0) >= 0).all()
        assert (gates.quantiles > 0).all()
        assert (gates.quantiles < 1).all()


def test_gates_of_a_plain_lstm_agree_with_the_formula(random_target):
    asked = random_target(3, norm="none", branches="conv")
    lstm = asked.model.branch_lstms["conv"]
    with torch.no_grad():
        inputs = asked.model.fuse(asked.features).amax(dim=(-2, -1))
        opened = lstm.gates(inputs)
        weights, bias, hidden = lstm.weight_ih.view(4, 8, -1), lstm.norm.bias.view(4, 8), lstm(inputs)
        recurrent = lstm.weight_hh.view(4, 8, 8)
        for place, gate in enumerate((0, 2, 3)):
            first = torch.sigmoid(inputs[:, 0] @ weights[gate].T + bias[gate])
            later = torch.sigmoid(inputs[:, 2] @ weights[gate].T + hidden[:, 1] @ recurrent[gate].T + bias[gate])
            torch.testing.assert_close(opened[:, 0, place], first, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(opened[:, 2, place], later, atol=1e-5, rtol=1e-5)
    (branch, _) = gate_statistics(asked)
    np.testing.assert_allclose(branch.mean, opened[0].mean(dim=-1).numpy(), atol=1e-6)


def test_a_mean_over_time_has_no_gates(random_target):
    assert gate_statistics(random_target(temporal_head="mean")) == []
