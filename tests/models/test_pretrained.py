"""Loading ImageNet's VGG-16, on generated files with all of its names at an eighth of its widths or less."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor

from actionfusion.errors import WeightsError
from actionfusion.models import FusionNetwork, weights
from actionfusion.models.backbones import make_backbone
from actionfusion.models.backbones.vgg16 import VGG, VGG16_LAYOUT
from actionfusion.models.systems.lrcn import LRCN, LRCNSettings

NARROW = tuple(entry if isinstance(entry, str) else entry // 64 for entry in VGG16_LAYOUT)  # 1, 1, M, 2, 2, M, ...
FC6 = 6
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture(autouse=True)
def _narrow_fc6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VGG, "dense_shape", (FC6, 8 * 49))


def _network(**changes: Any) -> FusionNetwork:
    return FusionNetwork.practical(5, **{"backbone": NARROW, "fc6_width": FC6, "hidden": 4, **changes})


def _torchvision() -> dict[str, Tensor]:
    """All 32 tensors of torchvision's vgg16, in its order."""
    widths = [entry for entry in NARROW if isinstance(entry, int)]
    tensors: dict[str, Tensor] = {}
    for layer, before, width in zip(CONVOLUTIONS, [3, *widths[:-1]], widths, strict=True):
        tensors[f"features.{layer}.weight"] = torch.randn(width, before, 3, 3)
        tensors[f"features.{layer}.bias"] = torch.randn(width)
    for layer, before, width in ((0, widths[-1] * 49, FC6), (3, FC6, FC6), (6, FC6, 10)):
        tensors[f"classifier.{layer}.weight"] = torch.randn(width, before)
        tensors[f"classifier.{layer}.bias"] = torch.randn(width)
    return tensors


def _timm(torchvision: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    shapes = {"classifier.0.weight": (FC6, -1, 7, 7), "classifier.3.weight": (FC6, -1, 1, 1)}
    tensors: dict[str, Tensor] = {}
    for name, value in torchvision.items():
        layer, kind = name.rsplit(".", 1)
        tensors[f"{names.get(layer, layer)}.{kind}"] = value.reshape(shapes.get(name, value.shape))
    return tensors


def _saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
@pytest.mark.parametrize("name", ["vgg16.pth", "model.safetensors"])
def test_both_backbones_and_fc6_take_their_values(name: str, layout: str, tmp_path: Path) -> None:
    vgg = _torchvision()
    path = _saved(tmp_path / name, vgg if layout == "torchvision" else _timm(vgg))
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}

    network.load_pretrained(path)

    after = network.state_dict()
    for layer in CONVOLUTIONS:
        for kind in ("weight", "bias"):
            wanted = vgg[f"features.{layer}.{kind}"]
            assert torch.equal(after[f"backbones.rgb.features.{layer}.{kind}"], wanted)
            flows = f"backbones.flow.features.{layer}.{kind}"
            assert torch.equal(after[flows], before[flows] if layer == 0 else wanted)
    assert torch.equal(after["fc6.weight"], vgg["classifier.0.weight"])
    assert torch.equal(after["fc6.bias"], vgg["classifier.0.bias"])
    others = [key for key in after if not key.startswith(("backbones", "fc6"))]
    assert others
    assert all(torch.equal(after[key], before[key]) for key in others)


def test_the_report_parts_all_parameters_into_loaded_and_random(tmp_path: Path) -> None:
    network = _network()
    report = network.load_pretrained(_saved(tmp_path / "vgg16.pth", _torchvision()))
    names = {name for name, _ in network.named_parameters()}

    assert set(report.loaded) == network.pretrained_parameters()
    assert set(report.loaded) | set(report.random) == names
    assert not set(report.loaded) & set(report.random)
    assert len(report.loaded) == 26 + 24 + 2
    assert {"backbones.flow.features.0.weight", "backbones.flow.features.0.bias"} <= set(report.random)


