"""AdaScan's scan against a loop in numpy, and what its weights and its further loss promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from actionfusion.models.systems.adascan import AdaptiveScan, AdaScan, AdaScanSettings

WIDTH = 6


def network(**changes: Any) -> AdaScan:
    small = {"image_size": 32, "backbone": (4, "M", WIDTH), "batch_norm": False, "wide": 8, "narrow": 4}
    return AdaScan(AdaScanSettings.tiny(5, **{**small, **changes}))


def scanned(scan: AdaptiveScan, frames: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], list[float]]:
    """One clip ``[T, F]``, as the paper's equations are written."""
    layers = [(layer.weight.numpy(), layer.bias.numpy()) for layer in scan.weigh if isinstance(layer, torch.nn.Linear)]
    psi, total, weights = frames[0], 0.0, []
    for frame in frames:
        values = frame - psi
        for weight, bias in layers[:-1]:
            values = np.tanh(weight @ values + bias)
        gamma = 1 / (1 + np.exp(-(layers[-1][0] @ values + layers[-1][1]).item()))
        psi = (total * psi + gamma * frame) / (total + gamma)
        total += gamma
        weights.append(gamma)
    return psi, weights


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_the_scan_is_the_papers(frames: int) -> None:
    model = network().double().eval()
    scan, percepts = model.towers["rgb"], torch.randn(3, frames, WIDTH, dtype=torch.float64)
    pooled, weights = scan.scan(percepts)
    for clip in range(3):
        psi, gammas = scanned(scan, percepts[clip].numpy())
        np.testing.assert_allclose(pooled[clip], psi)
        np.testing.assert_allclose(weights[clip], gammas)
        # So the pooled vector is the weighted mean of the frames.
        np.testing.assert_allclose(psi, np.average(percepts[clip].numpy(), axis=0, weights=gammas))
        expected = scan.answer.weight.numpy() @ (psi / np.linalg.norm(psi)) + scan.answer.bias.numpy()
        np.testing.assert_allclose(scan(percepts)[clip, 0], expected)


@torch.no_grad()
def test_a_clip_whose_weights_vanish_is_answered_with_numbers() -> None:
    scan = network().towers["rgb"]
    scan.weigh[-1].bias.fill_(-1e4)
    pooled, weights = scan.scan(torch.randn(2, 5, WIDTH))

    assert pooled.isfinite().all()
    torch.testing.assert_close(weights / weights.sum(1, keepdim=True), torch.full((2, 5), 0.2))


def test_the_further_loss_is_the_entropy_of_both_streams_weights() -> None:
    model = network(peak=3.0).train()
    clips = {
        "rgb": torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8),
        "flow": torch.randint(0, 256, (2, 4, 8, 32, 32), dtype=torch.uint8),
    }
    percepts = {stream: model.read(stream, maps) for stream, maps in model.features(clips).items()}  # type: ignore[arg-type]
    entropies = []
    for stream, each in percepts.items():
        shares = model.towers[stream].scan(each)[1].softmax(1).detach().numpy()
        entropies.append(-(shares * np.log(shares)).sum())
    model(**clips)

    further = model.further_loss()
    assert further is not None
    assert further.item() == pytest.approx(3.0 * np.mean(entropies), rel=1e-5)
    assert model.further_loss() is None


def test_the_original_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        model = AdaScan(AdaScanSettings.original())
    tower = 2048 * 4097 + 512 * 2049 + 513 + 101 * 4097
    fc6 = 4096 * (512 * 7 * 7 + 1)
    flows_first = 64 * 9 * (20 - 3)  # more input channels than pictures have

    assert sum(parameter.numel() for parameter in model.parameters()) == (2 * (14_714_688 + fc6 + tower) + flows_first)
    assert {"percepts.rgb.fc6.weight", "percepts.flow.fc6.bias"} <= model.pretrained_parameters()
