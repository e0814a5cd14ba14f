from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actionfusion.errors import SettingsError
from actionfusion.models.layer_norm_lstm import EPSILON, LayerNormLSTM, NormName

Array = npt.NDArray[np.float64]
NORMS: tuple[NormName, ...] = ("tf", "gates", "ba", "batch", "none")


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _normalize(x: Array, axis: int, epsilon: float) -> Array:
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + epsilon)


def _random_lstm(input_size: int, hidden_size: int, norm: NormName, **options: object) -> LayerNormLSTM:
    """In double precision, with every gain, shift and bias away from its start."""
    lstm = LayerNormLSTM(input_size, hidden_size, norm=norm, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return lstm


def _numpy(lstm: LayerNormLSTM) -> dict[str, Array]:
    return {name.removeprefix("norm."): value.numpy() for name, value in lstm.state_dict().items()}


def _tensorflow_cell(
    x: Array, c: Array, h: Array, kernel: Array, gains: list[Array], shifts: list[Array], epsilon: float
) -> tuple[Array, Array]:
    """LayerNormBasicLSTMCell from its description: joint kernel, five norms, forget bias 1, normed state carried."""
    i, j, f, o = np.split(np.concatenate([x, h], axis=1) @ kernel, 4, axis=1)
    i, j, f, o = (_normalize(z, 1, epsilon) * gains[k] + shifts[k] for k, z in enumerate((i, j, f, o)))
    new_c = c * _sigmoid(f + 1.0) + _sigmoid(i) * np.tanh(j)
    new_c = _normalize(new_c, 1, epsilon) * gains[4] + shifts[4]
    return new_c, np.tanh(new_c) * _sigmoid(o)


@pytest.mark.parametrize("epsilon", [EPSILON, 1e-12])
def test_tf_equals_the_tensorflow_formula(epsilon: float) -> None:
    batch, steps, inputs, units = 3, 5, 7, 6
    lstm = _random_lstm(inputs, units, "tf", epsilon=epsilon)
    values = _numpy(lstm)
    kernel = np.concatenate([values["weight_ih"], values["weight_hh"]], axis=1).T
    gains, shifts = [*values["gate_gain"], values["state_gain"]], [*values["gate_shift"], values["state_shift"]]
    x = torch.randn(batch, steps, inputs, dtype=torch.float64)

    c, h, expected = np.zeros((batch, units)), np.zeros((batch, units)), []
    for t in range(steps):
        c, h = _tensorflow_cell(x[:, t].numpy(), c, h, kernel, gains, shifts, epsilon)
        expected.append(h)

    np.testing.assert_allclose(lstm(x).detach().numpy(), np.stack(expected, axis=1), atol=1e-12)


def test_ba_equals_equations_20_to_22() -> None:
    batch, steps, inputs, units = 3, 5, 7, 6
    lstm = _random_lstm(inputs, units, "ba")
    v = _numpy(lstm)
    x = torch.randn(batch, steps, inputs, dtype=torch.float64)

    c, h, expected = np.zeros((batch, units)), np.zeros((batch, units)), []
    for t in range(steps):
        from_hidden = _normalize(h @ v["weight_hh"].T, 1, EPSILON) * v["hidden_gain"] + v["hidden_shift"]
        from_input = _normalize(x[:, t].numpy() @ v["weight_ih"].T, 1, EPSILON) * v["input_gain"] + v["input_shift"]
        i, g, f, o = np.split(from_hidden + from_input + v["bias"], 4, axis=1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(_normalize(c, 1, EPSILON) * v["state_gain"] + v["state_shift"])
        expected.append(h)

    np.testing.assert_allclose(lstm(x).detach().numpy(), np.stack(expected, axis=1), atol=1e-12)


@pytest.mark.parametrize(("norm", "axis"), [("gates", 1), ("batch", 0)])
def test_the_literal_norms_touch_the_three_sigmoids_alone(norm: NormName, axis: int) -> None:
    batch, steps, inputs, units = 4, 3, 5, 6
    lstm = _random_lstm(inputs, units, norm)
    v = _numpy(lstm)
    x = torch.randn(batch, steps, inputs, dtype=torch.float64)

    c, h, expected = np.zeros((batch, units)), np.zeros((batch, units)), []
    for t in range(steps):
        i, j, f, o = np.split(x[:, t].numpy() @ v["weight_ih"].T + h @ v["weight_hh"].T, 4, axis=1)
        i, f, o = (
            _normalize(z, axis, EPSILON) * v["gate_gain"][k] + v["gate_shift"][k] for k, z in enumerate((i, f, o))
        )
        c = c * _sigmoid(f + 1.0) + _sigmoid(i) * np.tanh(j + v["candidate_bias"])
        h = np.tanh(c) * _sigmoid(o)
        expected.append(h)

    np.testing.assert_allclose(lstm(x).detach().numpy(), np.stack(expected, axis=1), atol=1e-12)


def test_none_equals_torchs_lstm_given_its_weights() -> None:
    inputs, units = 7, 5
    torchs = nn.LSTM(inputs, units, batch_first=True).double()
    ours = LayerNormLSTM(inputs, units, norm="none").double()

    def reordered(weight: torch.Tensor) -> torch.Tensor:
        i, f, g, o = weight.chunk(4)
        return torch.cat((i, g, f, o))

    with torch.no_grad():
        ours.weight_ih.copy_(reordered(torchs.weight_ih_l0))
        ours.weight_hh.copy_(reordered(torchs.weight_hh_l0))
        ours.norm.bias.copy_(reordered(torchs.bias_ih_l0 + torchs.bias_hh_l0))  # type: ignore[operator]
    x = torch.randn(3, 6, inputs, dtype=torch.float64)

    torch.testing.assert_close(ours(x), torchs(x)[0], rtol=0, atol=1e-12)


def test_the_plain_lstm_starts_with_a_forget_bias_of_one_and_no_other() -> None:
    bias = LayerNormLSTM(4, 3, norm="none").norm.state_dict()["bias"].view(4, 3)

    assert bias.tolist() == [[0] * 3, [0] * 3, [1] * 3, [0] * 3]


@pytest.mark.parametrize("norm", NORMS)
def test_the_starred_lstm_gives_all_states_and_the_plain_one_the_last(norm: NormName) -> None:
    starred = LayerNormLSTM(5, 4, norm=norm).eval()
    last = LayerNormLSTM(5, 4, norm=norm, return_sequence=False).eval()
    last.load_state_dict(starred.state_dict())
    x = torch.randn(2, 7, 5)

    assert starred(x).shape == (2, 7, 4)
    assert torch.equal(last(x), starred(x)[:, -1])


@pytest.mark.parametrize("norm", NORMS)
def test_a_state_depends_on_the_steps_up_to_it_alone(norm: NormName) -> None:
    lstm = _random_lstm(5, 4, norm).eval()
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3:] += 1

    before, after = lstm(x), lstm(changed)

    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert (before[:, 3:] - after[:, 3:]).abs().amax(dim=(0, 2)).min() > 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_are_those_of_finite_differences(norm: NormName) -> None:
    lstm = _random_lstm(3, 4, norm)
    if norm == "batch":
        lstm.eval()  # training moves the running statistics with every call
    x = torch.randn(3, 3, 3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lstm, (x,))


def test_batch_statistics_refuse_to_train_on_one_clip_but_evaluate_it() -> None:
    lstm = LayerNormLSTM(5, 4, norm="batch")
    clip = torch.randn(1, 3, 5)

    with pytest.raises(SettingsError, match="two clips"):
        lstm(clip)
    assert lstm.eval()(clip).shape == (1, 3, 4)


def test_batch_statistics_settle_on_those_of_the_data() -> None:
    lstm = LayerNormLSTM(6, 4, norm="batch")
    with torch.no_grad():
        lstm.weight_hh.zero_()  # so that every step has the statistics of the input's projection
    x = 2 * torch.randn(500, 3, 6) + 1
    for _ in range(80):
        lstm(x)
    i, _, f, o = (x @ lstm.weight_ih.detach().T).flatten(0, 1).chunk(4, dim=1)
    sigmoid_inputs = torch.cat((i, f, o), dim=1)
    statistics = lstm.norm.state_dict()

    torch.testing.assert_close(statistics["running_mean"], sigmoid_inputs.mean(0), rtol=0.02, atol=0.05)
    torch.testing.assert_close(statistics["running_var"], sigmoid_inputs.var(0), rtol=0.05, atol=0.05)


def test_batch_statistics_in_evaluation_judge_each_clip_alone() -> None:
    lstm = LayerNormLSTM(5, 4, norm="batch")
    x = torch.randn(4, 3, 5)
    lstm(x)
    lstm.eval()

    torch.testing.assert_close(lstm(x)[1:2], lstm(x[1:2]))


@pytest.mark.parametrize("norm", ["tf", "gates", "ba", "none"])
def test_the_start_is_glorots_over_the_joint_kernel(norm: NormName) -> None:
    inputs, units = 300, 50
    lstm = LayerNormLSTM(inputs, units, norm=norm)
    bound = (6 / (inputs + units + 4 * units)) ** 0.5

    for weight in (lstm.weight_ih, lstm.weight_hh):
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


def test_a_constant_input_keeps_gradients_finite() -> None:
    lstm = LayerNormLSTM(5, 4)
    x = torch.zeros(2, 3, 5, requires_grad=True)
    lstm(x).sum().backward()

    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in lstm.parameters())


@settings(max_examples=40, deadline=None)
@given(
    norm=st.sampled_from(["tf", "gates", "ba", "none"]),
    size=st.floats(0, 1e4),
    seed=st.integers(0, 2**31),
)
def test_hidden_states_lie_between_minus_one_and_one(norm: NormName, size: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = size * torch.randn(2, 4, 6, generator=generator)

    states = LayerNormLSTM(6, 5, norm=norm)(x)

    assert states.isfinite().all()
    assert states.abs().max() <= 1
