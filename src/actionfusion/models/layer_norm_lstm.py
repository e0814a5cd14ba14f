"""The layer-norm LSTM, LN_LSTM and LN_LSTM* of the paper, with the readings of eqs 3-6 as choices of norm.

All of them share one cell.  The input projection of all T steps is one matrix product; the recurrent one is made step
by step.  Gates are in TensorFlow's order i, j, f, o (input gate, candidate, forget gate, output gate).

Sources: Ou and Sun 2019, section 3.3 and Fig. 6; TensorFlow 1.15, ``tf.contrib.rnn.LayerNormBasicLSTMCell``; Ba, Kiros
and Hinton 2016, eqs 20-22.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError

NormName = Literal["tf", "gates", "ba", "batch", "none"]

# TensorFlow's is 1e-12.  Where all units of a gate agree (a black clip, a dead map) that would multiply the gradient by
# a million; on ordinary pre-activations the two give the same numbers to four digits.
EPSILON = 1e-5
FORGET_BIAS = 1.0
FORGET_GATE = 2  # its index in i, j, f, o
GATE_NAMES = ("input", "forget", "output")
BATCH_MOMENTUM = 0.1

Gates = tuple[Tensor, Tensor, Tensor, Tensor]
OpenGates = tuple[Tensor, Tensor, Tensor]
State = tuple[Tensor, Tensor]


class CellNorm(nn.Module):
    """The norm of a cell; this base class adds only one bias, which makes a plain LSTM (``none``).

    Args:
        hidden_size: units H.
        epsilon: added to each variance.
    """

    forget_bias = 0.0  # a plain bias starts at 1 for the forget gate instead

    def __init__(self, hidden_size: int, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.epsilon = epsilon
        self._add_parameters()

    def _add_parameters(self) -> None:
        self.bias = nn.Parameter(torch.zeros(4 * self.hidden_size))
        with torch.no_grad():
            self.bias.view(4, -1)[FORGET_GATE] = FORGET_BIAS

    def _layer_norm(self, values: Tensor) -> Tensor:
        return F.layer_norm(values, values.shape[-1:], eps=self.epsilon)

    def inputs(self, projected: Tensor) -> Tensor:
        """Normalise the projected inputs of all steps, ``[B, T, 4H]``, at once."""
        return projected + self.bias

    def gates(self, from_input: Tensor, from_hidden: Tensor, num_steps: int) -> Gates:  # noqa: ARG002
        """Make pre-activations i, j, f, o, ``[B, H]`` each, of both projections ``[B, 4H]`` of one of the T steps."""
        i, j, f, o = (from_input + from_hidden).chunk(4, dim=-1)
        return i, j, f, o

    def state(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cell state to carry to the next step, and the one that the output is made of."""
        return cell, cell


