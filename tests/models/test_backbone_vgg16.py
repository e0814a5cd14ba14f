from __future__ import annotations

import pytest
import torch
from torch import nn

from actionfusion.errors import SettingsError
from actionfusion.models.backbones.vgg16 import NARROW_LAYOUT, VGG, Layout

# Where torchvision's vgg16 and vgg16_bn have their convolutions, and their widths.
PLAIN = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
WITH_NORM = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


@pytest.mark.parametrize(("batch_norm", "places"), [(False, PLAIN), (True, WITH_NORM)])
def test_parameters_have_torchvisions_names_and_shapes(batch_norm: bool, places: tuple[int, ...]) -> None:
    with torch.device("meta"):
        backbone = VGG(3, batch_norm=batch_norm)
    inputs = (3, *WIDTHS[:-1])
    expected = {f"features.{n}.weight": (w, i, 3, 3) for n, w, i in zip(places, WIDTHS, inputs, strict=True)}
    expected |= {f"features.{n}.bias": (w,) for n, w in zip(places, WIDTHS, strict=True)}
    shapes = {name: tuple(p.shape) for name, p in backbone.named_parameters()}

    assert {name: shape for name, shape in shapes.items() if int(name.split(".")[1]) in places} == expected
    assert batch_norm or shapes == expected


def test_the_backbone_ends_with_the_last_relu_and_has_no_pool5() -> None:
    with torch.device("meta"):
        backbone = VGG(8)
        maps = backbone(torch.empty(2, 8, 224, 224))

    assert isinstance(backbone.features[-1], nn.ReLU)
    assert maps.shape == (2, 512, 14, 14)
    assert backbone.out_channels == 512
    assert backbone.stride == 16
    assert backbone.map_size(224) == 14


def test_maps_are_rectified() -> None:
    maps = VGG(3, NARROW_LAYOUT)(torch.randn(2, 3, 32, 32))

    assert maps.min() == 0
    assert maps.max() > 0


def test_the_layers_are_those_that_vgg_is_made_of() -> None:
    backbone = VGG(3, (4, "M", 6), batch_norm=True)
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
    )  # fmt: skip
    plain.load_state_dict({name.removeprefix("features."): value for name, value in backbone.state_dict().items()})
    pictures = torch.randn(3, 3, 9, 9)

    torch.testing.assert_close(backbone(pictures), plain(pictures))


def test_the_start_keeps_the_spread_through_the_depth() -> None:
    layout: Layout = (64, 64, 64, 64, 64, 64, 64, 64)
    maps = VGG(64, layout)(torch.randn(2, 64, 16, 16))

    assert 0.2 < maps.std() < 5


@pytest.mark.parametrize(("layout", "named"), [((), "empty"), ((8, "M"), "pooling"), ((8, 0), "0"), ((8, "P", 8), "P")])
def test_what_is_no_backbone_is_refused(layout: Layout, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        VGG(3, layout)


@pytest.mark.parametrize("size", [32, 33, 47, 64])
def test_map_size_is_what_comes_out(size: int) -> None:
    backbone = VGG(3, NARROW_LAYOUT)

    assert backbone(torch.zeros(1, 3, size, size)).shape[-2:] == (backbone.map_size(size),) * 2
