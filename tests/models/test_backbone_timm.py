"""Backbones of timm: where timm can be imported, with weights that timm itself made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from actionfusion.errors import SettingsError
from actionfusion.models import FusionNetwork, weights
from actionfusion.models.backbones import make_backbone
from actionfusion.models.backbones.backbone import Backbone


def _imported() -> bool:
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


with_timm = pytest.mark.skipif(not _imported(), reason="timm and a torchvision that fits torch are not installed")


@pytest.mark.parametrize("broken", [None, "fails"])
def test_without_timm_one_line_says_how_to_install_it(
    broken: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where torchvision is of another torch, and importing fails in another way."""
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    if broken is None:
        monkeypatch.setitem(sys.modules, "timm", None)
    else:
        (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist\\nmore')")
        monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(SettingsError, match=r"timm:resnet18 needs timm.*pip install 'actionfusion\[timm\]'") as error:
        make_backbone("timm:resnet18", 3)
    assert "\n" not in str(error.value)


def test_nothing_imports_timm_unasked() -> None:
    code = "import sys, actionfusion.models as m; m.FusionNetwork.tiny(3); "
    code += "assert not {'timm', 'torchvision'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


@with_timm
@pytest.mark.parametrize(
    ("name", "channels", "stride", "stages"),
    [
        ("resnet18", 512, 32, ("act1", "layer1", "layer2", "layer3", "layer4")),
        ("mobilenetv3_small_050", 288, 32, ("bn1", "blocks.0", "blocks.1", "blocks.3", "blocks.5")),
        ("convnext_atto", 320, 32, ("stages.0", "stages.1", "stages.2", "stages.3")),
        ("vit_tiny_patch16_224", 192, 16, tuple(f"blocks.{n}" for n in range(12))),
    ],
)
def test_timm_s_facts_are_taken(name: str, channels: int, stride: int, stages: tuple[str, ...]) -> None:
    import timm

    backbone = make_backbone(f"timm:{name}", 8).eval()
    facts = timm.create_model(name).pretrained_cfg

    assert (backbone.in_channels, backbone.out_channels, backbone.stride) == (8, channels, stride)
    assert (backbone.mean, backbone.std) == (facts["mean"], facts["std"])
    assert backbone.stages == stages
    size = backbone.map_size(224)
    with torch.inference_mode():
        pictures = torch.rand(1, 8, 224, 224)
        maps = backbone(pictures)
        assert maps.shape == (1, channels, size, size)
        last = backbone.stage_maps(pictures, [stages[-1], stages[0]])[stages[-1]]
        torch.testing.assert_close(last, maps, rtol=1e-3, atol=1e-3)


@with_timm
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "convnext_atto"])
@pytest.mark.parametrize("size", [64, 75])
def test_map_size_is_what_comes_out(name: str, size: int) -> None:
    backbone = make_backbone(f"timm:{name}", 3).eval()

    assert backbone(torch.zeros(1, 3, size, size)).shape[-1] == backbone.map_size(size)


@with_timm
def test_weights_of_timm_give_timm_s_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    model = timm.create_model("resnet18").eval()
    path = tmp_path / "model.pth"
    torch.save(model.state_dict(), path)
    asked: dict[str, str] = {}

    def download(**of: str) -> str:
        asked.update(of)
        return str(path)

    monkeypatch.setattr(weights, "hf_hub_download", download)
    network = FusionNetwork.practical(
        5, backbone="timm:resnet18", image_size=64, flow_channels=4, fc6_width=4, hidden=3
    ).eval()
    report = network.load_pretrained("imagenet")
    pictures = torch.randn(2, 3, 64, 64)

    assert asked == {"repo_id": "timm/resnet18.a1_in1k", "filename": "model.safetensors"}
    torch.testing.assert_close(network.backbones["rgb"](pictures), model.forward_features(pictures))
    assert {name for name in report.random if name.startswith("backbones")} == {
        "backbones.flow.model.model.conv1.weight"
    }


@with_timm
@pytest.mark.parametrize(
    ("name", "through", "frozen"),
    [
        ("resnet18", "layer2", {"conv1", "bn1", "layer1", "layer2"}),
        ("mobilenetv3_small_050", "blocks.1", {"conv_stem", "bn1", "blocks.0", "blocks.1"}),
        ("vit_tiny_patch16_224", "blocks.1", {"cls_token", "pos_embed", "patch_embed.proj", "blocks.0", "blocks.1"}),
    ],
)
def test_freezing_by_timm_s_stages(name: str, through: str, frozen: set[str]) -> None:
    backbone = make_backbone(f"timm:{name}", 3)
    backbone.freeze(through)
    backbone.train()

    names = {n.removeprefix("model.model.") for n, p in backbone.named_parameters() if not p.requires_grad}
    assert names
    assert all(any(n == part or n.startswith(f"{part}.") for part in frozen) for n in names)
    assert all(any(n == part or n.startswith(f"{part}.") for n in names) for part in frozen)
    norms = {n: m.training for n, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for norm, training in norms.items():
        layer = norm.removeprefix("model.model.")
        assert training != any(layer == part or layer.startswith(f"{part}.") for part in frozen)


@with_timm
def test_all_that_is_not_frozen_gets_a_gradient() -> None:
    def learning(backbone: Backbone) -> set[str]:
        maps = backbone(torch.randn(2, 3, 64, 64))
        if maps.requires_grad:
            maps.square().sum().backward()
        got = {name for name, p in backbone.named_parameters() if p.grad is not None}
        assert got == {name for name, p in backbone.named_parameters() if p.requires_grad}
        return got

    for through in (None, "layer3", "all"):
        backbone = make_backbone("timm:resnet18", 3)
        backbone.freeze(through)
        assert bool(learning(backbone)) == (through != "all")


@with_timm
def test_recomputing_changes_no_gradient() -> None:
    backbone = make_backbone("timm:convnext_atto", 3).double()
    pictures = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    gradients = []
    for frames in (None, 3):
        backbone.set_recompute(frames)
        backbone.zero_grad()
        backbone(pictures).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None})

    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@with_timm
def test_what_timm_has_not_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"no model 'resnet19'; did you mean timm:resnet1"):
        make_backbone("timm:resnet19", 3)
    with pytest.raises(SettingsError, match="no model 'hf-hub:someone/something'"):
        make_backbone("timm:hf-hub:someone/something", 3)
    with pytest.raises(SettingsError, match="does not take 100 px"):
        make_backbone("timm:vit_tiny_patch16_224", 3).map_size(100)
