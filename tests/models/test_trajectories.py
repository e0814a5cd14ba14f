"""Trajectories and their descriptors have known answers where the motion is known."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from actionfusion.errors import SettingsError
from actionfusion.models.systems.motion import camera_motions, farneback, find_homography, homography_flow
from actionfusion.models.systems.trajectories import (
    TrajectorySettings,
    describe_trajectories,
    follow,
    histogram_maps,
    normalized,
    orientation_map,
)

SIZE, FRAMES = 64, 20


def texture(height, width, seed=0, cell=4):
    small = np.random.default_rng(seed).integers(0, 256, (height // cell + 1, width // cell + 1), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def bar_moving(x, y, start=8):
    """A textured bar, 16 px wide and high, on grey, that moves by x and y pixels a frame."""
    clip, bar = np.full((FRAMES, SIZE, SIZE), 128, np.uint8), texture(16, 16)
    for time in range(FRAMES):
        left, top = start + round(x * time), start + round(y * time)
        clip[time, top : top + 16, left : left + 16] = bar
    return clip


def settings(**changes):
    return TrajectorySettings(**{"frames": FRAMES, "image_size": SIZE, "patch": 16, "scales": 1, **changes})


def parts_of(described, given):
    edges = np.cumsum(list(given.channels.values()))[:-1]
    return dict(zip(given.channels, np.split(described, edges, 1), strict=True))


@pytest.mark.parametrize(("x", "y", "turn"), [(2, 0, 0), (0, 2, 2), (2, 2, 1)])
def test_trajectories_follow_a_moving_bar_and_hof_has_its_direction(x, y, turn):
    given = settings()
    parts = parts_of(describe_trajectories(bar_moving(x, y), given), given)
    # Each step of a trajectory is its share of the whole length.
    steps = np.median(parts["trajectory"].reshape(-1, given.length, 2), 0)
    np.testing.assert_allclose(steps, np.tile(np.array([x, y]) / np.hypot(x, y) / given.length, (15, 1)), atol=0.012)
    hof = parts["hof"].reshape(-1, 12, 9).sum((0, 1))
    assert hof[:8].argmax() == turn
    assert hof[turn] > 0.7 * hof[:8].sum()


def test_points_are_where_the_bar_is_and_stay_with_it():
    clip = bar_moving(2, 0)
    flows = [farneback(*pair) for pair in pairwise(clip)]
    tracks = follow(clip, flows, flows, 5, 15)
    on_bar = np.abs(tracks.points[:, 0] - (16 + 2 * tracks.starts[:, None] * [1, 0])).max(1) < 6
    assert on_bar.sum() >= 4
    moved = tracks.points[on_bar, -1] - tracks.points[on_bar, 0]
    np.testing.assert_allclose(np.median(moved, 0), (30, 0), atol=1.5)
    np.testing.assert_allclose(tracks.points[:, 1:] - tracks.points[:, :-1], tracks.steps, atol=1e-4)
    assert ((tracks.points >= -0.5) & (tracks.points <= SIZE - 0.5)).all()


def test_what_stands_still_has_no_trajectories():
    still = np.repeat(texture(SIZE, SIZE)[None], FRAMES, 0)
    assert describe_trajectories(still, settings()).shape == (0, 426)


def test_at_most_so_many_are_kept_and_the_same_each_time():
    clip = np.stack([texture(SIZE + 40, SIZE + 40)[time : time + SIZE, time : time + SIZE] for time in range(FRAMES)])
    every, few = (describe_trajectories(clip, settings(samples=most, scales=2)) for most in (5000, 20))
    assert len(every) > 60
    assert len(few) == 20
    assert all((every == row).all(1).any() for row in few)
    assert (every == describe_trajectories(clip, settings(samples=5000, scales=2))).all()
    assert every.any(1).all()


def test_a_field_turned_by_a_quarter_moves_the_bins_by_a_quarter():
    picture = texture(32, 32)
    flow = np.random.default_rng(1).normal(size=(32, 32, 2)).astype(np.float32)
    turned = np.stack((-flow[..., 1], flow[..., 0]), -1)
    first, second = (histogram_maps(picture, field, 0.4) for field in (flow, turned))
    np.testing.assert_allclose(second[1][..., :8], np.roll(first[1][..., :8], 2, -1), atol=1e-5)
    assert (second[1][..., 8] == first[1][..., 8]).all()
    np.testing.assert_allclose(second[3], first[2], atol=1e-6)  # v is now what u was


def test_hog_has_the_direction_of_a_ramp_and_turns_with_it():
    ramp = np.tile(np.arange(0, 128, 4, dtype=np.uint8), (32, 1))
    zero = np.zeros((32, 32, 2), np.float32)
    for turns, picture in enumerate((ramp, ramp.T, ramp[:, ::-1], ramp.T[::-1])):
        hog = histogram_maps(np.ascontiguousarray(picture), zero, 0.4)[0].sum((0, 1))
        assert hog.argmax() == 2 * turns
        assert hog.max() == hog.sum()


def test_mbh_of_a_constant_flow_is_zero_and_hof_is_not():
    flow = np.full((32, 32, 2), (3, -1), np.float32)
    _, hof, u, v = histogram_maps(texture(32, 32), flow, 0.4)
    assert not u.any()
    assert not v.any()
    assert hof.sum() == pytest.approx(32 * 32 * 10**0.5, rel=1e-5)
    shear = np.stack(np.broadcast_arrays(np.arange(32.0)[:, None], np.zeros((32, 32))), -1).astype(np.float32)
    _, _, u, v = histogram_maps(texture(32, 32), shear, 0.4)
    assert u.sum((0, 1)).argmax() == 2  # u grows downwards
    assert not v.any()


def test_pixels_at_rest_vote_for_the_last_bin():
    flow = np.zeros((8, 8, 2), np.float32)
    flow[:, :4] = (1, 0)
    hof = histogram_maps(np.zeros((8, 8), np.uint8), flow, 0.4)[1].sum((0, 1))
    assert hof.tolist() == [32, 0, 0, 0, 0, 0, 0, 0, 32]


def test_a_vector_between_two_bins_is_divided_and_keeps_its_length():
    angle = 2 * np.pi * (7 + 0.25) / 8
    votes = orientation_map(np.array([3 * np.cos(angle)]), np.array([3 * np.sin(angle)]))[0]
    np.testing.assert_allclose(votes, [0.75, 0, 0, 0, 0, 0, 0, 2.25], atol=1e-6)


def test_histograms_are_of_length_one_or_roots_of_shares():
    rows = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(normalized(rows, root=False), [[0.6, 0.8], [0, 0]])
    np.testing.assert_allclose(normalized(rows, root=True) ** 2, [[3 / 7, 4 / 7], [0, 0]], rtol=1e-6)


def test_the_cells_of_a_tube_are_sums_over_its_quarters_and_thirds():
    given, clip = settings(), bar_moving(2, 1)
    described = parts_of(describe_trajectories(clip, given), given)
    flows = [farneback(*pair) for pair in pairwise(clip)]
    tracks = follow(clip, flows, flows, given.grid, given.length)
    shapes = (tracks.steps / np.linalg.norm(tracks.steps, axis=2).sum(1)[:, None, None].clip(1e-6)).reshape(-1, 30)
    maps = [histogram_maps(clip[time], flow, 0.4 * SIZE / 240) for time, flow in enumerate(flows)]
    for row in (0, len(described["hog"]) - 1):
        (track,) = np.nonzero(np.abs(shapes - described["trajectory"][row]).max(1) < 1e-6)[0][:1]
        tubes = [np.zeros((3, 2, 2, each.shape[-1])) for each in maps[0]]
        for age in range(15):
            x, y = (min(max(round(float(at)) - 8, 0), SIZE - 16) for at in tracks.points[track, age])
            for tube, votes in zip(tubes, maps[tracks.starts[track] + age], strict=True):
                for down, right in np.ndindex(2, 2):
                    cell = votes[y + 8 * down : y + 8 * down + 8, x + 8 * right : x + 8 * right + 8]
                    tube[age // 5, down, right] += cell.sum((0, 1))
        hog, hof, *mbh = (tube.ravel() / np.linalg.norm(tube) for tube in tubes)
        np.testing.assert_allclose(described["hog"][row], hog, atol=1e-4)
        np.testing.assert_allclose(described["hof"][row], hof, atol=1e-4)
        np.testing.assert_allclose(described["mbh"][row], np.concatenate(mbh), atol=1e-4)


def test_a_homography_gives_the_flow_of_its_camera():
    zoom = np.array([[1.1, 0, 2], [0, 1.1, -3], [0, 0, 1.0]])
    flow = homography_flow(zoom, 20, 30)
    np.testing.assert_allclose(flow[10, 20], (0.1 * 20 + 2, 0.1 * 10 - 3), rtol=1e-5)
    np.testing.assert_allclose(homography_flow(zoom, 10, 15, 2.0)[5, 10], flow[10, 20] / 2, rtol=1e-5)
    before = np.random.default_rng(0).uniform(0, 100, (60, 2)).astype(np.float32)
    after = before * 1.1 + np.array([2, -3], np.float32)
    after[:15] = after[:15][::-1]  # what moves by itself
    np.testing.assert_allclose(find_homography(before, after), zoom, atol=1e-3)
    assert (find_homography(before[:9], after[:9]) == np.eye(3)).all()


def panning(clip):
    """The bar's clip before a textured ground, seen by a camera that moves right by 2 pixels a frame."""
    ground, seen = texture(SIZE, SIZE + 2 * FRAMES, seed=3, cell=6), []
    for time, picture in enumerate(clip):
        view = ground[:, 2 * time : 2 * time + SIZE].copy()
        view[picture != 128] = picture[picture != 128]
        seen.append(view)
    return np.stack(seen)


