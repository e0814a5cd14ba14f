"""Networks of a few lines' weight, whose explanations are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from actionfusion.explanation.target import AttributionTarget
from actionfusion.models import FusionNetwork


@pytest.fixture(scope="session")
def random_target() -> Callable[..., AttributionTarget]:
    """Noise, and an untrained network."""

    def make(frames: int = 4, *, seed: int = 0, target: int = 1, **changes) -> AttributionTarget:
        torch.manual_seed(seed)
        settings = {"image_size": 32, "fc6_width": 16, "hidden": 8, **changes}
        network = FusionNetwork.tiny(4, **settings).eval()
        for name, parameter in network.named_parameters():
            if name.startswith("fusion"):  # its start is a sum of both streams; a trained one is not
                torch.nn.init.normal_(parameter, std=0.1)
        rgb = torch.randint(0, 256, (1, frames, 3, 32, 32)).float()
        flow = torch.randint(64, 193, (1, frames, 8, 32, 32)).float()
        clips = {stream: clip for stream, clip in {"rgb": rgb, "flow": flow}.items() if stream in network.reads}
        return AttributionTarget(network, clips, target)

    return make


CORNER = (26, 30)


@pytest.fixture
def red_network() -> FusionNetwork:
    """Class 1 is as probable as its reddest place is red; of the flow it sees nothing.

    One convolution each reads the red of a pixel; the rest takes the largest value over the picture, and its mean over
    time.
    """
    network = FusionNetwork.tiny(
        2,
        image_size=32,
        backbone=(1, "M", 1, "M", 1),
        batch_norm=False,
        fusion="concat",
        branches="conv",
        temporal_head="mean",
        conv_reduce="max",
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for layer in network.backbones["rgb"].features:
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight[0, 0, 1, 1] = 1.0
        # Channel 0 of the concatenation is the flow's, channel 1 the picture's.
        network.head.linear.weight[1, 1] = 10.0
    return network


@pytest.fixture
def red_corner(red_network) -> Callable[..., AttributionTarget]:
    """Black frames, red in the lower right corner at the moments asked for."""

    def make(moments: tuple[int, ...], frames: int = 5) -> AttributionTarget:
        rgb = torch.zeros(1, frames, 3, 32, 32)
        for moment in moments:
            rgb[0, moment, 0, slice(*CORNER), slice(*CORNER)] = 255.0
        flow = torch.full((1, frames, 8, 32, 32), 128.0)
        return AttributionTarget(red_network, {"rgb": rgb, "flow": flow}, 1)

    return make
