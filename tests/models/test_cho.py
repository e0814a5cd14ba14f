"""Group sparsity finds what it must, and the system of Cho et al. learns motions by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actionfusion.models.solving import DescribedClips, SolveReport
from actionfusion.models.systems import cho
from actionfusion.models.systems.cho import Cho, ChoSettings, alignments, local_motion
from actionfusion.models.systems.group_sparsity import group_codes, group_residuals


def test_codes_of_an_orthonormal_dictionary_are_shrunk_by_groups():
    groups, products = torch.tensor([0, 0, 1, 1]), torch.tensor([[3.0, 0.1], [4.0, 0.1], [0.3, 2.0], [0.4, 0.0]])
    codes = group_codes(torch.eye(4), products, groups, 2, 1 / 2**0.5)  # a penalty of 1 for each group
    torch.testing.assert_close(codes[:, 0], torch.tensor([3.0, 4.0, 0, 0]) * 0.8)
    torch.testing.assert_close(codes[:, 1], torch.tensor([0, 0, 1.0, 0]))


def test_codes_of_any_dictionary_are_optimal():
    torch.manual_seed(0)
    columns = torch.randn(8, 12).double()
    gram, groups = columns.T @ columns, torch.arange(12) // 3
    products, strength = columns.T @ torch.randn(8, 1).double(), 1.0
    codes = group_codes(gram, products, groups, 4, strength)
    rest, penalty = products - gram @ codes, strength * 3**0.5
    for group in range(4):
        own = codes[groups == group, 0]
        pull = rest[groups == group, 0]
        if own.any():
            torch.testing.assert_close(pull, penalty * own / own.norm(), atol=0.05, rtol=0)
        else:
            assert pull.norm() <= penalty + 1e-6
    assert 0 < sum(bool(codes[groups == group].any()) for group in range(4)) < 4


def test_the_residual_of_a_group_is_what_it_alone_leaves():
    columns = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 1], [0, 1, 1]]), dim=0)
    thing, groups, codes = torch.tensor([0.6, 0.8]), torch.tensor([0, 0, 1]), torch.tensor([[0.6], [0.8], [0.5]])
    found = group_residuals(columns.T @ columns, columns.T @ thing[:, None], groups, codes, 3)
    rest = thing - 0.5 * columns[:, 2]
    torch.testing.assert_close(found, torch.tensor([[0.0, float(rest @ rest), 1.0]]), atol=1e-6, rtol=0)


def test_local_motion_is_what_most_trajectories_do():
    generator = np.random.default_rng(0)
    rows = 0.05 * generator.normal(size=(60, 12))
    main = np.arange(60) % 4 > 0  # three of four are alike
    rows[main, 0] += 1
    rows[~main, 1:] += generator.normal(size=(15, 11))
    found = local_motion(rows.astype(np.float32), 4, 0.5)
    assert found[main].all()
    assert found[~main].mean() < 0.5
    assert local_motion(np.zeros((0, 12), np.float32), 4, 0.5).shape == (0,)
    assert local_motion(rows.astype(np.float32), 4, 0.0).mean() > 0.9


def test_a_kernel_that_knows_the_classes_has_the_weight():
    torch.manual_seed(1)
    labels = torch.arange(3.0).repeat(6)
    knowing = (labels[:, None] == labels).float()
    noise = torch.randn(18, 9)
    guessing = (-torch.cdist(noise, noise)).exp()
    weights = alignments(torch.stack((knowing, guessing, torch.ones(18, 18)), -1), labels)
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > 0.85
    torch.testing.assert_close(alignments(torch.ones(18, 18, 2), labels), torch.tensor([0.5, 0.5]))


@torch.no_grad()
def test_directions_of_motion_are_learned_from_training_clips_alone(motions) -> None:
    torch.manual_seed(0)
    model = Cho(ChoSettings.tiny(3, image_size=48, samples=200, words=20)).eval()
    rgb, targets = motions(range(6))
    names = tuple(map(str, range(18)))
    clips = DescribedClips(model.describe(model.features({"rgb": rgb})), targets, names, (None,) * 18)
    report = model.solve(clips)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    unseen, right = motions(range(6, 9))
    assert (model(rgb=unseen).argmax(1) == right).all()
    assert (report.correct, report.count) == (18, 18)
    answers = model(rgb=unseen)
    model.solve(clips)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model(rgb=unseen), answers)
    torch.testing.assert_close(model.double()(rgb=unseen), answers.double(), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_what_is_held_out_has_no_part_in_its_answer(monkeypatch) -> None:
    learn, held = np.arange(12), np.arange(12, 18)
    settings = ChoSettings.tiny(3, samples=4, words=6)

    def margins(targets):
        found = []

        def keep(_, margins_of, *__):
            found.append(margins_of(learn, held, 10.0))
            return 1.0, SolveReport(10.0, 0, 18, 2, "video")

        monkeypatch.setattr(cho, "choose", keep)
        torch.manual_seed(0)
        model = Cho(settings)
        values = torch.rand(18, model.described_width).half()
        model.solve(DescribedClips(values, targets, tuple(map(str, range(18))), (None,) * 18))
        return found[0]

    targets = torch.arange(18) % 3
    others = targets.clone()
    others[12:] = (others[12:] + 1) % 3
    assert np.array_equal(margins(targets), margins(others))
