"""The five networks of Karpathy et al. 2014: which frames meet where, and the sizes of the paper's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.models import model_class
from actionfusion.models.systems.early_fusion import EarlyFusion
from actionfusion.models.systems.late_fusion import LateFusion
from actionfusion.models.systems.multiresolution import Multiresolution
from actionfusion.models.systems.single_frame import SingleFrame
from actionfusion.models.systems.slow_fusion import SlowFusion
from actionfusion.models.systems.towers import Towers

CONV = 34_944 + 614_656 + 885_120 + 1_327_488 + 884_992  # the five convolutions of a single frame
FC = 4096 * (7 * 7 * 256) + 4096 + 4096 * 4096 + 4096 + 487 * 4096 + 487
AGAIN = 4096 * 7 * 7 * 256  # of fc1, for each further map of 7x7x256 that it reads


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("single_frame", CONV + FC),
        ("early_fusion", CONV + FC + 9 * 96 * 3 * 11 * 11),  # ten frames in place of one
        ("late_fusion", CONV + FC + AGAIN),
        # Four, two and two frames in place of one.
        ("slow_fusion", CONV + FC + 3 * 96 * 3 * 11 * 11 + 256 * 96 * 5 * 5 + 384 * 256 * 3 * 3),
        ("multiresolution", 2 * CONV + FC + AGAIN),
    ],
)
def test_the_original_has_the_papers_sizes(name: str, parameters: int) -> None:
    kind = model_class(name)
    settings: Any = kind.Settings
    with torch.device("meta"):
        network = kind(settings.original(487)).eval()
        settings = network.settings
        frames = settings.frames if network.fixed_frames else 2
        rgb = torch.empty(1, frames, 3, settings.image_size, settings.image_size)
        logits = network(rgb)

    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert logits.shape == (1, 2 if name in {"single_frame", "multiresolution"} else 1, 487)


def make(kind: type[Towers], **changes: Any) -> Towers:
    settings: Any = kind.Settings
    return kind(settings.tiny(5, **changes)).eval()


def maps(frames: int, side: int = 4) -> dict[Any, Tensor]:
    return {"rgb": torch.randn(2, frames, 32, side, side)}


def swapped(features: dict[Any, Tensor], *order: int) -> dict[Any, Tensor]:
    return {"rgb": features["rgb"][:, list(order)]}


def test_the_order_of_frames_is_lost_on_single_frames_and_on_no_fusion() -> None:
    for kind, frames in ((SingleFrame, 4), (Multiresolution, 4), (LateFusion, 4), (EarlyFusion, 3), (SlowFusion, 10)):
        network, features = make(kind), maps(frames)
        forward, back = (
            network.scores(network.classify(given)) for given in (features, swapped(features, *reversed(range(frames))))
        )
        assert torch.allclose(forward, back, atol=1e-6) == (kind in {SingleFrame, Multiresolution}), kind


def test_late_fusion_pairs_frames_half_a_clip_apart() -> None:
    network, features = make(LateFusion), maps(5)
    pairs = [network.classify(swapped(features, at, at + 2)) for at in range(3)]

    torch.testing.assert_close(network.classify(features), torch.cat(pairs, 1))
    alone = swapped(features, 1)
    torch.testing.assert_close(network.classify(alone), network.classify(swapped(features, 1, 1)))


def test_early_fusion_is_a_convolution_over_all_frames() -> None:
    """The same numbers as a 3-D convolution whose filters are as long as the clip."""
    network, features = make(EarlyFusion), maps(3)
    filters = network.get_submodule("towers.rgb.1.0")
    assert isinstance(filters, nn.Conv2d)
    kernel = filters.weight.view(32, 3, 32, 3, 3).transpose(1, 2)
    responses = F.relu(F.conv3d(features["rgb"].transpose(1, 2), kernel, filters.bias, padding=(0, 1, 1))).squeeze(2)
    logits = network.get_submodule("towers.rgb.2")(responses)

    torch.testing.assert_close(network.classify(features), logits.unsqueeze(1))


def test_ten_frames_meet_over_three_convolutions_of_the_same_filters() -> None:
    """4, 2 and 1 responses; and shifted by two frames, the first convolution's are shifted by one."""
    network = make(SlowFusion)
    convolutions = network.get_submodule("towers.rgb.0")
    lengths: list[int] = []
    for layer in convolutions.children():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_hook(lambda _, __, output: lengths.append(output.shape[2]))
    network.classify(maps(10))
    assert lengths == [4, 2, 1]

    first = next(convolutions.children())
    clip = torch.randn(1, 32, 12, 4, 4)
    torch.testing.assert_close(first(clip[:, :, 2:])[:, :, :3], first(clip[:, :, :10])[:, :, 1:])


@pytest.mark.parametrize("frames", [1, 2, 4, 8, 10, 25])
def test_slow_fusion_takes_clips_of_any_length_that_it_was_made_for(frames: int) -> None:
    logits = make(SlowFusion, frames=frames).classify(maps(frames))

    assert logits.shape == (2, 2 if frames == 25 else 1, 5)


def test_the_fovea_is_the_centre_and_the_context_the_mean_of_two_by_two() -> None:
    network = make(Multiresolution)
    features = maps(1)
    seen = network.get_submodule("towers.rgb.0")(features["rgb"])
    context, fovea = seen.split(32, 2)

    torch.testing.assert_close(fovea, features["rgb"][..., 1:3, 1:3])
    torch.testing.assert_close(context[:, 0], F.avg_pool2d(features["rgb"][:, 0], 2))
    assert network.get_submodule("towers.rgb.0")(maps(2, 9)["rgb"]).shape == (2, 2, 64, 5, 5)