class TensorFlowNorm(CellNorm):
    """``tf``: each of i, j, f, o over its own units, and the new cell state, whose normed value is carried.

    Gain and shift of their own for all five, no other bias; the forget gate's 1 is added after the norm.
    """

    forget_bias = FORGET_BIAS

    def _add_parameters(self) -> None:
        self.gate_gain = nn.Parameter(torch.ones(4, self.hidden_size))
        self.gate_shift = nn.Parameter(torch.zeros(4, self.hidden_size))
        self.state_gain = nn.Parameter(torch.ones(self.hidden_size))
        self.state_shift = nn.Parameter(torch.zeros(self.hidden_size))

    def inputs(self, projected: Tensor) -> Tensor:
        """Leave the projections as they are: the norm is over their sum with the recurrent ones."""
        return projected

    def gates(self, from_input: Tensor, from_hidden: Tensor, num_steps: int) -> Gates:  # noqa: ARG002
        """Normalise the joint projection, gate by gate."""
        joint = (from_input + from_hidden).view(-1, 4, self.hidden_size)
        i, j, f, o = (self._layer_norm(joint) * self.gate_gain + self.gate_shift).unbind(-2)
        return i, j, f, o

    def state(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Carry and show the normed state."""
        normed = self._layer_norm(cell) * self.state_gain + self.state_shift
        return normed, normed


class SigmoidInputNorm(CellNorm):
    """``gates``: the inputs of the three sigmoids alone, over their units, which is section 3.3 read to the letter.

    The candidate j has a plain bias; the cell state is not normalised.
    """

    forget_bias = FORGET_BIAS

    def _add_parameters(self) -> None:
        self.gate_gain = nn.Parameter(torch.ones(3, self.hidden_size))
        self.gate_shift = nn.Parameter(torch.zeros(3, self.hidden_size))
        self.candidate_bias = nn.Parameter(torch.zeros(self.hidden_size))

    def inputs(self, projected: Tensor) -> Tensor:
        """Leave the projections as they are: the norm is over their sum with the recurrent ones."""
        return projected

    def _normalize(self, sigmoid_inputs: Tensor, num_steps: int) -> Tensor:  # noqa: ARG002
        return self._layer_norm(sigmoid_inputs) * self.gate_gain + self.gate_shift

    def gates(self, from_input: Tensor, from_hidden: Tensor, num_steps: int) -> Gates:
        """Normalise i, f and o of the joint projection."""
        i, j, f, o = (from_input + from_hidden).chunk(4, dim=-1)
        i, f, o = self._normalize(torch.stack((i, f, o), dim=-2), num_steps).unbind(-2)
        return i, j + self.candidate_bias, f, o


class BatchStatisticsNorm(SigmoidInputNorm):
    """``batch``: as ``gates``, but over the clips of the batch, which is what the letters m of eqs 3-6 say.

    Training takes the statistics of each time step's own batch.  Evaluation takes running ones, shared by all steps so
    that T may differ from training; each step moves them by a T-th of the momentum, so that no step outweighs another.
    """

    running_mean: Tensor
    running_var: Tensor

    def _add_parameters(self) -> None:
        super()._add_parameters()
        self.register_buffer("running_mean", torch.zeros(3 * self.hidden_size))
        self.register_buffer("running_var", torch.ones(3 * self.hidden_size))

    def inputs(self, projected: Tensor) -> Tensor:
        """Refuse a training batch of one clip; else leave the projections as they are.

        Raises:
            SettingsError: one clip in training: eq. 5 then gives 0, and each gate a constant that ignores its input.
        """
        if self.training and projected.shape[0] < 2:
            reason = "normalising over the batch needs two clips or more to train on"
            raise SettingsError("network.norm", reason, "take a larger batch, or norm 'tf'")
        return projected

    def _normalize(self, sigmoid_inputs: Tensor, num_steps: int) -> Tensor:
        normed = F.batch_norm(
            sigmoid_inputs.flatten(-2),
            self.running_mean,
            self.running_var,
            self.gate_gain.flatten(),
            self.gate_shift.flatten(),
            self.training,
            BATCH_MOMENTUM / num_steps,
            self.epsilon,
        )
        return normed.view(-1, 3, self.hidden_size)


class BaNorm(CellNorm):
    """``ba``: both projections apart, each over its 4H values, and the cell state on its way to the output alone.

    Eqs 20-22 of Ba, Kiros and Hinton 2016.  Neither projection can drown the other, however long the input is.
    """

    def _add_parameters(self) -> None:
        super()._add_parameters()
        units = self.hidden_size
        self.hidden_gain = nn.Parameter(torch.ones(4 * units))
        self.hidden_shift = nn.Parameter(torch.zeros(4 * units))
        self.input_gain = nn.Parameter(torch.ones(4 * units))
        self.input_shift = nn.Parameter(torch.zeros(4 * units))
        self.state_gain = nn.Parameter(torch.ones(units))
        self.state_shift = nn.Parameter(torch.zeros(units))

    def inputs(self, projected: Tensor) -> Tensor:
        """Compute the second and third term of eq. 20, for all steps at once."""
        return self._layer_norm(projected) * self.input_gain + self.input_shift + self.bias

    def gates(self, from_input: Tensor, from_hidden: Tensor, num_steps: int) -> Gates:
        """Compute eq. 20."""
        normed = self._layer_norm(from_hidden) * self.hidden_gain + self.hidden_shift
        return super().gates(from_input, normed, num_steps)

    def state(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Carry the state as it is (eq. 21) and show it normed (eq. 22)."""
        return cell, self._layer_norm(cell) * self.state_gain + self.state_shift


_NORMS: dict[NormName, Callable[[int, float], CellNorm]] = {
    "tf": TensorFlowNorm,
    "gates": SigmoidInputNorm,
    "ba": BaNorm,
    "batch": BatchStatisticsNorm,
    "none": CellNorm,
}


class LayerNormLSTM(nn.Module):
    """An LSTM over ``[B, T, D]``, from a state of zeros: LN_LSTM* (all T states) or LN_LSTM (the last one).

    ``weight_ih`` ``[4H, D]`` and ``weight_hh`` ``[4H, H]`` are the two blocks of TensorFlow's joint kernel, transposed.

    Args:
        input_size: D.
        hidden_size: H; 101 for all three LSTMs of the paper.
        norm: ``tf`` (the default), ``gates``, ``ba``, ``batch`` or ``none``; see the classes of those names here.
        return_sequence: give all T hidden states (Fig. 6b) rather than the last one alone (Fig. 6a).
        epsilon: added to each variance.

    Attributes:
        recorded: where it is a list, each run appends how far its gates were open, in the shape that `gates` gives.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        norm: NormName = "tf",
        return_sequence: bool = True,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.return_sequence = return_sequence
        self.recorded: list[Tensor] | None = None
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.norm = _NORMS[norm](hidden_size, epsilon)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the joint kernel by Glorot's uniform distribution, as TensorFlow does.

        With D much larger than H the recurrent block then starts far smaller than the input's contribution: at
        D = 100,352 a ``tf`` norm leaves it about a hundredth of the gate's signal until it has grown.
        """
        bound = math.sqrt(6.0 / (self.input_size + self.hidden_size + 4 * self.hidden_size))
        nn.init.uniform_(self.weight_ih, -bound, bound)
        nn.init.uniform_(self.weight_hh, -bound, bound)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run over ``[B, T, D]``.

        Returns:
            Hidden states in (-1, 1): ``[B, T, H]``, or ``[B, H]`` of the last step.

        Raises:
            SettingsError: norm ``batch`` in training with one clip.
        """
        return self.recur(self.project(inputs))

    def project(self, inputs: Tensor) -> Tensor:
        """Project each input ``[B, T, D]`` for its own step, ``[B, T, 4H]``: the large product, computed once.

        Raises:
            SettingsError: norm ``batch`` in training with one clip.
        """
        return self.norm.inputs(F.linear(inputs, self.weight_ih))

    def recur(self, projected: Tensor) -> Tensor:
        """Run over inputs that ``project`` made, ``[B, T, 4H]``, and return what ``forward`` returns."""
        states, _ = self._run(projected)
        return torch.stack(states, dim=1) if self.return_sequence else states[-1]

    def keep_only_recurrence(self) -> None:
        """Free the weight of the input product, which ``recur`` does not use."""
        self.weight_ih = nn.Parameter(self.weight_ih.to("meta"))

    def gates(self, inputs: Tensor) -> Tensor:
        """Return how far each unit's gates are open over ``[B, T, D]``, by the same computation as `forward`.

        Returns:
            ``[B, T, 3, H]`` in (0, 1), in the order of ``GATE_NAMES``.
        """
        _, opened = self._run(self.project(inputs))
        return _stack_gates(opened)

    def start(self, like: Tensor) -> State:
        """Make the state of zeros, for as many clips as ``like`` has rows."""
        zeros = like.new_zeros(like.shape[0], self.hidden_size)  # an export keeps a size, not a length, open
        return zeros, zeros

    def step(self, projected: Tensor, state: State, num_steps: int) -> tuple[State, OpenGates]:
        """Take one of T steps, for callers whose inputs follow from the state before.

        Args:
            projected: the step's input as ``project`` made it, ``[B, 4H]``.
            state: hidden and cell state, ``[B, H]`` each.
            num_steps: T.

        Returns:
            The new state, and how far input, forget and output gates are open, ``[B, H]`` each.
        """
        hidden, cell = state
        i, j, f, o = self.norm.gates(projected, F.linear(hidden, self.weight_hh), num_steps)
        opened = torch.sigmoid(i), torch.sigmoid(f + self.norm.forget_bias), torch.sigmoid(o)
        cell = cell * opened[1] + opened[0] * torch.tanh(j)
        cell, shown = self.norm.state(cell)
        return (torch.tanh(shown) * opened[2], cell), opened

    def _run(self, projected: Tensor) -> tuple[list[Tensor], list[OpenGates]]:
        """Return the hidden states ``[B, H]`` of all steps, and their gates."""
        state = self.start(projected)
        states: list[Tensor] = []
        opened: list[OpenGates] = []
        for step in projected.unbind(1):
            state, gates = self.step(step, state, projected.shape[1])
            states.append(state[0])
            opened.append(gates)
        if self.recorded is not None:
            self.recorded.append(_stack_gates(opened))
        return states, opened


def _stack_gates(opened: list[OpenGates]) -> Tensor:
    return torch.stack([torch.stack(gates, dim=1) for gates in opened], dim=1)
