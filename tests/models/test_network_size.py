"""Parameters, shapes and multiply-adds of every part, on the meta device: T = 17, 224 x 224, L = 4, 101 classes."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from actionfusion.models import FusionNetwork
from actionfusion.models.backbones.vgg16 import VGG
from actionfusion.models.fusion import ConvFusion
from actionfusion.models.layer_norm_lstm import LayerNormLSTM, NormName

FRAMES = 17


def _count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(parameter.numel() for parameter in module.parameters())


def _faithful(**changes: Any) -> FusionNetwork:
    with torch.device("meta"):
        return FusionNetwork.faithful(**changes)


@cache
def _macs() -> dict[str, int]:
    """Multiply-adds of one clip by module, as torch's own counter has them."""
    network = _faithful().eval()
    rgb = torch.empty(1, FRAMES, 3, 224, 224, dtype=torch.uint8, device="meta")
    flow = torch.empty(1, FRAMES, 8, 224, 224, dtype=torch.uint8, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = network(rgb, flow)
    assert logits.shape == (1, 101)
    flops = {name: sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}
    return {name.removeprefix("FusionNetwork."): count // 2 for name, count in flops.items()}


def test_total_parameters() -> None:
    assert _count(_faithful()) == 188_757_130
    assert _count(_faithful(head="linear")) == 188_767_432


def test_each_stage_has_its_parameters() -> None:
    network = _faithful()

    assert _count(network.backbones["rgb"]) == 14_714_688
    assert _count(network.backbones["flow"]) == 14_717_568
    assert _count(network.fusion) == 14_156_288
    assert _count(network.fc6) == 102_764_544
    assert _count(network.branch_lstms["conv"]) == 40_584_022
    assert _count(network.branch_lstms["fc"]) == 1_696_598
    assert _count(network.last_lstm) == 123_422
    assert _count(network.head) == 0
    assert _count(_faithful(head="linear").head) == 10_302


@pytest.mark.parametrize(
    ("channels", "parameters"), [(4, 14_715_264), (8, 14_717_568), (12, 14_719_872), (20, 14_724_480)]
)
def test_the_flow_backbone_for_other_flow_inputs(channels: int, parameters: int) -> None:
    assert _count(_faithful(flow_channels=channels).backbones["flow"]) == parameters


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"fusion_time_kernel": 1}, 4_719_104),
        ({"fusion": "conv2d"}, 4_719_104),
        ({"fusion": "conv2d", "fusion_space_kernel": 1}, 524_800),
        ({"fusion": "sum"}, 0),
        ({"fusion": "concat"}, 0),
    ],
)
def test_other_fusions(changes: dict[str, Any], parameters: int) -> None:
    assert _count(_faithful(**changes).fusion) == parameters


@pytest.mark.parametrize(
    ("conv_reduce", "parameters"), [("flatten", 40_584_022), ("pool", 10_177_366), ("average", 248_662)]
)
def test_other_ways_into_the_conv_branch(conv_reduce: str, parameters: int) -> None:
    assert _count(_faithful(conv_reduce=conv_reduce).branch_lstms["conv"]) == parameters


@pytest.mark.parametrize(
    ("inputs", "with_layer_norm", "plain"),
    [(100_352, 40_584_022, 40_583_416), (4_096, 1_696_598, 1_695_992), (202, 123_422, 122_816)],
)
def test_lstm_sizes_with_and_without_norm(inputs: int, with_layer_norm: int, plain: int) -> None:
    with torch.device("meta"):
        sizes = {norm: _count(LayerNormLSTM(inputs, 101, norm=norm)) for norm in ("tf", "none")}
        torchs = nn.LSTM(inputs, 101)

    assert sizes == {"tf": with_layer_norm, "none": plain}
    assert _count(torchs) == plain + 404  # torch's has two biases, ours one


def test_the_tensorflow_layout_has_1010_norm_parameters() -> None:
    with torch.device("meta"):
        lstm = LayerNormLSTM(100_352, 101)

    assert lstm.weight_ih.numel() + lstm.weight_hh.numel() == 40_583_012
    assert _count(lstm.norm) == 1_010