def test_the_report_reads_as_a_line(tmp_path: Path) -> None:
    path = _saved(tmp_path / "vgg16.pth", _torchvision())
    loaded, random = str(_network().load_pretrained(path)).split("; ")

    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert loaded == f"{path.name} (SHA-256 {digest}): loaded backbones.rgb (26), backbones.flow (24), fc6 (2)"
    assert random.startswith("left random backbones.flow (2), fusion (2), branch_lstms (")


def test_convolutions_alone_leave_fc6_random(tmp_path: Path) -> None:
    convolutions = {name: value for name, value in _torchvision().items() if name.startswith("features")}
    network = _network()
    assert network.fc6 is not None
    before = network.fc6.weight.clone()
    report = network.load_pretrained(_saved(tmp_path / "vgg16.pth", convolutions))

    assert torch.equal(network.fc6.weight, before)
    assert {"fc6.weight", "fc6.bias"} <= set(report.random)
    assert len(report.loaded) == 26 + 24


@pytest.mark.parametrize("changes", [{"image_size": 112}, {"fc6_width": FC6 + 1}], ids=str)
def test_fc6_of_another_shape_stays_random(changes: dict[str, int], tmp_path: Path) -> None:
    network = _network(**changes)
    report = network.load_pretrained(_saved(tmp_path / "vgg16.pth", _torchvision()))

    assert {"fc6.weight", "fc6.bias"} <= set(report.random)
    assert set(report.loaded) == network.pretrained_parameters() - {"fc6.weight", "fc6.bias"}
    assert str(report).endswith("of these in another shape there fc6 (2)")


def test_fc6_can_be_left_random(tmp_path: Path) -> None:
    network = _network()
    assert network.fc6 is not None
    before = network.fc6.weight.clone()
    report = network.load_pretrained(_saved(tmp_path / "vgg16.pth", _torchvision()), fc6="random")

    assert torch.equal(network.fc6.weight, before)
    assert {"fc6.weight", "fc6.bias"} <= set(report.random)
    assert len(report.loaded) == 26 + 24


def test_the_mean_of_the_rgb_filters_starts_the_flow(tmp_path: Path) -> None:
    vgg, network = _torchvision(), _network()
    report = network.load_pretrained(_saved(tmp_path / "vgg16.pth", vgg), flow_start="mean")

    rgb, flow = vgg["features.0.weight"], network.state_dict()["backbones.flow.features.0.weight"]
    assert flow.shape == (1, 8, 3, 3)
    for channel in range(8):
        for row in range(3):
            for column in range(3):
                red, green, blue = rgb[0, :, row, column].tolist()
                assert flow[0, channel, row, column].item() == pytest.approx((red + green + blue) / 8, rel=1e-5)
    assert torch.equal(network.state_dict()["backbones.flow.features.0.bias"], vgg["features.0.bias"])
    assert torch.equal(network.state_dict()["backbones.rgb.features.0.weight"], rgb)
    assert {name for name in report.random if name.startswith("backbones")} == set()
    assert report.averaged == ("backbones.flow.features.0.weight",)
    assert "by the mean of its RGB filters backbones.flow.features.0.weight; left random fusion (2)" in str(report)
    # It learns as a new layer does.
    assert "backbones.flow.features.0.weight" not in network.pretrained_parameters()


