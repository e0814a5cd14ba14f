from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from actionfusion.errors import SettingsError
from actionfusion.models.systems.lrcn import LRCN, LRCNSettings
from actionfusion.models.systems.towers import FlowImage

# Channels into and out of each of its convolutions.
VGG16_WIDTHS = list(pairwise((3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)))


def _network(**changes: Any) -> LRCN:
    small = {"image_size": 32, "backbone": (4, "M", 6), "batch_norm": False, "hidden": 7}
    return LRCN(LRCNSettings.tiny(5, **{**small, **changes}))


def test_the_lstm_is_torchs() -> None:
    """The same numbers as ``nn.LSTM`` on the pooled maps; torch's gates are i, f, j, o."""
    network = _network(pool="average").eval()
    rgb = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    plain = nn.LSTM(6, 7, batch_first=True)
    bias = network.lstm.norm.bias  # one bias where torch has two
    order = torch.tensor([0, 2, 1, 3])
    with torch.no_grad():
        plain.weight_ih_l0.copy_(network.lstm.weight_ih.unflatten(0, (4, 7))[order].flatten(0, 1))
        plain.weight_hh_l0.copy_(network.lstm.weight_hh.unflatten(0, (4, 7))[order].flatten(0, 1))
        plain.bias_ih_l0.copy_(bias.unflatten(0, (4, 7))[order].flatten())
        plain.bias_hh_l0.zero_()
    states, _ = plain(network.features({"rgb": rgb})["rgb"].mean((-2, -1)))

    torch.testing.assert_close(network(rgb), network.answer(states))


def test_an_answer_at_each_step_knows_the_frames_so_far_alone() -> None:
    network = _network().eval()
    rgb = torch.randint(0, 256, (2, 5, 3, 32, 32), dtype=torch.uint8)
    logits = network(rgb)

    assert logits.shape == (2, 5, 5)
    torch.testing.assert_close(network(rgb[:, :3]), logits[:, :3])
    torch.testing.assert_close(network.scores(logits), logits.softmax(-1).mean(1))


def test_the_largest_value_of_a_map_is_read_where_asked_for() -> None:
    network = _network(pool="max").eval()
    maps = torch.randn(1, 3, 6, 16, 16)
    seen: list[torch.Tensor] = []
    network.dropout_features.register_forward_hook(lambda _, __, out: seen.append(out))
    network(features={"rgb": maps})

    assert torch.equal(seen[0], maps.amax((-2, -1)))


@pytest.mark.parametrize(("channels", "middle"), [(2, 0), (4, 1), (8, 2), (20, 5)])
def test_the_flow_image_is_the_middle_flow_frame(channels: int, middle: int) -> None:
    flow = torch.randn(1, 2, channels, 4, 4)
    u, v = flow[:, :, 2 * middle], flow[:, :, 2 * middle + 1]

    torch.testing.assert_close(FlowImage()(flow), torch.stack((u, v, (u**2 + v**2).sqrt()), dim=2))


def test_a_network_of_flow_images_has_filters_of_pictures() -> None:
    stack, image = _network(streams="flow"), _network(streams="flow", flow_input="image").eval()
    flow = torch.full((1, 2, 8, 32, 32), 128, dtype=torch.uint8)

    assert stack.backbones["flow"].in_channels == 8
    assert image.backbones["flow"].in_channels == 3
    assert "backbones.flow.features.0.weight" in image.pretrained_parameters()
    assert "backbones.flow.features.0.weight" not in stack.pretrained_parameters()
    assert not image.normalizers["flow"](flow).any()
    other = flow.clone()
    other[:, :, :4] = 7  # flow frames before the middle one
    assert torch.equal(image(flow=flow), image(flow=other))
    assert not torch.equal(stack(flow=flow), stack(flow=other))


def test_no_motion_has_gradients_too() -> None:
    flow = torch.zeros(1, 1, 8, 4, 4, requires_grad=True)
    FlowImage()(flow).sum().backward()

    assert flow.grad is not None
    assert flow.grad.isfinite().all()


def test_both_streams_are_a_network_of_each_with_flow_weighing_twice() -> None:
    networks = {streams: _network(streams=streams).eval() for streams in ("rgb", "flow", "both")}
    both = networks["both"]
    for stream in ("rgb", "flow"):
        state = networks[stream].state_dict()
        # A single stream's names are those of runs made before there could be two.
        assert {name for name in state if "norm" not in name.split(".")[0] and not name.startswith("backbones")} == {
            "lstm.weight_ih", "lstm.weight_hh", "lstm.norm.bias", "answer.weight", "answer.bias",
        }  # fmt: skip
        parts = (name.partition(".") for name in state)
        renamed = {
            ".".join(
                (first, rest) if first in {"backbones", "normalizers"} else (first, stream, rest)
            ): f"{first}.{rest}"
            for first, _, rest in parts
        }
        both.load_state_dict({new: state[old] for new, old in renamed.items()}, strict=False)
    clips = {
        "rgb": torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8),
        "flow": torch.randint(0, 256, (2, 4, 8, 32, 32), dtype=torch.uint8),
    }
    alone = {stream: networks[stream].scores(networks[stream](**{stream: clips[stream]})) for stream in clips}

    torch.testing.assert_close(both.scores(both(**clips)), alone["rgb"] / 3 + 2 * alone["flow"] / 3)
    assert list(both.memories) == ["rgb", "flow"]


def test_the_original_has_the_sizes_of_the_paper() -> None:
    rgb, flow = LRCNSettings.original(streams="rgb"), LRCNSettings.original(streams="flow")

    assert (rgb.frames, rgb.hidden, flow.hidden, rgb.dropout_features, rgb.dropout_lstm) == (16, 256, 1024, 0.9, 0.5)
    assert (flow.flow_input, rgb.norm, rgb.num_classes) == ("image", "none", 101)
    with torch.device("meta"):
        assert LRCN(flow)(flow=torch.empty(1, 2, 8, 224, 224)).shape == (1, 2, 101)
        both = LRCN(LRCNSettings.original())
    vgg = sum(9 * before * after + after for before, after in VGG16_WIDTHS)
    fc6 = 4096 * (512 * 7 * 7 + 1)
    lstms = sum(4 * units * (4096 + units + 1) + 101 * (units + 1) for units in (256, 1024))
    assert sum(parameter.numel() for parameter in both.parameters()) == 2 * (vgg + fc6) + lstms


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"streams": "all"}, "network.streams"),
        ({"flow_hidden": 0}, "network.flow_hidden"),
        ({"flow_input": "image", "flow_channels": 3}, "network.flow_channels"),
        ({"backbone": "resnet"}, "network.backbone"),
        ({"backbone": [8, "M"]}, "network.backbone"),
        ({"pool": "min"}, "network.pool"),
        ({"norm": "layer"}, "network.norm"),
        ({"image_size": 4}, "network.image_size"),
        ({"image_size": 8, "pool": "fc6"}, "network.image_size"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError) as error:
        LRCNSettings.tiny(5, **changes)

    assert error.value.subject == named