def test_improved_trajectories_leave_the_cameras_motion_out():
    pan = panning(np.full((FRAMES, SIZE, SIZE), 128, np.uint8))
    flows = [farneback(*pair) for pair in pairwise(pan)]
    for motion in camera_motions(pan, flows):
        np.testing.assert_allclose(homography_flow(motion, SIZE, SIZE).mean((0, 1)), (-2, 0), atol=0.1)
    plain, improved = (describe_trajectories(pan, settings(improved=which)) for which in (False, True))
    assert len(plain) > 80
    assert len(improved) < 0.05 * len(plain)


def test_improved_trajectories_keep_what_moves_by_itself():
    given = settings(improved=True)
    parts = parts_of(describe_trajectories(panning(bar_moving(0, 2)), given), given)
    steps = parts["trajectory"].reshape(-1, given.length, 2).sum(1)
    assert len(steps) >= 4
    # Seen on the ground it goes right and down.
    assert np.median(steps, 0) == pytest.approx([2**-0.5, 2**-0.5], abs=0.12)


def test_scales_end_where_a_patch_no_longer_fits():
    clip = np.stack([texture(SIZE + 40, SIZE + 40)[time : time + SIZE, time : time + SIZE] for time in range(FRAMES)])
    counts = [len(describe_trajectories(clip, settings(scales=most, samples=9999))) for most in (1, 4, 5, 8)]
    assert counts[0] < counts[1] < counts[2] == counts[3]  # 64, 45, 32, 23 and 16 px


@pytest.mark.parametrize(
    ("changes", "setting"),
    [({"length": 16}, "length"), ({"length": 21}, "length"), ({"patch": 15}, "patch"), ({"patch": 66}, "patch")],
)
def test_settings_that_do_not_go_together_are_refused(changes, setting):
    with pytest.raises(SettingsError) as error:
        settings(**changes)
    assert error.value.subject == f"network.{setting}"
