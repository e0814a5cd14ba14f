from __future__ import annotations

import pytest
import torch
from torch import Tensor

from actionfusion.errors import SettingsError
from actionfusion.models import FusionNetwork
from actionfusion.models.normalizer import Normalizer

FRAMES = Normalizer("rgb", 3, 16)
FLOW = Normalizer("flow", 8, 16)


def test_pictures_have_imagenets_mean_and_spread_taken_out() -> None:
    rgb = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (rgb / 255 - mean[:, None, None]) / std[:, None, None]

    torch.testing.assert_close(FRAMES(rgb), expected, rtol=1e-5, atol=1e-6)


def test_other_pretrained_weights_have_a_mean_and_spread_of_their_own() -> None:
    normalizer = Normalizer("rgb", 3, 16, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    white = normalizer(torch.full((1, 1, 3, 16, 16), 255.0))

    torch.testing.assert_close(white[0, 0, :, 0, 0], torch.tensor([1.0, 3.0, 1.0]))
    motion = Normalizer("flow", 8, 16, (0.5, 0.25, 0.0), (0.5, 0.25, 0.75))(torch.full((1, 1, 8, 16, 16), 255.0))
    assert motion.max().item() == pytest.approx(127 / 255 / 0.5)


def test_no_motion_is_zero_and_opposite_motions_are_opposite() -> None:
    codes = torch.tensor([1, 78, 128, 178, 255], dtype=torch.uint8)
    flow = codes[:, None, None, None, None].expand(5, 1, 8, 16, 16)

    values = FLOW(flow)[:, 0, 0, 0, 0]

    assert values[2] == 0
    assert torch.equal(values, -values.flip(0))
    assert values[3].item() == pytest.approx(50 / 255 / 0.226)


def test_uint8_and_float_agree() -> None:
    rgb = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    flow = torch.randint(0, 256, (2, 3, 8, 16, 16), dtype=torch.uint8)

    assert torch.equal(FRAMES(rgb), FRAMES(rgb.float()))
    assert torch.equal(FLOW(flow), FLOW(flow.double()))


def test_values_follow_the_precision_of_the_network() -> None:
    frames, flow = Normalizer("rgb", 3, 16).double(), Normalizer("flow", 8, 16).double()

    assert frames(torch.zeros(1, 2, 3, 16, 16)).dtype == torch.float64
    assert flow(torch.zeros(1, 2, 8, 16, 16, dtype=torch.uint8)).dtype == torch.float64


def test_nothing_of_it_is_saved() -> None:
    assert FRAMES.state_dict() == FLOW.state_dict() == {}


@pytest.mark.parametrize(
    ("rgb", "flow", "said"),
    [
        (
            torch.zeros(3, 3, 16, 16),
            torch.zeros(3, 8, 16, 16),
            r"rgb: shape \[3, 3, 16, 16\], wanted \[B, T, 3, 16, 16\]",
        ),
        (torch.zeros(2, 3, 1, 16, 16), torch.zeros(2, 3, 8, 16, 16), r"rgb: .*wanted \[B, T, 3, 16, 16\]"),
        (torch.zeros(2, 3, 3, 16, 16), torch.zeros(2, 3, 20, 16, 16), r"flow: .*wanted \[B, T, 8, 16, 16\]"),
        (torch.zeros(2, 3, 3, 24, 24), torch.zeros(2, 3, 8, 24, 24), r"rgb: .*wanted \[B, T, 3, 16, 16\]"),
        (torch.zeros(2, 3, 3, 16, 16), torch.zeros(2, 3, 8, 16, 20), r"flow: .*wanted \[B, T, 8, 16, 16\]"),
        (torch.zeros(2, 3, 3, 16, 16), torch.zeros(2, 4, 8, 16, 16), r"flow: \[2, 4\] clips and frames .* \[2, 3\]"),
        (torch.zeros(2, 3, 3, 16, 16), torch.zeros(1, 3, 8, 16, 16), r"flow: \[1, 3\] clips and frames .* \[2, 3\]"),
        (torch.zeros(2, 3, 3, 16, 16, dtype=torch.int64), torch.zeros(2, 3, 8, 16, 16), "rgb: torch.int64"),
    ],
    ids=["rank", "channels", "flow channels", "size", "not square", "frames", "clips", "integers"],
)
def test_what_is_no_clip_is_refused_by_name(rgb: Tensor, flow: Tensor, said: str) -> None:
    network = FusionNetwork.practical(5, image_size=16, backbone=(4, "M", 8), fc6_width=4, hidden=3)

    with pytest.raises(SettingsError, match=said):
        network(rgb, flow)
