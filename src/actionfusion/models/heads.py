"""Heads: from the last hidden state to logits, the three readings of eq. 12, softmax of h.

h lies in (-1, 1), so the literal reading can give no class a probability above 1 / (1 + (C - 1) e^-2): 0.069 for 101
classes, with a cross-entropy that stays above 2.676.  Which class comes first does not change.

Source: Ou and Sun 2019, section 3.4, eq. 12, and section 3.5 ("softmax classification layer").
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

HeadName = Literal["literal", "scaled", "linear"]

START_SCALE = 8.0  # its loss floor is 1e-5 for 101 classes, close enough to none


def literal_loss_floor(num_classes: int) -> float:
    """Compute the least cross-entropy that the literal head can reach: log(1 + (C - 1) e^-2)."""
    return math.log1p((num_classes - 1) * math.exp(-2.0))


class LiteralHead(nn.Module):
    """Eq. 12 to the letter: the logits are h itself."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``[B, C]`` as it is."""
        return hidden


class ScaledHead(nn.Module):
    """One learned factor before the softmax, the smallest change that lifts the floor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(START_SCALE))

    def forward(self, hidden: Tensor) -> Tensor:
        """Scale ``[B, C]``."""
        return hidden * self.scale


class LinearHead(nn.Module):
    """A dense layer, as "the softmax classification layer" of section 3.5 may be read.

    Args:
        hidden_size: H.
        num_classes: C.
    """

    def __init__(self, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, num_classes)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``[B, H]`` to ``[B, C]``."""
        logits: Tensor = self.linear(hidden)
        return logits


Head = LiteralHead | ScaledHead | LinearHead


def make_head(name: HeadName, hidden_size: int, num_classes: int) -> Head:
    """Make the head of that name; ``literal`` and ``scaled`` want ``hidden_size`` equal to ``num_classes``."""
    match name:
        case "literal":
            return LiteralHead()
        case "scaled":
            return ScaledHead()
        case "linear":
            return LinearHead(hidden_size, num_classes)
