from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from actionfusion.models.heads import LinearHead, LiteralHead, ScaledHead, literal_loss_floor, make_head


@pytest.mark.parametrize(("num_classes", "floor"), [(101, 2.676), (11, 0.856), (10, 0.797)])
def test_the_floor_is_the_published_one(num_classes: int, floor: float) -> None:
    assert literal_loss_floor(num_classes) == pytest.approx(floor, abs=5e-4)


@settings(max_examples=100, deadline=None)
@given(
    num_classes=st.integers(2, 120),
    seed=st.integers(0, 2**31),
    sharpness=st.floats(0.1, 30),
)
def test_literal_loss_never_falls_below_its_floor(num_classes: int, seed: int, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(8, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (8,), generator=generator)
    hidden = torch.tanh(sharpness * (noise + 2 * F.one_hot(labels, num_classes)))

    losses = F.cross_entropy(LiteralHead()(hidden), labels, reduction="none")

    assert losses.min() >= math.log(1 + (num_classes - 1) * math.exp(-2)) - 1e-12


def test_the_floor_is_reached_by_one_for_the_class_and_minus_one_for_the_rest() -> None:
    hidden = 2 * F.one_hot(torch.tensor([3]), 101).double() - 1

    loss = F.cross_entropy(LiteralHead()(hidden), torch.tensor([3]))

    assert loss.item() == pytest.approx(literal_loss_floor(101), abs=1e-12)


def test_the_scaled_head_starts_far_under_the_literal_floor() -> None:
    hidden = 2 * F.one_hot(torch.tensor([3]), 101).float() - 1

    assert F.cross_entropy(ScaledHead()(hidden), torch.tensor([3])).item() == pytest.approx(1e-5, rel=0.2)


def test_the_scale_is_learned() -> None:
    head = ScaledHead()
    F.cross_entropy(head(torch.tensor([[0.5, -0.5]])), torch.tensor([0])).backward()

    assert head.scale.grad is not None
    assert head.scale.grad.item() < 0  # a right answer asks for more confidence


def test_the_linear_head_counts_10302_parameters_for_101_classes() -> None:
    assert [sum(p.numel() for p in LinearHead(101, c).parameters()) for c in (101, 11, 10)] == [10302, 1122, 1020]


def test_heads_are_found_by_name() -> None:
    hidden = torch.randn(4, 6)

    assert torch.equal(make_head("literal", 6, 6)(hidden), hidden)
    assert torch.equal(make_head("scaled", 6, 6)(hidden), 8 * hidden)
    assert make_head("linear", 6, 9)(hidden).shape == (4, 9)
