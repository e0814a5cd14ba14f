from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.fusion import ConvFusion, FusionName, gaussian_kernel, interleave, make_fusion


def test_interleaving_is_equation_1() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 5, 3, 4))  # spatial and temporal, [D, H, W]
    expected = np.empty((10, 3, 4))
    for d in range(1, 6):
        expected[2 * d - 1] = a[d - 1]  # y[2d], counted from 1
        expected[2 * d - 1 - 1] = b[d - 1]  # y[2d - 1]

    y = interleave(torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None])

    assert y.shape == (1, 1, 10, 3, 4)
    np.testing.assert_array_equal(y[0, 0].numpy(), expected)


def test_even_channels_are_the_flows_and_odd_ones_the_pictures() -> None:
    y = interleave(torch.zeros(1, 2, 6, 3, 3), torch.ones(1, 2, 6, 3, 3))

    assert (y[:, :, 0::2] == 1).all()
    assert (y[:, :, 1::2] == 0).all()


@pytest.mark.parametrize("shape", [(3, 3, 3), (1, 3, 3), (1, 1, 1)])
def test_the_gaussian_has_sum_one_and_standard_deviation_one(shape: tuple[int, int, int]) -> None:
    kernel = gaussian_kernel(*shape)
    centre = tuple(length // 2 for length in shape)

    assert kernel.sum().item() == pytest.approx(1)
    for place in itertools.product(*map(range, shape)):
        distance = sum((p - c) ** 2 for p, c in zip(place, centre, strict=True))
        assert kernel[place].item() == pytest.approx(kernel[centre].item() * math.exp(-distance / 2))


@pytest.mark.parametrize(("time_kernel", "space_kernel"), [(3, 3), (1, 3), (3, 1), (1, 1)])
def test_the_start_weighs_constant_maps_by_a_quarter_and_three_quarters(time_kernel: int, space_kernel: int) -> None:
    a, b = torch.rand(6), torch.rand(6)
    maps = [v[None, None, :, None, None].expand(2, 5, 6, 7, 7) for v in (a, b)]

    fused = ConvFusion(6, time_kernel=time_kernel, space_kernel=space_kernel)(*maps)

    assert fused.shape == (2, 5, 6, 7, 7)
    wanted = (0.25 * a + 0.75 * b)[None, None, :, None, None].expand(2, 3, 6, 5, 5)
    torch.testing.assert_close(fused[:, 1:-1, :, 1:-1, 1:-1], wanted)


def test_the_shares_of_the_start_are_a_choice() -> None:
    a, b = torch.ones(1, 3, 2, 3, 3), 3 * torch.ones(1, 3, 2, 3, 3)

    assert ConvFusion(2, rgb_share=0.5)(a, b)[0, 1, 0, 1, 1].item() == pytest.approx(2)
    assert ConvFusion(2, rgb_share=1)(a, b)[0, 1, 0, 1, 1].item() == pytest.approx(1)


def test_batch_norm_stands_between_convolution_and_relu() -> None:
    a, b = torch.rand(2, 4, 3, 2, 5, 5)
    fused = ConvFusion(2, batch_norm=True, relu=False)(a, b)

    torch.testing.assert_close(fused.mean(dim=(0, 1, 3, 4)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(fused.std(dim=(0, 1, 3, 4), correction=0), torch.ones(2), rtol=1e-3, atol=0)
    assert ConvFusion(2, batch_norm=True)(a, b).min() == 0


def test_one_frame_meets_the_centre_slice_of_the_kernel_alone() -> None:
    fusion = ConvFusion(4, relu=False).double()
    torch.nn.init.normal_(fusion.conv.weight)
    torch.nn.init.normal_(fusion.conv.bias)  # type: ignore[arg-type]
    a, b = torch.randn(2, 3, 1, 4, 6, 6, dtype=torch.float64)

    flat = F.conv2d(interleave(a, b)[:, 0], fusion.conv.weight[:, :, 1], fusion.conv.bias, padding=1)

    torch.testing.assert_close(fusion(a, b)[:, 0], flat)


@pytest.mark.parametrize(("time_kernel", "reach"), [(3, {1, 2, 3}), (1, {2})])
def test_the_time_kernel_joins_neighbouring_frames(time_kernel: int, reach: set[int]) -> None:
    fusion = ConvFusion(2, time_kernel=time_kernel, relu=False)
    a, b = torch.zeros(2, 1, 5, 2, 3, 3)
    b[:, 2] = 1

    felt = fusion(a, b).abs().amax(dim=(0, 2, 3, 4))

    assert {t for t in range(5) if felt[t] > 0} == reach


def test_relu_is_a_choice() -> None:
    a = b = -torch.ones(1, 3, 2, 3, 3)

    assert (ConvFusion(2, relu=True)(a, b) == 0).all()
    assert (ConvFusion(2, relu=False)(a, b) < 0).all()


@pytest.mark.parametrize("sizes", [{"time_kernel": 2}, {"space_kernel": 5}])
def test_other_kernel_sizes_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="choose 1 or 3"):
        ConvFusion(2, **sizes)  # type: ignore[arg-type]


def test_plain_operators() -> None:
    a, b = torch.randn(2, 2, 3, 4, 5, 5)

    assert torch.equal(make_fusion("sum", 4)(a, b), a + b)
    assert torch.equal(make_fusion("max", 4)(a, b), torch.where(a > b, a, b))
    assert torch.equal(make_fusion("concat", 4)(a, b), interleave(a, b))


def test_conv2d_is_conv3d_of_one_frame() -> None:
    a, b = torch.rand(2, 2, 3, 4, 5, 5)
    flat, deep = make_fusion("conv2d", 4), make_fusion("conv3d", 4, time_kernel=1)

    assert torch.equal(flat(a, b), deep(a, b))


@pytest.mark.parametrize(("name", "channels"), [("conv3d", 4), ("conv2d", 4), ("sum", 4), ("max", 4), ("concat", 8)])
def test_operators_say_how_many_channels_they_give(name: FusionName, channels: int) -> None:
    a, b = torch.rand(2, 1, 2, 4, 3, 3)
    fusion = make_fusion(name, 4)

    assert fusion.out_channels == channels == fusion(a, b).shape[2]
