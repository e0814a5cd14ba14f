"""One step: who learns how fast, and what a step of several batches is."""

import pytest
import torch

from actionfusion.data.loading import Batch
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.models.pretrained import imagenet_targets
from actionfusion.training.learner import Learner
from actionfusion.training.settings import TrainingSettings

SETTINGS = FusionNetworkSettings.tiny(4, image_size=32, tower=(4, "M", 8), fc6_width=8, hidden=6)


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return FusionNetwork(FusionNetworkSettings(**{**vars(SETTINGS), **changes}))


def clips(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (count, 2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    flow = torch.randint(0, 256, (count, 2, 8, 32, 32), dtype=torch.uint8, generator=generator)
    return Batch(rgb, flow, torch.arange(count) % 4, tuple(f"{number}.avi" for number in range(count)))


def moved(pupil, rate=1e-3):
    """How far a step moved each weight at most."""
    before = {name: tensor.clone() for name, tensor in pupil.network.named_parameters()}
    pupil.step(clips(3), rate)
    return {name: (tensor - before[name]).abs().max().item() for name, tensor in pupil.network.named_parameters()}


def test_the_backbone_learns_at_its_own_rate():
    """Adam's first step moves each weight by the learning rate, whatever its gradient."""
    pupil = Learner(network(), TrainingSettings(backbone_rate_scale=0.01))
    backbone = imagenet_targets(pupil.network)
    steps = moved(pupil)
    assert {name for name in steps if name in backbone} >= {"rgb_tower.features.0.weight", "fc6.weight"}
    assert "flow_tower.features.0.weight" not in backbone
    for name, step in steps.items():
        rate = 1e-5 if name in backbone else 1e-3
        assert step <= rate * 1.01, name
        if "weight" in name and "lstm" not in name:
            assert step > rate * 0.5, name


def test_a_scale_of_zero_leaves_the_backbone_as_it_is():
    pupil = Learner(network(), TrainingSettings(backbone_rate_scale=0.0, weight_decay=0.1))
    steps = moved(pupil)
    assert all(steps[name] == 0 for name in steps if name in imagenet_targets(pupil.network))
    assert steps["flow_tower.features.0.weight"] > 0


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_only_matrices_and_kernels_decay(decay):
    pupil = Learner(network(), TrainingSettings(weight_decay=decay))
    decayed = {id(p) for group in pupil.optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in pupil.network.named_parameters():
        assert (id(parameter) in decayed) == (decay > 0 and parameter.ndim > 1), name
