"""Dense trajectories learn motions, and from training clips alone."""

from __future__ import annotations

import pytest
import torch

from actionfusion.models.solving import DescribedClips
from actionfusion.models.systems.dense_trajectories import DenseTrajectories, DenseTrajectoriesSettings

FORMS = [{"encoding": "bow"}, {"encoding": "fisher"}, {"encoding": "fisher", "improved": True}]


def make(**changes) -> DenseTrajectories:
    torch.manual_seed(0)
    values = {"image_size": 48, "frames": 8, "words": 20, "gaussians": 2, "scales": 3, "samples": 200, **changes}
    return DenseTrajectories(DenseTrajectoriesSettings.tiny(3, **values)).eval()


def described(model: DenseTrajectories, rgb: torch.Tensor, targets: torch.Tensor) -> DescribedClips:
    names = tuple(f"clip {number}" for number in range(len(rgb)))
    return DescribedClips(model.describe(model.features({"rgb": rgb})), targets, names, (None,) * len(rgb))


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_directions_of_motion_are_learned(form, motions) -> None:
    model, (rgb, targets) = make(**form), motions(range(6))
    report = model.solve(described(model, rgb, targets))
    unseen, right = motions(range(6, 10))
    assert (model(rgb=unseen).argmax(1) == right).float().mean() >= 0.9
    assert (report.count, report.folds) == (18, 5)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_answers_to_other_clips_change_no_weight_and_the_same_clips_give_the_same(form, motions) -> None:
    """Vocabulary, axes and machine are of the clips that `solve` is given, in whatever state the model was."""
    first, second, (rgb, targets) = make(**form), make(**form), motions(range(3))
    first.solve(described(first, rgb, targets))
    tested, _ = motions(range(4, 5))
    before = {name: value.clone() for name, value in first.state_dict().items()}
    answers = first(rgb=tested)
    assert all(torch.equal(before[name], value) for name, value in first.state_dict().items())
    torch.manual_seed(5)
    second(rgb=tested)
    second.solve(described(second, *motions(range(4, 7))))  # other clips before
    second.solve(described(second, rgb, targets))
    assert all(torch.equal(before[name], value) for name, value in second.state_dict().items())
    assert torch.equal(second(rgb=tested), answers)


@torch.no_grad()
def test_a_clip_without_motion_has_no_descriptors_and_an_answer(motions) -> None:
    for form in FORMS:
        model = make(**form)
        still = motions([1])[0][:1, :1].expand(-1, 8, -1, -1, -1)
        assert not model.describe(model.features({"rgb": still})).any()
        assert model(rgb=still).isfinite().all()


def test_sizes_are_those_of_the_papers() -> None:
    with torch.device("meta"):
        words = DenseTrajectories()
        fisher = DenseTrajectories(DenseTrajectoriesSettings(encoding="fisher", improved=True))
    assert words.described_width == 1000 * (30 + 96 + 108 + 192)
    assert words.encoder.width == 4 * 4000
    assert fisher.encoder.width == 2 * 256 * (30 + 96 + 108 + 192) // 2
