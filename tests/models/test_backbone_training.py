"""How backbones are trained changes neither what the network computes nor the names of its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models import FusionNetwork
from actionfusion.models.backbones.vgg16 import VGG, VGG16_LAYOUT, convolution_names

MakeClips = Callable[..., tuple[Tensor, Tensor]]
TARGETS = torch.tensor([1, 3])


def _network(**changes: Any) -> FusionNetwork:
    layout = (4, 4, "M", 6, "M", 8, 8)
    small: dict[str, Any] = {"image_size": 32, "backbone": layout, "fc6_width": 12, "hidden": 7}
    return FusionNetwork.practical(**{"num_classes": 5, **small, **changes})


def _loss_and_gradients(network: FusionNetwork, clips: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    network.zero_grad(set_to_none=True)
    torch.manual_seed(1)  # of the dropout
    loss = F.cross_entropy(network(*clips), TARGETS)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def _saved_bytes(network: FusionNetwork, clips: tuple[Tensor, Tensor]) -> int:
    """What the forward pass keeps for the backward pass, counted once a storage, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(*clips).sum()
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("frames", [1, 2, 4, 100])
def test_checkpointing_changes_neither_loss_nor_gradients(frames: int, make_clips: MakeClips) -> None:
    network, clips = _network().double(), make_clips(clips=2, frames=3)
    loss, gradients = _loss_and_gradients(network, clips)

    network.recompute_backbones(frames)
    again, others = _loss_and_gradients(network, clips)

    torch.testing.assert_close(again, loss, rtol=1e-12, atol=0)
    assert others.keys() == gradients.keys() == dict(network.named_parameters()).keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-9, atol=1e-15, msg=name)


def test_checkpointing_keeps_the_backbones_ends_alone(make_clips: MakeClips) -> None:
    network, clips = _network(fc6_width=2, hidden=2), make_clips(clips=2, frames=4, size=32)
    plain = _saved_bytes(network, clips)
    network.recompute_backbones(2)
    pictures = 8 * (3 + 8) * 32 * 32 * 4
    maps = 8 * 2 * 8 * 8 * 8 * 4

    checkpointed = _saved_bytes(network, clips)
    assert checkpointed < plain / 3
    assert checkpointed < pictures + 6 * maps  # the fusion, the pooling and the LSTMs keep a few of the maps' size


def test_without_gradients_nothing_is_done_twice(make_clips: MakeClips) -> None:
    network, clips = _network().eval(), make_clips(clips=2, frames=3)
    network.recompute_backbones(1)
    calls = []
    network.backbones["rgb"].features[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        network(*clips)

    assert calls == [1]


def test_batch_norm_is_not_checkpointed() -> None:
    with pytest.raises(SettingsError, match="batch norm"):
        _network(batch_norm=True).recompute_backbones(4)
    with pytest.raises(SettingsError, match="take 1 or more"):
        _network().recompute_backbones(0)
    _network(batch_norm=True).recompute_backbones(None)


def test_convolutions_have_the_names_of_the_vgg_papers() -> None:
    assert " ".join(convolution_names(VGG16_LAYOUT)) == (
        "conv1_1 conv1_2 conv2_1 conv2_2 conv3_1 conv3_2 conv3_3 conv4_1 conv4_2 conv4_3 conv5_1 conv5_2 conv5_3"
    )


def test_freezing_through_conv4_3_leaves_the_last_block_of_vgg16() -> None:
    with torch.device("meta"):
        backbone = VGG(3)
    backbone.freeze("conv4_3")

    assert [name for name, p in backbone.named_parameters() if p.requires_grad] == [
        f"features.{layer}.{kind}" for layer in (24, 26, 28) for kind in ("weight", "bias")
    ]
    assert not backbone.is_frozen


@pytest.mark.parametrize("frames", [None, 2])
@pytest.mark.parametrize(("through", "learning"), [("conv1_2", 3), ("conv2_1", 2), ("conv3_2", 0), ("all", 0)])
def test_frozen_layers_get_no_gradient_and_the_rest_gets_the_same(
    through: str, learning: int, frames: int | None, make_clips: MakeClips
) -> None:
    network, clips = _network().double(), make_clips(clips=2, frames=3)
    loss, gradients = _loss_and_gradients(network, clips)

    network.freeze_backbones(through)
    network.recompute_backbones(frames)
    again, others = _loss_and_gradients(network, clips)

    torch.testing.assert_close(again, loss, rtol=1e-12, atol=0)
    of_backbones = [name for name in others if "backbones" in name]
    assert len(of_backbones) == 2 * 2 * learning
    assert others.keys() == {name for name, p in network.named_parameters() if p.requires_grad}
    for name, gradient in others.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-9, atol=1e-15, msg=name)
    assert all(each.is_frozen == (learning == 0) for each in network.all_backbones().values())


