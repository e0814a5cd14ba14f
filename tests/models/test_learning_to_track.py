"""Proposals, tracks and motion histograms have known answers; learning to track finds what moves, and names it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actionfusion.errors import SettingsError
from actionfusion.models.solving import DescribedClips
from actionfusion.models.systems.learning_to_track import LearningToTrack, LearningToTrackSettings
from actionfusion.models.systems.tracks import STMH_WIDTH, boxes_of, link, motion_histogram, overlaps, proposals


def flow_in(box, motion=(2.0, 0.0), size=60):
    flow = np.zeros((size, size, 2), np.float32)
    left, top, right, bottom = box
    flow[top:bottom, left:right] = motion
    return flow


def test_overlap_is_intersection_over_union():
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [4, 4, 8, 8]])
    np.testing.assert_allclose(overlaps(boxes[0], boxes), [1, 8 / 24, 0])


@pytest.mark.parametrize("box", [(5, 10, 35, 40), (20, 8, 38, 55)])
def test_the_best_proposal_is_around_what_moves(box):
    found = proposals(flow_in(box), 4)
    assert overlaps(np.array(box), found)[0] > 0.5
    assert overlaps(np.array(box), found).argmax() == 0
    for place, each in enumerate(found[1:], 1):
        assert overlaps(each, found[:place]).max() <= 0.5


def test_tracks_follow_overlap_and_likeness():
    """Two boxes cross; the look of each tells them apart.  A third picture has lost one of them."""
    looks = np.eye(2, dtype=np.float32)
    boxes = [np.array([[0, 0, 10, 10], [7, 0, 17, 10]]), np.array([[2, 0, 12, 10], [4, 0, 14, 10]])]
    boxes.append(np.array([[40, 40, 50, 50], [9, 0, 19, 10]]))
    first, second = link(boxes, [looks, looks[::-1], looks[::-1]], 5)
    assert first.tolist() == [0, 1, 1]
    assert second.tolist() == [1, 0, -1]
    assert boxes_of(second, boxes).tolist() == [[7, 0, 17, 10], [2, 0, 12, 10], [2, 0, 12, 10]]
    assert len(link(boxes, [looks, looks[::-1], looks[::-1]], 1)) == 1


def test_a_track_is_not_begun_within_another():
    boxes = [np.array([[0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40]])] * 2
    assert [track[0] for track in link(boxes, [np.eye(3, dtype=np.float32)] * 2, 5)] == [0, 2]


def test_the_motion_histogram_has_the_motion_where_and_when_it_is():
    """Right in the upper left quarter of the box, and only in the last third of the track."""
    still, moving = flow_in((0, 0, 0, 0)), flow_in((10, 10, 20, 20))
    grey = np.full((9, 60, 60), 9, np.uint8)
    found = motion_histogram(grey, [still] * 6 + [moving] * 3, np.array([[10, 10, 30, 30]] * 9))
    assert found.shape == (STMH_WIDTH,)
    assert not found[: 8 * 48].any()  # no gradient
    hof = found[8 * 48 :].reshape(3, 4, 4, 9)
    assert set(zip(*np.nonzero(hof[..., 0]), strict=True)) == {
        (2, down, across) for down in (0, 1) for across in (0, 1)
    }
    assert not hof[..., 1:8].any()
    assert hof[:2, ..., 8].all()  # all the rest stands still


@torch.no_grad()
def test_motions_are_learned_from_training_clips_alone(motions) -> None:
    torch.manual_seed(0)
    model = LearningToTrack(LearningToTrackSettings.tiny(3, image_size=48, frames=8)).eval()
    rgb, targets = motions(range(8))
    names = tuple(map(str, range(24)))
    clips = DescribedClips(model.describe(model.features({"rgb": rgb})), targets, names, (None,) * 24)
    report = model.solve(clips)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    unseen, right = motions(range(8, 12))
    assert (model(rgb=unseen).argmax(1) == right).float().mean() >= 0.75
    assert report.count == 24  # each clip once, not each track
    model.solve(clips)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@torch.no_grad()
def test_the_score_of_a_clip_is_that_of_its_best_window() -> None:
    model = LearningToTrack(LearningToTrackSettings.tiny(3)).eval()
    windows = torch.rand(1, 8, model.machine.in_features)
    windows[:, 5:] = 0  # no more tracks
    best = model.machine(windows[0, :5]).max(0).values
    torch.testing.assert_close(model.answer_described(windows.flatten(1))[0], best)
    nothing = torch.zeros(1, model.described_width)
    torch.testing.assert_close(model.answer_described(nothing)[0], model.machine.bias)


def test_windows_are_the_whole_and_its_halves() -> None:
    assert LearningToTrackSettings(frames=17).windows == ((0, 16), (0, 8), (4, 12), (8, 16))


def test_regions_too_small_for_the_backbone_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"network\.region: 8 px leave no map"):
        LearningToTrackSettings(region=8, backbone="vgg16")