@pytest.mark.parametrize("name", [NARROW, "efficientnet_lite0"], ids=str)
@pytest.mark.parametrize("channels", [1, 4, 8, 20])
def test_flow_of_equal_channels_starts_as_a_grey_picture(name: Any, channels: int) -> None:
    torch.manual_seed(0)
    rgb, flow = make_backbone(name, 3).eval(), make_backbone(name, channels).eval()
    given = weights.Checkpoint("a file", "a file", "", dict(rgb.state_dict()))
    flow.load_state_dict(flow.pretrained_values(given, "mean"), strict=False)
    grey = torch.randn(2, 1, 32, 32)

    torch.testing.assert_close(flow(grey.expand(-1, channels, -1, -1)), rgb(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [(None, r"lacks 1 tensors: features\.0\.weight"), ((), r"shape \[\]"), ((1, 3, 5, 5), r"wants \[1, 8, 3, 3\]")],
)
def test_no_filters_to_take_the_mean_of_are_refused(
    shape: tuple[int, ...] | None, message: str, tmp_path: Path
) -> None:
    tensors = _torchvision()
    del tensors["features.0.weight"]
    if shape is not None:
        tensors["features.0.weight"] = torch.zeros(shape)
    with pytest.raises(WeightsError, match=message):
        _network(streams="flow").load_pretrained(_saved(tmp_path / "vgg16.pth", tensors), flow_start="mean")


def test_filters_of_pictures_fit_the_flow_image_of_lrcn_as_they_are(tmp_path: Path) -> None:
    network = LRCN(LRCNSettings(5, backbone=NARROW, streams="flow", flow_input="image", hidden=4))
    vgg = _torchvision()
    report = network.load_pretrained(_saved(tmp_path / "vgg16.pth", vgg), flow_start="mean")

    assert torch.equal(network.state_dict()["backbones.flow.features.0.weight"], vgg["features.0.weight"])
    assert report.averaged == ()
    assert str(report).split(": ")[1].startswith("loaded backbones.flow (26); left random lstm (")


def test_all_that_fits_of_a_whole_model_is_taken() -> None:
    before, after = _network(), FusionNetwork.practical(7, backbone=NARROW, fc6_width=FC6, hidden=4)
    given = weights.Checkpoint("a run", "a run", "", {**before.state_dict(), "of_another": torch.zeros(3)})
    report = after.load_fitting(given)
    old, new = before.state_dict(), after.state_dict()

    fits = {name for name, value in new.items() if old[name].shape == value.shape}
    assert all(torch.equal(new[name], old[name]) for name in fits)
    assert set(report.loaded) == fits & {name for name, _ in after.named_parameters()}
    assert report.misfits == report.random
    assert {name.split(".")[0] for name in report.random} == {"last_lstm"}
    assert "fc6.weight" in _network().load_fitting(given, fc6="random").random


@pytest.mark.parametrize(
    ("changes", "count"), [({"streams": "rgb"}, 28), ({"streams": "flow"}, 26), ({"branches": "conv"}, 50)]
)
def test_what_the_network_has_not_is_not_asked_for(changes: dict[str, str], count: int, tmp_path: Path) -> None:
    report = _network(**changes).load_pretrained(_saved(tmp_path / "vgg16.pth", _torchvision()))

    assert len(report.loaded) == count


def test_the_full_layout_fits_the_full_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with torch.device("meta"):
        network = FusionNetwork.faithful()
    state, pretrained = network.state_dict(), network.pretrained_parameters()

    assert len(pretrained) == 52
    assert tuple(state["backbones.rgb.features.28.weight"].shape) == (512, 512, 3, 3)
    assert {"backbones.rgb.features.28.weight", "fc6.weight"} <= pretrained
    assert tuple(state["fc6.weight"].shape) == VGG.dense_shape == (4096, 25_088)


def test_missing_tensors_are_named_and_nothing_is_changed(tmp_path: Path) -> None:
    tensors = _torchvision()
    del tensors["features.5.bias"], tensors["features.28.weight"]
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}

    with pytest.raises(WeightsError, match=r"lacks 2 tensors: features.5.bias, features.28.weight"):
        network.load_pretrained(_saved(tmp_path / "vgg16.pth", tensors))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_other_shapes_are_named_and_nothing_is_changed(tmp_path: Path) -> None:
    tensors = _torchvision()
    tensors["features.28.weight"] = torch.zeros(9, 8, 3, 3)
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}

    with pytest.raises(WeightsError, match=r"features.28.weight has shape \[9, 8, 3, 3\].*wants \[8, 8, 3, 3\]"):
        network.load_pretrained(_saved(tmp_path / "vgg16.pth", tensors))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_backbone_with_batch_norm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="lacks"):
        _network(batch_norm=True).load_pretrained(_saved(tmp_path / "vgg16.pth", _torchvision()))


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_pickle_is_never_run(save: Any, tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "vgg16.pth"
    save({**_torchvision(), "features.0.weight": _Malicious(mark)}, path)

    with pytest.raises(WeightsError, match="could run code"):
        _network().load_pretrained(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["vgg16.pth", "vgg16.pt", "model.bin", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut short"])
def test_damaged_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(WeightsError) as error:
        _network().load_pretrained(path)
    assert error.value.subject == str(path)


def test_any_byte_of_a_file_may_be_another(tmp_path: Path) -> None:
    """The same file, or a WeightsError, whatever PyTorch makes of it."""
    path = _saved(tmp_path / "vgg16.pth", {"a": torch.arange(3.0), "b": torch.zeros(2)})
    whole, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] = random.integers(256)
        path.write_bytes(damaged)
        try:
            weights.read_checkpoint(path)
        except WeightsError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda value: value.to_sparse(), "its tensor features.0.weight is sparse"),
        (lambda value: value + 1j, "is sparse, quantised or complex"),
        (lambda value: value * float("nan"), "holds nan or infinity"),
    ],
)
def test_numbers_that_no_network_learns_from_are_refused(changed: Any, said: str, tmp_path: Path) -> None:
    tensors = _torchvision()
    tensors["features.0.weight"] = changed(tensors["features.0.weight"])
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}

    with pytest.raises(WeightsError, match=said):
        network.load_pretrained(_saved(tmp_path / "vgg16.pth", tensors))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_the_weights_of_a_run_are_taken_by_its_folder(tmp_path: Path) -> None:
    path = _saved(tmp_path / "model.safetensors", dict(_network().state_dict()))

    with pytest.raises(WeightsError, match="give the folder of the run"):
        _network().load_pretrained(path)


