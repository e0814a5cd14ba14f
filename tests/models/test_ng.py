"""The networks of Ng et al. 2015: where time is pooled, and the deep LSTM's growing weight of steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.layer_norm_lstm import LayerNormLSTM
from actionfusion.models.systems.conv_pooling import ConvPooling, ConvPoolingSettings
from actionfusion.models.systems.deep_lstm import DeepLSTM, DeepLSTMSettings, LSTMTower
from actionfusion.models.systems.readout import Readout, ReadoutSettings

BACKBONE = 34_944 + 614_656 + 885_120 + 1_327_488 + 884_992
FC = 4096 * (9 * 9 * 256) + 4096 + 4096 * 4096 + 4096  # of 220-pixel frames


def pooling(name: str, **changes: Any) -> ConvPooling:
    return ConvPooling(ConvPoolingSettings.tiny(5, streams="rgb", pooling=name, **changes)).eval()


def maps(frames: int = 8) -> Tensor:
    return torch.randn(2, frames, 32, 4, 4)


def expected(network: ConvPooling, name: str, given: Tensor) -> Tensor:
    """The logits, window by window and frame by frame."""
    tower: Any = network.towers["rgb"]

    def read(picture: Tensor) -> Tensor:
        values: Tensor = tower.readout(picture)
        return values

    starts = [start for start in range(0, given.shape[1], 2) if start + 2 < given.shape[1]]
    if name == "conv":
        values = read(given.max(1).values)
    elif name == "late":
        values = torch.stack([read(frame) for frame in given.unbind(1)]).max(0).values
    elif name == "time_conv":
        filled = torch.cat((given, torch.zeros_like(given[:, :3])), 1)
        parts = [F.relu(sum_over_time(tower.time_conv, filled[:, start : start + 4])) for start in starts]
        values = read(torch.stack(parts).max(0).values)
    else:
        windows = [read(given[:, start : start + 4].max(1).values) for start in starts]
        values = torch.stack(windows).max(0).values if name == "slow" else torch.cat(windows, 1)
    logits: Tensor = tower.answer(values)
    return logits


def sum_over_time(convolution: nn.Conv3d, window: Tensor) -> Tensor:
    """A 3-D convolution of one window is the sum of 2-D convolutions of its frames."""
    parts = [F.conv2d(frame, convolution.weight[:, :, at], padding=1) for at, frame in enumerate(window.unbind(1))]
    assert convolution.bias is not None
    return torch.stack(parts).sum(0) + convolution.bias[:, None, None]


@pytest.mark.parametrize("frames", [8, 9])
@pytest.mark.parametrize("name", ["conv", "late", "slow", "local", "time_conv"])
def test_each_pooling_is_its_definition_and_sees_all_frames(name: str, frames: int) -> None:
    network, given = pooling(name, frames=frames), maps(frames)

    torch.testing.assert_close(network.classify({"rgb": given})[:, 0], expected(network, name, given))


@pytest.mark.parametrize(("name", "kept"), [("conv", True), ("late", True), ("slow", False), ("local", False)])
def test_only_windows_know_the_order_of_frames(name: str, kept: bool) -> None:
    network, given = pooling(name, frames=8), maps()
    shuffled = given[:, [5, 0, 3, 6, 1, 7, 2, 4]]

    assert torch.allclose(network.classify({"rgb": given}), network.classify({"rgb": shuffled}), atol=1e-6) == kept


@pytest.mark.parametrize("name", ["conv", "late", "slow", "time_conv"])
def test_clips_shorter_than_a_window_are_one(name: str) -> None:
    assert pooling(name).classify({"rgb": maps(1)}).isfinite().all()


@pytest.mark.parametrize("name", ["slow", "local", "time_conv"])
def test_windows_may_leave_frames_out_between_them(name: str) -> None:
    network = pooling(name, frames=8, window=2, window_stride=5)

    assert network.classify({"rgb": maps()}).isfinite().all()


def test_windows_side_by_side_have_places_for_clips_of_one_length() -> None:
    local = pooling("local", frames=8)
    assert local.fixed_frames
    assert not pooling("conv").fixed_frames
    with pytest.raises(SettingsError, match="wanted 8"):
        local(torch.zeros(1, 7, 3, 32, 32))


def test_the_lstms_are_torchs() -> None:
    network = DeepLSTM(DeepLSTMSettings.tiny(5, streams="rgb", hidden=7, layers=3)).eval()
    given = maps(6)
    tower = network.towers["rgb"]
    assert isinstance(tower, LSTMTower)
    plain = nn.LSTM(32, 7, num_layers=3, batch_first=True)
    order = torch.tensor([0, 2, 1, 3])  # torch's gates are i, f, j, o
    with torch.no_grad():
        for number, lstm in enumerate(tower.lstms):
            assert isinstance(lstm, LayerNormLSTM)
            for name, value in (
                ("weight_ih", lstm.weight_ih), ("weight_hh", lstm.weight_hh), ("bias_ih", lstm.norm.bias),
            ):  # fmt: skip
                getattr(plain, f"{name}_l{number}").copy_(value.unflatten(0, (4, 7))[order].flatten(0, 1))
            getattr(plain, f"bias_hh_l{number}").zero_()
    states, _ = plain(tower.readout(given))

    torch.testing.assert_close(network.classify({"rgb": given}), tower.answer(states))
    assert list(network.memories) == ["rgb_1", "rgb_2", "rgb_3"]


def test_steps_weigh_from_nothing_to_most_in_loss_and_scores() -> None:
    network = DeepLSTM(DeepLSTMSettings.tiny(5, flow_weight=0.25))
    logits, targets = torch.randn(3, 2 * 4, 5), torch.tensor([0, 4, 2])
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0]) / 6
    rgb, flow = (logits.softmax(-1).view(3, 2, 4, 5) * weights[:, None]).sum(2).unbind(1)
    torch.testing.assert_close(network.scores(logits), 0.75 * rgb + 0.25 * flow)
    torch.testing.assert_close(network.log_scores(logits), (0.75 * rgb + 0.25 * flow).log())

    each = torch.stack([F.cross_entropy(logits[:, at], targets, reduction="none") for at in range(8)], 1)
    torch.testing.assert_close(network.loss(logits, targets), (each.view(3, 2, 4) * weights).sum() / 2)
    one = logits[:, :2]
    torch.testing.assert_close(network.loss(one, targets), each[:, :2].mean(1).sum())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("conv", 4096 * 101 + 101),
        ("local", 4096 * 101 * 23 + 101),  # windows of 10 frames, 5 apart, in 120
        ("time_conv", 4096 * 101 + 101 + 256 * 256 * 10 * 3 * 3 + 256),
    ],
)
def test_conv_pooling_has_the_papers_sizes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = ConvPooling(ConvPoolingSettings.original(101, streams="rgb", pooling=name))

    assert sum(parameter.numel() for parameter in network.parameters()) == BACKBONE + FC + parameters


def test_the_deep_lstm_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        network = DeepLSTM(DeepLSTMSettings.original(101, streams="rgb"))
    lstms = nn.LSTM(4096, 512, num_layers=5, bias=True)
    # Torch has two biases for each gate, where one does.
    count = sum(value.numel() for name, value in lstms.named_parameters() if not name.startswith("bias_hh"))

    assert sum(parameter.numel() for parameter in network.parameters()) == BACKBONE + FC + count + 512 * 101 + 101


def test_a_map_is_pooled_and_normalised_or_flattened() -> None:
    given = 100 * torch.randn(2, 3, 6, 4, 4) + 50
    for pool, values in (("max", given.amax((3, 4))), ("average", given.mean((3, 4)))):
        read = Readout(ReadoutSettings.tiny(5, pool=pool), 6, 4)(given)
        standard = (values - values.mean(-1, keepdim=True)) / values.std(-1, correction=0, keepdim=True)
        torch.testing.assert_close(read, standard, rtol=1e-3, atol=1e-4)
    flat = Readout(ReadoutSettings.tiny(5, pool="none", fc=(7,)), 6, 4).eval()
    dense = flat.fc[0]
    torch.testing.assert_close(flat(given), F.relu(dense(given.flatten(2))))
    with pytest.raises(SettingsError, match=r"network\.fc"):
        ReadoutSettings.tiny(5, fc=(7, 0))
