"""The composite LSTM against torch's LSTM, and its first stage on sequences that can be foretold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.models.layer_norm_lstm import LayerNormLSTM
from actionfusion.models.systems.composite_lstm import CompositeLSTM, CompositeLSTMSettings, CompositeTower

WIDTH, HIDDEN = 6, 5


def network(**changes: Any) -> CompositeLSTM:
    small = {"image_size": 32, "backbone": (4, "M", WIDTH), "batch_norm": False, "hidden": HIDDEN, "streams": "rgb"}
    return CompositeLSTM(CompositeLSTMSettings.tiny(4, **{**small, **changes}))


def torchs(own: LayerNormLSTM) -> nn.LSTM:
    """torch's LSTM with these weights; torch's gates are i, f, j, o, and it has two biases."""
    order, plain = [0, 2, 1, 3], nn.LSTM(own.input_size, own.hidden_size, batch_first=True)
    values = {"weight_ih_l0": own.weight_ih, "weight_hh_l0": own.weight_hh, "bias_ih_l0": own.norm.bias}
    state = {name: value.unflatten(0, (4, own.hidden_size))[order].flatten(0, 1) for name, value in values.items()}  # type: ignore[union-attr]
    plain.load_state_dict({**state, "bias_hh_l0": torch.zeros(4 * own.hidden_size)})
    return plain


@torch.no_grad()
@pytest.mark.parametrize(("frames", "future"), [(7, 3), (4, 2), (2, 1), (1, 0)])
def test_the_decoders_tell_the_past_backwards_and_the_future(frames: int, future: int) -> None:
    tower: CompositeTower = network(future=3).towers["rgb"]  # type: ignore[assignment]
    percepts = torch.randn(3, frames, WIDTH)
    normed = F.layer_norm(percepts, (WIDTH,))
    _, encoded = torchs(tower.encoder)(normed[:, : frames - future])
    errors = []
    for name, first, wanted in (
        ("past", torch.zeros(3, WIDTH), normed[:, : frames - future].flip(1)),
        ("future", normed[:, frames - future - 1], normed[:, frames - future :]),
    ):
        decoder, state, given = tower.decoders[name], encoded, first
        for step in range(wanted.shape[1]):
            told, state = torchs(decoder.lstm)(given[:, None], state)
            given = decoder.tell(told[:, 0])
            errors.append((given - wanted[:, step]).square().mean(1))

    assert len(errors) == frames
    torch.testing.assert_close(tower.unlabelled_loss(percepts), torch.stack(errors).mean(0).sum())


@torch.no_grad()
def test_the_answers_are_torchs_lstm_over_the_whole_clip() -> None:
    model = network().eval()
    tower, percepts = model.towers["rgb"], torch.randn(3, 5, WIDTH)
    states, _ = torchs(tower.encoder)(F.layer_norm(percepts, (WIDTH,)))

    torch.testing.assert_close(tower(percepts), tower.answer(states))


def turning(clips: int) -> Tensor:
    """Vectors that turn at one of three speeds, from any angle: the past says what comes."""
    speed, start = torch.randint(1, 4, (clips, 1)) * 0.7, 6.3 * torch.rand(clips, 1)
    angles = start + speed * torch.arange(8)
    return torch.stack((angles.cos(), angles.sin(), -angles.cos(), -angles.sin(), 0 * angles, 0 * angles), 2)


def test_the_first_stage_learns_what_comes() -> None:
    tower = CompositeTower(WIDTH, CompositeLSTMSettings.tiny(4, hidden=48))
    optimizer = torch.optim.Adam(tower.parameters(), lr=1e-2)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = tower.unlabelled_loss(turning(32)) / 32
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())

    # All values are about 1 apart from their mean, and a decoder that knows nothing tells that mean.
    assert losses[0] > 0.9
    assert losses[-1] < 0.1


def test_without_a_first_stage_there_are_no_decoders() -> None:
    model = network(unlabelled_epochs=0)

    assert CompositeLSTM.unlabelled_epochs(model.settings) == 0
    assert not [name for name, _ in model.named_parameters() if "decoders" in name]


def test_the_original_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        model = CompositeLSTM(CompositeLSTMSettings.original())
    encoder = 4 * 2048 * (4096 + 2048 + 1)
    decoder = encoder + 4096 * (2048 + 1)

    assert (model.settings.frames - model.settings.future, model.settings.future) == (16, 13)
    towers = 2 * (encoder + 2 * decoder + 101 * (2048 + 1))
    assert sum(parameter.numel() for parameter in model.towers.parameters()) == towers
    assert sum(parameter.numel() for parameter in model.percepts.parameters()) == 2 * 4096 * (512 * 7 * 7 + 1)
