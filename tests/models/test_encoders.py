"""Encoders of local descriptors and the machines after them, beside independent computations."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import additive_chi2_kernel
from sklearn.svm import SVC

from actionfusion.errors import DatasetError
from actionfusion.models.solving import DescribedClips
from actionfusion.models.systems.encoders import BagOfWords, ChannelEncoder, FisherVectors
from actionfusion.models.systems.machines import ChiSquareMachine, LinearMachine, distances


def clips_of(targets, groups=None):
    names = tuple(f"clip {number}" for number in range(len(targets)))
    return DescribedClips(torch.empty(0), torch.tensor(targets), names, groups or (None,) * len(targets))


def blobs(seed=0, count=200):
    """Descriptors about three places, ``[count, 4]``."""
    generator = np.random.default_rng(seed)
    places = np.array([[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 4]])
    rows = places[generator.integers(0, 3, count)] + 0.3 * generator.normal(size=(count, 4))
    return torch.from_numpy(rows.astype(np.float32))


def test_words_are_the_places_and_histograms_count_them():
    bag = BagOfWords(4, 3)
    bag.solve(blobs())
    found = bag.words[bag.words.argmax(1).argsort()]
    torch.testing.assert_close(
        found, torch.tensor([[4.0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 4]])[[0, 1, 2]], atol=0.2, rtol=0
    )
    clip = torch.stack((bag.words[0], bag.words[2], bag.words[2], bag.words[1], torch.zeros(4)))
    there = clip.any(-1, keepdim=True).float()
    torch.testing.assert_close(bag(clip[None], there[None]), torch.tensor([[0.25, 0.25, 0.5]]))
    assert not bag(clip[None], torch.zeros(1, 5, 1)).any()


def test_fisher_vectors_are_gradients_of_the_likelihood():
    """Perronnin et al.: gradients by means and deviations, scaled by the root of the inverse Fisher information."""
    fisher = FisherVectors(4, 3).double()
    fisher.solve(blobs().double())
    clip = blobs(seed=5, count=30).double()
    reduced = (clip - fisher.mean) @ fisher.axes.T
    shares = fisher.log_shares.softmax(0).detach()
    centers = fisher.centers.clone().requires_grad_()
    deviations = (fisher.log_variances / 2).exp().requires_grad_()
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(shares),
        torch.distributions.Independent(torch.distributions.Normal(centers, deviations), 1),
    )
    mixture.log_prob(reduced).mean().backward()
    by_mean = centers.grad * deviations / shares[:, None].sqrt()
    by_deviation = deviations.grad * deviations / (2 * shares[:, None]).sqrt()
    expected = torch.cat((by_mean, by_deviation)).flatten().detach()
    expected = expected.sign() * expected.abs().sqrt()
    found = fisher(clip[None], torch.ones(1, 30, 1).double())[0]
    torch.testing.assert_close(found, expected / expected.norm())
    assert found.shape == (fisher.width,) == (2 * 3 * 2,)


def test_rows_of_zeros_are_no_descriptors():
    torch.manual_seed(0)
    for make in (partial(BagOfWords, words=5), partial(FisherVectors, gaussians=3)):
        encoder = ChannelEncoder({"one": 3, "other": 1}, make).double()
        clip = blobs(count=20).double()
        clip[4, 3] = 0  # a channel may be
        padded = torch.cat((clip[:9], torch.zeros(7, 4).double(), clip[9:]))
        torch.testing.assert_close(encoder(padded[None]), encoder(clip[None]))
        encoder.solve(padded[None], 100)
        torch.testing.assert_close(encoder(padded[None]), encoder(clip[None]))
        assert not encoder(torch.zeros(2, 6, 4).double()).any()
        assert encoder(clip[None]).shape == (1, encoder.width)


def test_a_vocabulary_of_too_few_descriptors_is_refused():
    encoder = ChannelEncoder({"all": 4}, partial(BagOfWords, words=9))
    with pytest.raises(DatasetError, match="gives 8 local descriptors, and 9 words are to be found"):
        encoder.solve(blobs(count=8)[None], 100)


def test_the_chi_square_distance_is_that_of_scikit_learn():
    first, second = torch.rand(4, 2, 6), torch.rand(5, 2, 6)
    for channel in range(2):
        expected = -additive_chi2_kernel(first[:, channel].numpy(), second[:, channel].numpy()) / 2
        np.testing.assert_allclose(distances(first, second)[..., channel], expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "chi-square"])
def test_a_machine_is_the_support_vector_machine_of_its_kernel(kind):
    torch.manual_seed(1)
    targets = [number % 3 for number in range(18)]
    values = torch.rand(18, 2, 5) + 2 * torch.nn.functional.one_hot(torch.tensor(targets), 5)[:, None]
    values = values / values.sum(-1, keepdim=True)
    clips = clips_of(targets)
    if kind == "linear":
        machine, given = LinearMachine(10, 4), values.flatten(1)
        report = machine.solve(given, clips)
        gram = (given @ given.T).double().numpy()
    else:
        machine, given = ChiSquareMachine(2, 5, 4), values
        report = machine.solve(given, clips)
        apart = distances(values, values)
        gram = (-(apart / apart.mean((0, 1))).sum(-1)).exp().double().numpy()
    logits = machine(given).detach().numpy()
    for label in range(3):
        alone = SVC(C=report.strength, kernel="precomputed", tol=1e-6).fit(gram, np.array(targets) == label)
        margins = alone.decision_function(gram)
        factor = logits[:, label] / margins
        np.testing.assert_allclose(factor, factor[0], rtol=2e-2)
    assert logits.argmax(1).tolist() == targets
    assert (report.correct, report.count, report.folds) == (18, 18, 5)
    assert logits[:, 3].max() < -20  # a class without clips is never the answer


def test_the_factor_makes_probabilities_that_suit_how_often_it_is_right():
    """The margins of classes that cannot be told apart are not trusted."""
    torch.manual_seed(2)
    targets = [number % 2 for number in range(40)]
    machine = LinearMachine(30, 2)
    report = machine.solve(torch.randn(40, 30), clips_of(targets))
    unseen = machine(torch.randn(200, 30)).softmax(1).max(1).values.mean()
    assert report.correct / report.count < 0.7
    assert unseen < 0.8


def test_groups_are_held_out_whole():
    """Each group looks like itself alone, so that a machine which has not seen it knows nothing."""
    torch.manual_seed(3)
    targets, groups = (
        [group % 2 for group in range(6) for _ in range(4)],
        tuple(f"g{group}" for group in range(6) for _ in range(4)),
    )
    values = torch.eye(6).repeat_interleave(4, 0) + 0.01 * torch.randn(24, 6)
    known = LinearMachine(6, 2).solve(values, clips_of(targets, groups))
    unknown = LinearMachine(6, 2).solve(values, clips_of(targets))
    assert known.by_group
    assert known.correct < 18
    assert not unknown.by_group
    assert unknown.correct == 24