@pytest.mark.parametrize("value", [[torch.zeros(2)], {"state_dict": {"features.0.weight": torch.zeros(2)}}])
def test_something_else_than_a_dictionary_of_tensors_is_refused(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "vgg16.pth")

    with pytest.raises(WeightsError, match="no plain dictionary of tensors"):
        _network().load_pretrained(tmp_path / "vgg16.pth")


def test_a_missing_file_and_a_strange_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        _network().load_pretrained(tmp_path / "vgg16.pth")
    (tmp_path / "vgg16.npz").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"\.npz is no format"):
        _network().load_pretrained(str(tmp_path / "vgg16.npz"))


def test_for_imagenet_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, str] = {}
    path = _saved(tmp_path / "model.safetensors", _timm(_torchvision()))

    def download(repo_id: str, filename: str) -> str:
        asked.update(repo_id=repo_id, filename=filename)
        return str(path)

    monkeypatch.setattr(weights, "hf_hub_download", download)
    report = _network().load_pretrained("imagenet")

    assert asked == {"repo_id": "timm/vgg16.tv_in1k", "filename": "model.safetensors"}
    assert report.source == "timm/vgg16.tv_in1k/model.safetensors"
    assert len(report.loaded) == 52


@pytest.mark.parametrize("failure", [LocalEntryNotFoundError("no\nnetwork"), TimeoutError(), RuntimeError("transport")])
def test_a_hub_that_cannot_be_reached_gives_one_line_that_helps(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("huggingface_hub")
    level = logger.level

    def download(**_: str) -> str:
        logger.warning("retrying")
        raise failure

    monkeypatch.setattr(weights, "hf_hub_download", download)
    with pytest.raises(WeightsError) as error:
        _network().load_pretrained("imagenet")

    line = str(error.value)
    assert "\n" not in line
    assert "download model.safetensors of timm/vgg16.tv_in1k" in line
    assert "give its path" in line
    assert logger.level == level
