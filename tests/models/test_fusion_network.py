from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models import FusionNetwork
from actionfusion.models.heads import literal_loss_floor

MakeClips = Callable[..., tuple[Tensor, Tensor]]
SMALL: dict[str, Any] = {
    "image_size": 32,
    "backbone": (4, "M", 6, "M", 8),
    "batch_norm": False,
    "fc6_width": 12,
    "hidden": 7,
}


def _small(num_classes: int = 5, **changes: Any) -> FusionNetwork:
    return FusionNetwork.practical(num_classes, **{**SMALL, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": "literal"},
        {"head": "linear"},
        {"conv_reduce": "flatten"},
        {"conv_reduce": "average"},
        {"conv_reduce": "max"},
        {"streams": "rgb"},
        {"streams": "flow"},
        {"branches": "conv"},
        {"branches": "fc"},
        {"branches": "conv", "conv_reduce": "average"},
        {"temporal_head": "mean", "head": "linear"},
        {"fusion": "conv2d"},
        {"fusion": "sum"},
        {"fusion": "max"},
        {"fusion": "concat"},
        {"fusion_time_kernel": 1},
        {"fusion_fc": True},
        {"fusion_fc": True, "branches": "fc", "fusion": "concat"},
        {"merge_dim": 9},
        {"norm": "gates"},
        {"norm": "ba"},
        {"norm": "batch"},
        {"norm": "none"},
        {"norm_inputs": True},
        {"norm_streams": True, "fusion": "concat"},
        {"norm_streams": True, "streams": "flow"},
        {"batch_norm": True},
        {"image_size": 38},
        {"flow_channels": 20},
    ],
    ids=str,
)
def test_every_arrangement_trains_all_of_its_parameters(changes: dict[str, Any], make_clips: MakeClips) -> None:
    network = _small(**changes)
    size, channels = changes.get("image_size", 32), changes.get("flow_channels", 8)
    logits = network(*make_clips(clips=4, frames=3, size=size, channels=channels))
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()

    assert logits.shape == (4, 5)
    assert logits.isfinite().all()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Softmax does not see a shift of all logits, and batch norm none of the bias before it.
    assert [name for name in still if not (changes.get("batch_norm") and name.endswith("bias"))] == []


@pytest.mark.parametrize("mode", [FusionNetwork.faithful, FusionNetwork.practical, FusionNetwork.tiny])
def test_named_modes_give_a_logit_per_class(mode: Callable[..., FusionNetwork]) -> None:
    with torch.device("meta"):
        network = mode(num_classes=11)
        size = network.settings.image_size
        logits = network(torch.empty(2, 4, 3, size, size), torch.empty(2, 4, 8, size, size))

    assert logits.shape == (2, 11)


def test_uint8_and_float_clips_agree(make_clips: MakeClips) -> None:
    network = _small().eval()
    rgb, flow = make_clips()

    assert torch.equal(network(rgb, flow), network(rgb.float(), flow.float()))


def test_evaluation_is_deterministic_and_training_drops(make_clips: MakeClips) -> None:
    network = _small()
    clips = make_clips()

    assert not torch.equal(network(*clips), network(*clips))
    network.eval()
    assert torch.equal(network(*clips), network(*clips))


@pytest.mark.parametrize("changes", [{}, {"batch_norm": True}, {"norm": "batch"}], ids=str)
def test_clips_of_a_batch_do_not_see_each_other_in_evaluation(changes: dict[str, Any], make_clips: MakeClips) -> None:
    network = _small(**changes).eval()
    rgb, flow = make_clips(clips=3)

    torch.testing.assert_close(network(rgb, flow)[1:2], network(rgb[1:2], flow[1:2]))


def test_backbones_see_each_frame_alone(make_clips: MakeClips) -> None:
    network = _small().eval()
    rgb, flow = make_clips(frames=4)
    features = network.features({"rgb": rgb, "flow": flow})
    order = torch.tensor([2, 0, 3, 1])
    shuffled = network.features({"rgb": rgb[:, order], "flow": flow[:, order]})

    assert features.keys() == {"rgb", "flow"}
    for stream, maps in features.items():
        torch.testing.assert_close(maps[:, order], shuffled[stream])


