"""Two-stream: networks that learn apart, and both ways to join their scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.systems.two_stream import TwoStream, TwoStreamSettings

CNN_M = 14_208 + 614_656 + 1_180_160 + 2 * 2_359_808
FC = 4096 * (6 * 6 * 512) + 4096 + 2048 * 4096 + 2048


def _network(**changes: Any) -> TwoStream:
    return TwoStream(TwoStreamSettings.tiny(3, **changes)).eval()


def test_the_original_is_cnn_m_2048_twice() -> None:
    with torch.device("meta"):
        network = TwoStream(TwoStreamSettings.original(1000))
    of_rgb, of_flow = (
        sum(p.numel() for name, p in network.named_parameters() if f".{stream}." in name) for stream in network.reads
    )

    # Chatfield's published file of VGG_CNN_M_2048 has these weights in 353 MiB.
    assert of_rgb == CNN_M + FC + 1000 * 2048 + 1000 == 92_469_864
    assert round(4 * of_rgb / 2**20) == 353
    assert of_flow == of_rgb + 17 * 96 * 7 * 7


def test_a_clip_has_the_mean_of_both_streams_and_all_frames() -> None:
    network = _network(flow_weight=2 / 3)
    features: dict[Any, Tensor] = {stream: torch.randn(2, 4, 32, 4, 4) for stream in network.reads}
    rgb, flow = (network.towers[stream](features[stream]).softmax(-1).mean(1) for stream in network.reads)

    torch.testing.assert_close(network.scores(network.classify(features)), (rgb + 2 * flow) / 3)


def test_no_stream_learns_from_the_other() -> None:
    network = _network()
    features: dict[Any, Tensor] = {stream: torch.randn(2, 4, 32, 4, 4) for stream in network.reads}
    alone = {}
    for stream in network.reads:
        logits = network.towers[stream](features[stream])
        loss = F.cross_entropy(logits.flatten(0, 1), torch.tensor([0, 0, 0, 0, 2, 2, 2, 2])) * 2
        alone[stream] = torch.autograd.grad(loss, network.towers[stream].parameters())  # type: ignore[arg-type]
    network.loss(network.classify(features), torch.tensor([0, 2])).backward()  # type: ignore[no-untyped-call]
    for stream, gradients in alone.items():
        for parameter, gradient in zip(network.towers[stream].parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient / 2)


def test_the_svm_learns_what_scikit_learns() -> None:
    """By one-against-rest squared hinge losses; a bias that is scaled up is hardly penalised, as ours is not at all."""
    network, targets = _network(scores="svm", svm_penalty=0.05).double(), torch.arange(60) % 3
    assert network.svm is not None
    towers = torch.randn(60, 2, 3, dtype=torch.float64) + 1.5 * F.one_hot(targets, 3).unsqueeze(1)
    network.towers.update({stream: nn.Flatten(2) for stream in network.reads})
    features: dict[Any, Tensor] = {stream: towers[:, [at], :, None, None] for at, stream in enumerate(network.reads)}
    optimizer = torch.optim.LBFGS(network.svm.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = network.loss(network.classify(features), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    optimizer.step(closure)
    probabilities = towers.softmax(-1)
    values = (probabilities / probabilities.square().sum(-1, keepdim=True).sqrt()).flatten(1).numpy()
    # A clip's 0.05 / 2 |w|^2 beside its hinges is, for 60 clips, |w|^2 / 2 beside C times all hinges.
    theirs = LinearSVC(C=1 / (60 * 0.05), intercept_scaling=100, tol=1e-8, max_iter=1_000_000).fit(values, targets)

    np.testing.assert_allclose(30 * network.svm.weight.detach(), theirs.coef_, atol=2e-3)
    np.testing.assert_allclose(30 * network.svm.bias.detach(), theirs.intercept_, atol=2e-3)


def test_the_networks_do_not_learn_from_the_svm() -> None:
    plain, network = _network(), _network(scores="svm")
    network.load_state_dict(plain.state_dict(), strict=False)
    features: dict[Any, Tensor] = {stream: torch.randn(2, 4, 32, 4, 4) for stream in network.reads}
    for each in (plain, network):
        each.loss(each.classify(features), torch.tensor([0, 2])).backward()  # type: ignore[no-untyped-call]

    for one, other in zip(plain.towers.parameters(), network.towers.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert network.svm is not None
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.svm.parameters())


def test_the_svm_ranks_the_classes() -> None:
    network = _network(scores="svm")
    features: dict[Any, Tensor] = {stream: torch.randn(4, 2, 32, 4, 4) for stream in network.reads}
    logits = network.classify(features)

    assert logits.shape == (4, 2 * 2 + 1, 3)
    assert torch.equal(network.scores(logits).argsort(), logits[:, -1].argsort())
    torch.testing.assert_close(network.log_scores(logits).exp(), network.scores(logits))
    with pytest.raises(SettingsError, match=r"network\.scores"):
        TwoStreamSettings.tiny(5, scores="svm", streams="rgb")
