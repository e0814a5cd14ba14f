from __future__ import annotations

import pytest
import torch
from torch import Tensor

from actionfusion.errors import SettingsError
from actionfusion.models.clip_input import ClipNormalizer


def test_pictures_have_imagenets_mean_and_spread_taken_out() -> None:
    rgb = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (rgb / 255 - mean[:, None, None]) / std[:, None, None]

    pictures, _ = ClipNormalizer(16, 8)(rgb, torch.zeros(2, 3, 8, 16, 16))

    torch.testing.assert_close(pictures, expected, rtol=1e-5, atol=1e-6)


def test_no_motion_is_zero_and_opposite_motions_are_opposite() -> None:
    codes = torch.tensor([1, 78, 128, 178, 255], dtype=torch.uint8)
    flow = codes[:, None, None, None, None].expand(5, 1, 8, 16, 16)

    _, motion = ClipNormalizer(16, 8)(torch.zeros(5, 1, 3, 16, 16), flow)
    values = motion[:, 0, 0, 0, 0]

    assert values[2] == 0
    assert torch.equal(values, -values.flip(0))
    assert values[3].item() == pytest.approx(50 / 255 / 0.226)


def test_uint8_and_float_agree() -> None:
    rgb = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    flow = torch.randint(0, 256, (2, 3, 8, 16, 16), dtype=torch.uint8)
    normalizer = ClipNormalizer(16, 8)

    for ours, theirs in zip(normalizer(rgb, flow), normalizer(rgb.float(), flow.double()), strict=True):
        assert torch.equal(ours, theirs)


def test_values_follow_the_precision_of_the_network() -> None:
    normalizer = ClipNormalizer(16, 8).to(torch.float64)
    pictures, motion = normalizer(torch.zeros(1, 2, 3, 16, 16), torch.zeros(1, 2, 8, 16, 16, dtype=torch.uint8))

    assert pictures.dtype == motion.dtype == torch.float64


def test_nothing_of_it_is_saved() -> None:
    assert ClipNormalizer(16, 8).state_dict() == {}


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
    with pytest.raises(SettingsError, match=said):
        ClipNormalizer(16, 8)(rgb, flow)