def test_the_order_of_frames_matters_to_the_lstms(make_clips: MakeClips) -> None:
    network = _small(fusion_time_kernel=1).eval()
    rgb, flow = make_clips(frames=4)

    assert (network(rgb, flow) - network(rgb.flip(1), flow.flip(1))).abs().max() > 1e-4


def test_each_stream_reaches_its_own_backbone(make_clips: MakeClips) -> None:
    network = _small().eval()
    rgb, flow = make_clips()
    clips = {"rgb": rgb, "flow": flow}
    features = network.features(clips)

    for stream, b, t in itertools.product(clips, range(2), range(3)):
        pictures = network.normalizers[stream](clips[stream])
        torch.testing.assert_close(features[stream][b, t], network.backbones[stream](pictures[b, t : t + 1])[0])


def test_the_parts_make_up_the_whole(make_clips: MakeClips) -> None:
    network = _small().eval()
    rgb, flow = make_clips()
    features = network.features({"rgb": rgb, "flow": flow})

    assert torch.equal(network.classify_maps(network.fuse(features)), network(rgb, flow))
    assert torch.equal(network.classify(features), network(rgb, flow))


@pytest.mark.parametrize("streams", ["rgb", "flow"])
def test_a_single_streams_map_is_x_conv_and_the_other_input_changes_nothing(
    streams: str, make_clips: MakeClips
) -> None:
    network = _small(streams=streams).eval()
    rgb, flow = make_clips()
    other_rgb, other_flow = make_clips()
    features = network.features({"rgb": rgb, "flow": flow})
    ignored = (rgb, other_flow) if streams == "rgb" else (other_rgb, flow)
    heeded = (other_rgb, flow) if streams == "rgb" else (rgb, other_flow)

    assert features.keys() == {streams}
    assert torch.equal(network.fuse(features), features[streams])  # type: ignore[index]
    assert network.fusion is None
    alone = network(rgb) if streams == "rgb" else network(flow=flow)
    assert torch.equal(network(rgb, flow), alone)
    assert torch.equal(network(rgb, flow), network(*ignored))
    assert not torch.equal(network(rgb, flow), network(*heeded))


def test_a_missing_stream_is_named() -> None:
    maps = torch.zeros(1, 2, 8, 8, 8)

    with pytest.raises(SettingsError, match="stream flow is missing; give rgb and flow"):
        _small().fuse({"rgb": maps})
    with pytest.raises(SettingsError, match="stream flow is missing; give flow"):
        _small(streams="flow").fuse({"rgb": maps})


