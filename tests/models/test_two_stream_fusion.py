"""Two-stream fusion: the operators, the tower that flow keeps, and the sizes of the paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.systems.two_stream_fusion import BilinearTower, TwoStreamFusion, TwoStreamFusionSettings

VGG16 = 14_714_688  # its thirteen convolutions
FC = 4096 * (7 * 7 * 512) + 4096 + 4096 * 4096 + 4096 + 101 * 4096 + 101


def _network(**changes: Any) -> TwoStreamFusion:
    return TwoStreamFusion(TwoStreamFusionSettings.tiny(3, **changes)).eval()


def _maps(frames: int = 4) -> dict[Any, Tensor]:
    return {stream: torch.randn(2, frames, 32, 4, 4).relu() for stream in ("rgb", "flow")}


def test_the_original_is_vgg16_twice_with_a_convolution_between() -> None:
    with torch.device("meta"):
        network = TwoStreamFusion(TwoStreamFusionSettings.original(101)).eval()
        logits = network(torch.empty(1, 5, 3, 224, 224), torch.empty(1, 5, 20, 224, 224))
    flow_filters = 17 * 64 * 3 * 3
    fusion = 1024 * 512 * 3**3 + 512

    assert sum(parameter.numel() for parameter in network.parameters()) == 2 * (VGG16 + FC) + flow_filters + fusion
    assert logits.shape == (1, 2, 101)


def test_at_first_the_convolution_weighs_streams_by_a_quarter_and_three_quarters() -> None:
    """Far from the borders, of maps that do not change over space and time."""
    network = _network()
    even = {stream: values[:, :1, :, :1, :1].expand(2, 5, 32, 7, 7) for stream, values in _maps().items()}
    fused = network.get_submodule("towers.rgb.fusion")(even["rgb"], even["flow"])
    expected = 0.25 * even["rgb"] + 0.75 * even["flow"]

    torch.testing.assert_close(fused[:, 1:-1, :, 1:-1, 1:-1], expected[:, 1:-1, :, 1:-1, 1:-1])


@pytest.mark.parametrize(
    ("fusion", "fused"),
    [
        ("sum", lambda rgb, flow: rgb + flow),
        ("max", torch.maximum),
        ("concat", lambda rgb, flow: torch.stack((flow, rgb), 3).flatten(2, 3)),
    ],
)
def test_both_towers_pool_over_time_and_two_by_two_positions(fusion: str, fused: Any) -> None:
    network, features = _network(fusion=fusion, pool="none", fc=(8,)), _maps()
    rgb, flow = features["rgb"], features["flow"]
    answers = []
    for name, maps in (("rgb.pooled", fused(rgb, flow)), ("flow", flow)):
        pooled = F.max_pool3d(maps.transpose(1, 2), (4, 2, 2)).squeeze(2)
        answers.append(network.get_submodule(f"towers.{name}.classifier")(pooled))

    torch.testing.assert_close(network.classify(features), torch.stack(answers, 1))


def test_bilinear_fusion_adds_up_outer_products() -> None:
    tower = BilinearTower(3, 2)
    rgb, flow = torch.randn(2, 1, 4, 3, 2, 2)
    product = torch.zeros(3, 3)
    for step in range(4):
        for row in range(2):
            for column in range(2):
                product += torch.outer(rgb[0, step, :, row, column], flow[0, step, :, row, column])
    values = product.sign() * product.abs().sqrt()
    expected = tower.answer(values.flatten() / values.norm())

    torch.testing.assert_close(tower(rgb, flow)[0], expected)
    assert _network(fusion="bilinear").classify(_maps()).shape == (2, 2, 3)


def test_dead_maps_have_gradients() -> None:
    tower = BilinearTower(3, 2)
    maps = torch.zeros(1, 2, 3, 2, 2, requires_grad=True)
    tower(maps, maps).sum().backward()

    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_bilinear_fusion_is_right_of_maps_in_half_precision() -> None:
    tower, maps = BilinearTower(3, 2), 60 * torch.rand(2, 8, 3, 14, 14)  # their products leave the range of float16
    maps[:, :, 0] = 0
    half = maps.half().requires_grad_()
    with torch.autocast("cpu", torch.float16):
        logits = tower(half, half)
    logits.sum().backward()

    torch.testing.assert_close(logits.float(), tower(half.float(), half.float()), rtol=0, atol=1e-2)
    assert half.grad is not None
    assert half.grad.isfinite().all()


@pytest.mark.parametrize(("changes", "named"), [({"streams": "rgb"}, "streams"), ({"fusion": "product"}, "fusion")])
def test_what_cannot_be_fused_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError) as error:
        TwoStreamFusionSettings.tiny(5, **changes)

    assert error.value.subject == f"network.{named}"