def test_a_frozen_backbone_keeps_no_activations(make_clips: MakeClips) -> None:
    network, clips = _network(), make_clips(clips=2, frames=4)
    sizes = []
    for through in (None, "conv1_2", "conv2_1", "all"):
        network.freeze_backbones(through)
        sizes.append(_saved_bytes(network, clips))

    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] / 3


def test_frozen_batch_norm_keeps_its_statistics_and_thaws(make_clips: MakeClips) -> None:
    network, clips = _network(batch_norm=True).train(), make_clips()
    network.freeze_backbones("conv2_1")
    network.train()
    before = copy.deepcopy(network.state_dict())
    network(*clips)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}

    assert any(name.startswith("backbones.rgb") for name in changed)
    assert not any(name.startswith(("backbones.rgb.features.1.", "backbones.flow.features.8.")) for name in changed)
    network.freeze_backbones(None)
    assert all(p.requires_grad for p in network.parameters())
    assert all(module.training for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def test_an_unknown_layer_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"conv6_1.*conv1_1.*all"):
        _network().freeze_backbones("conv6_1")


def test_how_backbones_are_trained_leaves_the_weights_names() -> None:
    network = _network()
    names = list(network.state_dict())
    network.freeze_backbones("all")
    network.recompute_backbones(2)

    assert list(network.state_dict()) == names
    assert list(_network().state_dict()) == names


@pytest.mark.parametrize("streams", ["both", "rgb", "flow"])
def test_forward_takes_the_backbones_features_too(streams: str, make_clips: MakeClips) -> None:
    network, (rgb, flow) = _network(streams=streams).eval(), make_clips()
    features = network.features({"rgb": rgb, "flow": flow})

    torch.testing.assert_close(network(features=features), network(rgb, flow))
    half = {stream: maps.half() for stream, maps in features.items()}
    assert network(features=half).dtype == torch.float32


def test_channels_first_gives_the_same(make_clips: MakeClips) -> None:
    network, clips = _network().eval(), make_clips()
    expected = network(*clips)
    for backbone in network.all_backbones().values():
        backbone.channels_last = False

    torch.testing.assert_close(network(*clips), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", (4, "M", 6, 8)])
def test_evaluating_folds_batch_norms_and_puts_them_back(backbone: str | tuple[int | str, ...]) -> None:
    network = _network(backbone=backbone, batch_norm=True, image_size=96, conv_reduce="average").double()
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                assert values is not None
                nn.init.uniform_(values, 0.5, 1.5)
    clip = torch.randint(0, 256, (1, 2, 3, 96, 96))
    plain = network.eval().stream_features("rgb", clip.to(torch.uint8))
    before = network.train().state_dict()

    with network.evaluating() as folded:
        maps = folded.stream_features("rgb", clip.to(torch.uint8))
        norms = [module for module in folded.backbones.modules() if isinstance(module, nn.BatchNorm2d)]

    assert not norms
    torch.testing.assert_close(maps, plain.detach(), rtol=1e-9, atol=1e-9)
    assert network.training
    assert network.backbones.training
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
