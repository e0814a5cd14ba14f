"""The linear probe against numpy and scikit-learn: what it reads of features, its solution, and what it holds out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from actionfusion.errors import DatasetError, SettingsError
from actionfusion.models.probe import Probe, ProbeHead, ProbeSettings
from actionfusion.models.solving import STRENGTHS, DescribedClips, solve_logistic, split_folds


def clips_of(classes: int, groups: int = 6, each: int = 4, width: int = 7, *, known: bool = True) -> DescribedClips:
    """Overlapping classes; each group has clips of every class, and a shift of its own."""
    random = np.random.default_rng(3)
    centres = random.normal(size=(classes, width))
    rows = [(group, label) for group in range(groups) for label in range(classes) for _ in range(each)]
    shifts = random.normal(size=(groups, width))
    values = [3 + centres[label] + 0.5 * shifts[group] + random.normal(size=width) for group, label in rows]
    return DescribedClips(
        torch.tensor(np.array(values)),
        torch.tensor([label for _, label in rows]),
        tuple(f"{number}.mp4" for number in range(len(rows))),
        tuple(f"g{group}" if known else None for group, _ in rows),
    )


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("changes", [True, False])
def test_the_head_reads_means_and_changes_of_pooled_channels(pooling, frames, changes):
    random = np.random.default_rng(0)
    rgb, flow = random.normal(size=(2, frames, 3, 4, 4)), random.normal(size=(2, frames, 2, 5, 5))
    head = ProbeHead({"flow": 2, "rgb": 3}, 4, pooling, changes=changes).double()
    state = {name: torch.tensor(random.uniform(0.5, 2, tensor.shape)) for name, tensor in head.state_dict().items()}
    head.load_state_dict(state)

    reduce = np.max if pooling == "max" else np.mean
    pooled = np.concatenate([reduce(maps, axis=(3, 4)) for maps in (rgb, flow)], axis=2)
    parts = [pooled.mean(1)]
    if changes:
        steps = [np.abs(pooled[:, step] - pooled[:, step - 1]) for step in range(1, frames)]
        parts.append(np.mean(steps, axis=0) if steps else np.zeros((2, 5)))
    standard = (np.concatenate(parts, axis=1) - state["mean"].numpy()) / state["scale"].numpy()
    expected = standard @ state["linear.weight"].numpy().T + state["linear.bias"].numpy()
    found = head({"rgb": torch.tensor(rgb), "flow": torch.tensor(flow)})
    np.testing.assert_allclose(found.detach(), expected)


def test_the_model_answers_as_its_head_on_its_features():
    torch.manual_seed(0)
    model = Probe(ProbeSettings.tiny(4)).eval()
    clips = {
        "rgb": torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8),
        "flow": torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8),
    }
    torch.testing.assert_close(model.head(model.features(clips)), model(**clips))


@pytest.mark.parametrize("classes", [2, 3])
def test_solving_finds_what_scikit_learn_finds(classes):
    clips = clips_of(classes)
    head = ProbeHead({"rgb": 7}, classes, changes=False)
    report = head.solve(clips)

    values, targets = clips.values.numpy(), clips.targets.numpy()
    known = make_pipeline(StandardScaler(), LogisticRegression(C=report.strength, max_iter=1000, tol=1e-8))
    expected = known.fit(values, targets).predict_proba(values)
    found = head.answer_described(clips.values.float()).softmax(-1).detach()
    np.testing.assert_allclose(found, expected, atol=2e-3)
    again = ProbeHead({"rgb": 7}, classes, changes=False)
    assert again.solve(clips) == report
    assert all(torch.equal(value, head.state_dict()[name]) for name, value in again.state_dict().items())


def test_the_penalty_is_the_one_of_the_likeliest_held_out_clips():
    clips = clips_of(3)
    _, report = solve_logistic(clips, 3)

    values, targets = clips.values.numpy(), clips.targets.numpy()
    folds = split_folds(targets, clips.groups, np.ones(len(targets), bool))
    likelihoods, right = [], []
    for strength in STRENGTHS:
        rows = np.zeros((len(targets), 3))
        for learn, held in folds:
            known = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000, tol=1e-8))
            rows[held] = known.fit(values[learn], targets[learn]).predict_proba(values[held])
        likelihoods.append(np.log(rows[np.arange(len(rows)), targets]).mean())
        right.append(int((rows.argmax(1) == targets).sum()))
    best = int(np.argmax(likelihoods))
    assert (report.strength, report.correct, report.count) == (STRENGTHS[best], right[best], len(targets))
    assert report.by_group
    assert 0.4 < report.correct / report.count < 1


def test_no_group_is_on_both_sides_and_each_video_is_held_out_once():
    clips = clips_of(3, groups=7)
    targets, groups = clips.targets.numpy(), np.array(clips.groups)
    folds = split_folds(targets, clips.groups, np.ones(len(targets), bool))
    assert len(folds) == 5
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(len(targets)))
    for learn, held in folds:
        assert not set(groups[learn]) & set(groups[held])
        assert len(learn) + len(held) == len(targets)


def test_views_of_a_video_stay_together_and_count_once():
    one = clips_of(2, known=False)
    several = DescribedClips(
        torch.cat((one.values, one.values + 0.1)), one.targets.repeat(2), one.videos * 2, one.groups * 2
    )
    _, report = solve_logistic(several, 2)
    assert (report.count, report.by_group) == (len(one.videos), False)

    units = np.array(several.videos)
    first = np.arange(len(units)) < len(one.videos)
    for learn, held in split_folds(several.targets.numpy(), several.videos, first):
        assert not set(units[learn]) & set(units[held])
        assert first[held].all()


def test_too_few_to_hold_any_out_is_said_and_one_class_is_refused():
    clips = clips_of(2, groups=1, each=2)
    _, report = solve_logistic(clips, 2)
    assert (report.count, report.folds) == (0, 0)
    alone = DescribedClips(clips.values[:2], torch.tensor([1, 1]), clips.videos[:2], clips.groups[:2])
    with pytest.raises(DatasetError, match="one class alone"):
        solve_logistic(alone, 2)


def test_a_class_without_a_clip_is_hardly_ever_predicted():
    clips = clips_of(2)
    solution, _ = solve_logistic(DescribedClips(clips.values, 2 * clips.targets, clips.videos, clips.groups), 3)
    assert solution.log_scores(clips.values.numpy())[:, 1].max() < -20


def test_maps_of_two_sizes_are_refused():
    with pytest.raises(SettingsError, match=r"network\.flow_size: 64 px leave a map of another size"):
        ProbeSettings.tiny(2, flow_size=64)
    assert ProbeSettings.tiny(2, streams="flow", flow_size=64).flow_size == 64
