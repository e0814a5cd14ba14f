"""The networks before VGG have the sizes that their papers give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from actionfusion.models.backbones import BACKBONES, make_backbone


@pytest.mark.parametrize(
    ("name", "size", "shape", "parameters"),
    [
        # Weights and biases of each convolution, by hand.
        ("karpathy", 170, (256, 7, 7), 34_944 + 614_656 + 885_120 + 1_327_488 + 884_992),
        ("cnn_m", 224, (512, 6, 6), 14_208 + 614_656 + 1_180_160 + 2 * 2_359_808),
        ("fstcn", 204, (512, 12, 12), 14_208 + 614_656 + 1_180_160 + 2_359_808),
    ],
)
def test_maps_and_parameters_are_the_papers(name: str, size: int, shape: tuple[int, int, int], parameters: int) -> None:
    backbone = make_backbone(name, 3).eval()

    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, size, size)).shape[1:] == shape
    assert (backbone.out_channels, backbone.map_size(size)) == shape[:2]


@pytest.mark.parametrize("name", ["karpathy", "cnn_m", "fstcn"])
def test_the_size_of_a_map_is_known_before_it_is_made(name: str) -> None:
    backbone = make_backbone(name, 3).eval()
    sizes = range(64, 130, 7)
    with torch.no_grad():
        assert [backbone(torch.zeros(1, 3, size, size)).shape[-1] for size in sizes] == [
            backbone.map_size(size) for size in sizes
        ]
    assert backbone.map_size(10) == 0
    assert name in BACKBONES


def test_the_network_of_flow_normalises_responses_once() -> None:
    norms = [
        sum(isinstance(layer, nn.LocalResponseNorm) for layer in make_backbone("cnn_m", channels).units)
        for channels in (3, 20)
    ]

    assert norms == [2, 1]
    assert make_backbone("cnn_m", 20).map_size(224) == 6


def test_responses_are_normalised_as_krizhevsky_does() -> None:
    """b_i = a_i / (2 + 1e-4 * sum of a_j^2 over five channels) ^ 0.75."""
    norm = next(layer for layer in make_backbone("cnn_m", 3).units if isinstance(layer, nn.LocalResponseNorm))
    values = 50 * torch.rand(1, 8, 1, 1)
    expected = values.clone()
    for channel in range(8):
        near = values[0, max(channel - 2, 0) : channel + 3]
        expected[0, channel] = values[0, channel] / (2 + 1e-4 * near.square().sum()) ** 0.75

    torch.testing.assert_close(norm(values), expected)
