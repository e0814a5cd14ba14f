"""FstCN: its operator P, its temporal layers, what each branch sees, and answers weighted by concentration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from actionfusion.models.systems.fstcn import FstCN, FstCNSettings, FstCNTower, Permutation, concentration

SPATIAL = 14_208 + 614_656 + 1_180_160 + 2_359_808


def _network(**changes: Any) -> FstCN:
    return FstCN(FstCNSettings.tiny(5, **changes)).eval()


def _tower(network: FstCN) -> FstCNTower:
    tower = network.towers["rgb"]
    assert isinstance(tower, FstCNTower)
    return tower


def test_the_original_has_the_papers_sizes() -> None:
    """By hand: the spatial layers; both branches; P; 3x3 and 5x5 over 16 positions; fc of 4096 and 2048 each."""
    with torch.device("meta"):
        network = FstCN(FstCNSettings.original(101)).eval()
        logits = network(torch.empty(1, 6, 3, 204, 204))
    branches = 2 * (512 * 128 * 3 * 3 + 128)
    temporal = 16 * 32 * 3 * 3 + 32 + 16 * 32 * 5 * 5 + 32
    fc = 4096 * (16 * 128 + 64 * 5 * 128) + 2 * (4096 + 2048 * 4096 + 2048)

    count = SPATIAL + branches + 128 * 128 + temporal + fc + 101 * 4096 + 101
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert logits.shape == (1, 6, 101)


def test_the_operator_permutes_features_of_each_position() -> None:
    operator, order = Permutation(6), torch.randperm(6)
    maps = torch.randn(2, 4, 6, 3, 3)
    with torch.no_grad():
        operator.matrix.copy_(torch.eye(6)[order].T)
    picture = operator(maps)

    assert picture.shape == (2, 9, 4, 6)
    for row in range(3):
        for column in range(3):
            torch.testing.assert_close(picture[:, 3 * row + column], maps[:, :, order, row, column])


def test_the_temporal_branch_sees_differences_alone_and_the_spatial_one_frames() -> None:
    network = _network()
    seen: dict[str, Tensor] = {}
    tower = _tower(network)
    for name in ("spatial", "temporal"):
        tower.get_submodule(name).register_forward_hook(lambda _, given, __, name=name: seen.update({name: given[0]}))
    maps = torch.randn(2, 3, 32, 4, 4)
    network.classify({"rgb": maps})

    torch.testing.assert_close(seen["spatial"], maps.flatten(0, 1))
    torch.testing.assert_close(seen["temporal"], maps.diff(dim=1).flatten(0, 1))


def test_the_paper_subtracts_pictures_and_the_default_maps() -> None:
    small = {"image_size": 64, "frames": 2, "fc": (4,), "width": 3, "kernels": 2}
    network = FstCN(FstCNSettings.original(5, **small)).eval()
    pictures: list[Tensor] = []
    _tower(network).spatial_layers.register_forward_hook(lambda _, given, __: pictures.append(given[0]))
    rgb = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    network(rgb)
    frames = network.features({"rgb": rgb})["rgb"]

    assert network.all_backbones() == {}
    torch.testing.assert_close(pictures[1][0], frames[0, 1] - frames[0, 0])


def test_in_training_one_frame_stands_for_the_clip() -> None:
    network, maps = _network(), torch.randn(2, 3, 32, 4, 4)
    each = network.classify({"rgb": maps})
    network.train()
    drawn = [network.classify({"rgb": maps}) for _ in range(20)]

    assert {one.shape for one in drawn} == {(2, 1, 5)}
    for one in drawn:
        for clip in range(2):
            assert any(torch.allclose(one[clip, 0], each[clip, frame], atol=1e-5) for frame in range(3))
    assert len({one[0, 0, 0].item() for one in drawn}) > 1


def test_each_clip_of_a_batch_draws_a_frame_of_its_own() -> None:
    network, maps = _network(), torch.randn(1, 3, 32, 4, 4)
    network.train()
    alike = network.classify({"rgb": maps.expand(40, -1, -1, -1, -1)})

    assert len({round(one, 5) for one in alike[:, 0, 0].tolist()}) == 3


def test_concentration_is_nothing_of_equal_and_one_of_single_probabilities() -> None:
    rows = torch.tensor([[0.25] * 4, [0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])

    torch.testing.assert_close(concentration(rows), torch.tensor([0.0, 1.0, 1 / 3]))


@pytest.mark.parametrize("streams", ["rgb", "both"])
def test_answers_count_by_their_concentration(streams: str) -> None:
    network = _network(streams=streams)
    logits = 3 * torch.randn(4, 6, 5)
    each = logits.softmax(-1)
    weights = (5 * each.amax(-1) - 1) / 4
    expected = (each * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)

    torch.testing.assert_close(network.scores(logits), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.scores(torch.zeros(1, 6, 5)), torch.full((1, 5), 0.2))
