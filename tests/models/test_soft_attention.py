"""Soft attention against a loop in numpy, torch's LSTM cell, and the penalty as the paper writes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actionfusion.models.systems.soft_attention import (
    AttentionLSTM,
    SoftAttention,
    SoftAttentionSettings,
    uneven_coverage,
)

D, HIDDEN, WIDTH = 6, 7, 5


def network(**changes: Any) -> SoftAttention:
    small = {"image_size": 32, "backbone": (4, "M", D), "batch_norm": False, "hidden": HIDDEN, "attention_width": WIDTH}
    return SoftAttention(SoftAttentionSettings.tiny(5, **{**small, **changes}))


def torchs_cell(tower: AttentionLSTM) -> nn.LSTMCell:
    """torch's cell with the tower's weights; torch's gates are i, f, j, o, and it has two biases."""
    cell, lstm = nn.LSTMCell(D, HIDDEN), tower.lstm
    own = {"weight_ih": lstm.weight_ih, "weight_hh": lstm.weight_hh, "bias_ih": lstm.norm.bias}
    state = {name: values.unflatten(0, (4, HIDDEN))[[0, 2, 1, 3]].flatten(0, 1) for name, values in own.items()}
    cell.load_state_dict({**state, "bias_hh": torch.zeros(4 * HIDDEN)})  # type: ignore[arg-type]
    return cell


@torch.no_grad()
def test_each_step_weighs_the_places_by_the_state_before() -> None:
    model = network().eval()
    tower, maps = model.towers["rgb"], torch.randn(2, 4, D, 3, 3)
    cell, place, state_part = torchs_cell(tower), tower.of_place, tower.of_state
    for clip in range(2):
        mean = maps[clip].mean((0, 2, 3))
        hidden, memory = torch.tanh(tower.start_hidden(mean)), torch.tanh(tower.start_cell(mean))
        for step in range(4):
            places = [maps[clip, step, :, row, column] for row in range(3) for column in range(3)]
            compared = [
                float((tower.compare.weight[0] * torch.tanh(place(each) + state_part(hidden))).sum()) for each in places
            ]
            alpha = np.exp(compared) / np.exp(compared).sum()
            seen = sum((float(a) * each for a, each in zip(alpha, places, strict=True)), torch.zeros(D))
            hidden, memory = cell(seen, (hidden, memory))
            weights = model.attention({"rgb": maps})["attention, rgb"][clip, step]
            np.testing.assert_allclose(weights.flatten(), alpha, rtol=1e-4)
            torch.testing.assert_close(model.classify({"rgb": maps})[clip, step], tower.answer(hidden))


def test_the_penalty_has_the_gradient_of_the_papers() -> None:
    scores = torch.randn(3, 5, 2, 4, dtype=torch.float64, requires_grad=True)

    def gradient_of(penalty: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(penalty, scores)
        return gradient

    def weights() -> Tensor:
        return scores.flatten(2).softmax(-1).reshape(scores.shape)

    papers = (1 - weights().sum(1)).square().sum()
    torch.testing.assert_close(gradient_of(uneven_coverage(weights()).sum()), gradient_of(papers))
    torch.testing.assert_close(uneven_coverage(torch.full((1, 5, 2, 4), 1 / 8)), torch.zeros(1))


def test_training_asks_for_the_penalty_once_after_each_batch() -> None:
    rgb = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    model = network(coverage=2.0).train()
    expected = 2.0 * uneven_coverage(model.attention(model.features({"rgb": rgb}))["attention, rgb"]).sum()
    model(rgb)

    further = model.further_loss()
    assert further is not None
    torch.testing.assert_close(further, expected)
    assert model.further_loss() is None
    model.eval()(rgb)
    assert model.further_loss() is None
    plain = network(coverage=0.0).train()
    plain(rgb)
    assert plain.further_loss() is None


def test_attention_finds_the_place_that_tells_the_classes_apart() -> None:
    """Class 1 has channel 0 on at a place that changes from clip to clip; noise is everywhere."""
    model = network(dropout=0.0)
    tower = model.towers["rgb"]
    optimizer = torch.optim.Adam(tower.parameters(), lr=1e-2)
    maps = targets = places = torch.zeros(0)
    for _ in range(150):
        maps, targets, places = 0.3 * torch.randn(16, 3, D, 4, 4), torch.arange(16) % 2, torch.randint(0, 16, (16,))
        maps.flatten(3)[torch.arange(16), :, 2 * targets, places] += 4
        optimizer.zero_grad()
        model.loss(tower(maps), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = model.eval().attention({"rgb": maps})["attention, rgb"][:, -1].flatten(1).argmax(1)

    assert (found == places).float().mean() > 0.8


def test_the_original_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        model = SoftAttention(SoftAttentionSettings.original(11))
    d = h = a = 512
    start, compare, lstm = 2 * h * (d + 1), a * (d + 1) + a * h + a, 4 * h * (d + h + 1)
    answer = h * (h + 1) + 11 * (h + 1)

    assert sum(parameter.numel() for parameter in model.towers.parameters()) == start + compare + lstm + answer
    assert sum(parameter.numel() for parameter in model.backbones.parameters()) == 14_714_688  # VGG-16 without fc