def _lstm_inputs(network: FusionNetwork, maps: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for name, lstm in network.branch_lstms.items():
        lstm.register_forward_pre_hook(lambda _, inputs, name=name: seen.__setitem__(name, inputs[0]))
    network.classify_maps(maps)
    return seen


def test_what_each_branch_reads() -> None:
    maps = torch.randn(2, 3, 8, 8, 8)
    pooled = maps.unflatten(3, (4, 2)).unflatten(5, (4, 2)).amax(dim=(4, 6))
    flat, pool, average, largest = (_small(conv_reduce=name).eval() for name in ("flatten", "pool", "average", "max"))

    torch.testing.assert_close(_lstm_inputs(flat, maps)["conv"], maps.flatten(2))
    torch.testing.assert_close(_lstm_inputs(pool, maps)["conv"], pooled.flatten(2))
    torch.testing.assert_close(_lstm_inputs(average, maps)["conv"], maps.mean(dim=(3, 4)))
    torch.testing.assert_close(_lstm_inputs(largest, maps)["conv"], maps.amax(dim=(3, 4)))
    assert flat.fc6 is not None
    torch.testing.assert_close(_lstm_inputs(flat, maps)["fc"], F.relu(flat.fc6(pooled.flatten(2))))


def test_normed_inputs_have_mean_zero_and_spread_one() -> None:
    seen = _lstm_inputs(_small(norm_inputs=True).eval(), torch.rand(2, 3, 8, 8, 8))

    for features in seen.values():
        torch.testing.assert_close(features.mean(-1), torch.zeros(2, 3), rtol=0, atol=1e-5)
        torch.testing.assert_close(features.std(-1, correction=0), torch.ones(2, 3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("reduce", ["flatten", "pool", "max"])
def test_streams_are_normed_apart(reduce: str) -> None:
    network = _small(norm_streams=True, fusion="concat", conv_reduce=reduce).eval()
    rgb, flow = torch.rand(2, 3, 8, 8, 8), 100 * torch.rand(2, 3, 8, 8, 8)
    plain = _small(fusion="concat", conv_reduce=reduce).eval()
    maps = plain.fuse({"rgb": rgb, "flow": flow})
    given, seen = _lstm_inputs(plain, maps)["conv"], _lstm_inputs(network, maps)["conv"]

    channel = torch.arange(seen.shape[-1]) // (seen.shape[-1] // 16)
    for stream in (0, 1):
        own = channel % 2 == stream
        torch.testing.assert_close(seen[..., own], F.layer_norm(given[..., own], (int(own.sum()),)))


def test_the_last_lstm_reads_both_branches_step_by_step() -> None:
    network = _small().eval()
    maps = torch.randn(2, 3, 8, 8, 8)
    seen: list[Tensor] = []
    network.last_lstm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    read = _lstm_inputs(network, maps)
    states = [network.branch_lstms[name](read[name]) for name in ("conv", "fc")]

    torch.testing.assert_close(seen[0], torch.cat(states, dim=-1))


def test_the_literal_heads_logits_are_the_last_state_itself() -> None:
    network = _small(head="literal").eval()
    seen: list[Tensor] = []
    network.last_lstm.register_forward_hook(lambda _, __, output: seen.append(output))
    logits = network.classify_maps(torch.randn(2, 3, 8, 8, 8))

    assert torch.equal(logits, seen[0])
    assert F.cross_entropy(logits, logits.argmax(1)) >= literal_loss_floor(5)


def test_the_mean_head_averages_over_time() -> None:
    network = _small(temporal_head="mean", head="linear").eval()
    maps = torch.randn(2, 4, 8, 8, 8)

    torch.testing.assert_close(network.classify_maps(maps), network.classify_maps(maps.flip(1)))


@pytest.mark.parametrize("shape", [(3, 8, 8, 8), (2, 3, 4, 8, 8), (2, 3, 8, 4, 8)])
def test_maps_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match=r"wanted \[B, T, 8, 8, 8\]"):
        _small().classify_maps(torch.zeros(shape))


def test_clips_of_another_shape_are_refused(make_clips: MakeClips) -> None:
    with pytest.raises(SettingsError, match=r"wanted \[B, T, 3, 32, 32\]"):
        _small()(*make_clips(size=40))


def test_dropout_stands_where_section_3_6_has_it() -> None:
    maps = torch.rand(2, 3, 8, 8, 8)

    def varies(**dropout: float) -> bool:
        none = {"dropout_fc6": 0.0, "dropout_lstm": 0.0, "dropout_last": 0.0}
        network = _small(**{**none, **dropout})
        return len({network.classify_maps(maps).sum().item() for _ in range(8)}) > 1

    assert not varies()
    assert varies(dropout_fc6=0.5)
    assert varies(dropout_lstm=0.25)
    assert varies(dropout_last=0.25)


def test_dropout_does_not_touch_the_recurrent_state() -> None:
    network = _small(dropout_fc6=0.0, dropout_lstm=0.9)
    maps = torch.rand(1, 3, 8, 8, 8)
    states: list[Tensor] = []
    network.branch_lstms["conv"].register_forward_hook(lambda _, __, output: states.append(output))
    for _ in range(4):
        network.classify_maps(maps)

    assert all(torch.equal(states[0], other) for other in states)


def test_any_number_of_frames_will_do(make_clips: MakeClips) -> None:
    network = _small().eval()

    assert [network(*make_clips(frames=frames)).shape for frames in (1, 2, 9)] == [(2, 5)] * 3


def test_a_saved_network_comes_back(make_clips: MakeClips) -> None:
    first, second = _small().eval(), _small().eval()
    clips = make_clips()
    assert not torch.equal(first(*clips), second(*clips))

    second.load_state_dict(first.state_dict())

    assert torch.equal(first(*clips), second(*clips))
    assert all(value.is_contiguous() for value in first.state_dict().values())  # as safetensors wants it


def test_double_precision_is_followed(make_clips: MakeClips) -> None:
    assert _small().double().eval()(*make_clips()).dtype == torch.float64


def test_half_precision_gives_nearly_the_same(make_clips: MakeClips) -> None:
    network = _small().eval()
    clips = make_clips()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(*clips)

    torch.testing.assert_close(half.float(), network(*clips), rtol=0.1, atol=0.2)


def test_export_keeps_the_answer(make_clips: MakeClips) -> None:
    network = _small().eval()
    clips = make_clips()
    exported = torch.export.export(network, clips, dynamic_shapes=({0: torch.export.Dim("B")},) * 2)
    others = make_clips(clips=3)

    torch.testing.assert_close(exported.module()(*others), network(*others))


def _drifting_clips(clips: int, frames: int) -> tuple[Tensor, Tensor]:
    """Smooth random pictures, each drifting to the right at its own speed, and the flow codes of that."""
    textures = F.interpolate(torch.rand(clips, 3, 8, 8), size=64, mode="bicubic").clamp(0, 1)
    rgb = torch.stack([textures.roll(2 * t, dims=-1) for t in range(frames)], dim=1)
    flow = torch.full((clips, frames, 8, 64, 64), 128.0)
    flow[:, :, 0::2] += torch.linspace(-60, 60, clips)[:, None, None, None, None]
    return (255 * rgb).to(torch.uint8), flow.to(torch.uint8)


def test_tiny_learns_eight_clips_by_heart() -> None:
    network = FusionNetwork.tiny(num_classes=8)
    rgb, flow = _drifting_clips(clips=8, frames=4)
    labels = torch.randperm(8)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    right = 0.0
    for step in range(120):
        network.train()
        optimizer.zero_grad()
        F.cross_entropy(network(rgb, flow), labels).backward()
        optimizer.step()
        if step % 10 == 9:
            network.eval()
            with torch.no_grad():
                right = (network(rgb, flow).argmax(1) == labels).float().mean().item()
            if right == 1:
                break

    assert right == 1


@pytest.mark.slow
def test_the_full_network_runs_on_real_values(make_clips: MakeClips) -> None:
    network = FusionNetwork.faithful().eval()
    with torch.inference_mode():
        hidden = network(*make_clips(clips=1, frames=2, size=224))

    assert hidden.shape == (1, 101)
    assert hidden.abs().max() < 1
    assert hidden.std() > 0.01


def test_fusion_at_fc_adds_a_layer_for_each_stream_to_that_of_the_fused_map(make_clips: MakeClips) -> None:
    plain, both = _small(dropout_fc6=0.0).eval(), _small(dropout_fc6=0.0, fusion_fc=True).eval()
    weights = {name: tensor for name, tensor in plain.state_dict().items() if name != "fc6.weight"}
    assert both.load_state_dict(weights, strict=False).missing_keys == ["fc6.weight"]
    rgb, flow = make_clips()
    features = both.features({"rgb": rgb, "flow": flow})
    maps = [both.fusion(features["rgb"], features["flow"]), features["rgb"], features["flow"]]
    layers = both.fc6.weight.split(both.fc6.in_features // 3, dim=1)
    summed = sum(
        F.max_pool2d(each.flatten(0, 1), 2).flatten(1) @ layer.T for each, layer in zip(maps, layers, strict=True)
    )
    read = both.branch_features(both.fuse(features))
    torch.testing.assert_close(read["fc"].flatten(0, 1), F.relu(summed + both.fc6.bias))
    torch.testing.assert_close(read["conv"], plain.branch_features(plain.fuse(features))["conv"])