@pytest.mark.parametrize(("width", "parameters"), [(101, 20_402), (202, 40_804)])
def test_the_map_between_branches_and_last_lstm(width: int, parameters: int) -> None:
    network = _faithful(merge_dim=width)

    assert _count(network.merge) == parameters
    assert network.last_lstm.input_size == width


@pytest.mark.parametrize(
    ("module", "gmac"),
    [
        ("backbones.rgb", 260.893),
        ("backbones.flow", 263.349),
        ("fusion", 47.167),
        ("fc6", 1.747),
        ("branch_lstms.conv", 0.690),
        ("branch_lstms.fc", 0.029),
        ("last_lstm", 0.002),
    ],
)
def test_multiply_adds_of_each_stage(module: str, gmac: float) -> None:
    assert round(_macs()[module] / 1e9, 3) == gmac


def test_multiply_adds_of_a_clip() -> None:
    total = _macs()["Global"]

    assert round(total / 1e9, 3) == 573.877
    assert round(2 * total / 1e12, 4) == 1.1478
    assert round(_macs()["backbones.rgb"] / FRAMES / 1e9, 4) == 15.3466
    assert round(_macs()["backbones.flow"] / FRAMES / 1e9, 4) == 15.4911


def test_the_counter_agrees_with_the_formula() -> None:
    def backbone(channels: int) -> int:
        size, total = 224, 0
        for count, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
            for _ in range(count):
                total += size * size * 9 * channels * width
                channels = width
            size //= 2
        return total * FRAMES

    def lstm(inputs: int, units: int = 101) -> int:
        return FRAMES * (inputs + units) * 4 * units

    macs = _macs()
    assert macs["backbones.rgb"] == backbone(3)
    assert macs["backbones.flow"] == backbone(8)
    assert macs["fusion"] == FRAMES * 14 * 14 * 27 * 1024 * 512
    assert macs["fc6"] == FRAMES * 25_088 * 4_096
    assert macs["branch_lstms.conv"] == lstm(512 * 14 * 14)
    assert macs["branch_lstms.fc"] == lstm(4_096)
    assert macs["last_lstm"] == lstm(202)


def test_shapes_of_each_stage() -> None:
    network = _faithful().eval()
    rgb = torch.empty(2, FRAMES, 3, 224, 224, device="meta")
    flow = torch.empty(2, FRAMES, 8, 224, 224, device="meta")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in network.named_modules():
        if name in {"fc6", "branch_lstms.conv", "branch_lstms.fc", "last_lstm", "head"}:

            def note(_module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor, name: str = name) -> None:
                shapes[name] = (*inputs[0].shape, -1, *output.shape)

            module.register_forward_hook(note)

    features = network.features({"rgb": rgb, "flow": flow})
    fused = network.fuse(features)
    network.classify_maps(fused)

    assert features["rgb"].shape == features["flow"].shape == fused.shape == (2, 17, 512, 14, 14)
    assert shapes == {
        "fc6": (2, 17, 25_088, -1, 2, 17, 4_096),
        "branch_lstms.conv": (2, 17, 100_352, -1, 2, 17, 101),
        "branch_lstms.fc": (2, 17, 4_096, -1, 2, 17, 101),
        "last_lstm": (2, 17, 202, -1, 2, 101),
        "head": (2, 101, -1, 2, 101),
    }


def test_the_backbones_and_the_fusion_are_those_of_the_paper() -> None:
    network = _faithful()

    assert isinstance(network.backbones["rgb"], VGG)
    assert isinstance(network.fusion, ConvFusion)
    assert tuple(network.fusion.conv.weight.shape) == (512, 1024, 3, 3, 3)


def test_tiny_stays_small() -> None:
    with torch.device("meta"):
        network = FusionNetwork.tiny(8)
    rgb = torch.empty(1, 8, 3, 64, 64, device="meta")
    flow = torch.empty(1, 8, 8, 64, 64, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(rgb, flow)

    assert counter.get_total_flops() / 2 < 105e6
    assert _count(network) < 300_000


@pytest.mark.parametrize("norm", ["gates", "ba", "batch"])
def test_other_norms_run_in_the_full_network(norm: NormName) -> None:
    network = _faithful(norm=norm).eval()
    rgb = torch.empty(1, 2, 3, 224, 224, device="meta")

    assert network(rgb, torch.empty(1, 2, 8, 224, 224, device="meta")).shape == (1, 101)
