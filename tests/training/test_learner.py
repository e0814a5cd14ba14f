"""One step: who learns how fast, and what a step of several batches is."""

from itertools import pairwise

import pytest
import torch

from actionfusion.data.loading import Batch, Step
from actionfusion.models.backbones.vgg16 import VGG
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.peak import matrix_peak
from actionfusion.training.cost import step_cost
from actionfusion.training.learner import Learner
from actionfusion.training.measuring import measure
from actionfusion.training.settings import PRECISIONS, TrainingSettings
from actionfusion.training.throughput import Speed, speed

SETTINGS = FusionNetworkSettings.tiny(4, frames=3, image_size=32, backbone=(4, "M", 8), fc6_width=8, hidden=6)


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return FusionNetwork(FusionNetworkSettings(**{**vars(SETTINGS), **changes}))


def clips(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (count, 3, 3, 32, 32), dtype=torch.uint8, generator=generator)
    flow = torch.randint(0, 256, (count, 3, 8, 32, 32), dtype=torch.uint8, generator=generator)
    return Batch({"rgb": rgb, "flow": flow}, torch.arange(count) % 4, tuple(f"{number}.avi" for number in range(count)))


def moved(pupil, rate=1e-3):
    """How far a step moved each weight at most."""
    before = {name: tensor.clone() for name, tensor in pupil.network.named_parameters()}
    pupil.step(Step((clips(3),), 3), rate)
    return {name: (tensor - before[name]).abs().max().item() for name, tensor in pupil.network.named_parameters()}


def test_the_backbone_learns_at_its_own_rate(monkeypatch):
    """Adam's first step moves each weight by the learning rate, whatever its gradient."""
    monkeypatch.setattr(VGG, "dense_shape", tuple(network().fc6.weight.shape))  # as of the VGG-16 at full size
    pupil = Learner(network(), TrainingSettings(backbone_rate_scale=0.01))
    backbone = pupil.network.pretrained_parameters()
    steps = moved(pupil)
    assert {name for name in steps if name in backbone} >= {"backbones.rgb.features.0.weight", "fc6.weight"}
    assert "backbones.flow.features.0.weight" not in backbone
    for name, step in steps.items():
        rate = 1e-5 if name in backbone else 1e-3
        assert step <= rate * 1.01, name
        if "weight" in name and "lstm" not in name:
            assert step > rate * 0.5, name


def test_a_scale_of_zero_leaves_the_backbone_as_it_is():
    pupil = Learner(network(), TrainingSettings(backbone_rate_scale=0.0, weight_decay=0.1))
    steps = moved(pupil)
    assert all(steps[name] == 0 for name in steps if name in pupil.network.pretrained_parameters())
    assert steps["backbones.flow.features.0.weight"] > 0


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_only_matrices_and_kernels_decay(decay):
    pupil = Learner(network(), TrainingSettings(weight_decay=decay))
    decayed = {id(p) for group in pupil.optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in pupil.network.named_parameters():
        assert (id(parameter) in decayed) == (decay > 0 and parameter.ndim > 1), name


def pieces(batch, *sizes):
    """The batch cut into several."""
    ends = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    return tuple(
        Batch({name: clips[a:b] for name, clips in batch.inputs.items()}, batch.targets[a:b], batch.names[a:b])
        for a, b in pairwise(ends)
    )


def learnt(settings, batches, steps=3, **changes):
    """Weights after a few steps, without batch norm and dropout, which see batches apart."""
    pupil = Learner(network(batch_norm=False, **changes), settings)
    totals = [pupil.step(Step(batches, sum(len(batch.names) for batch in batches)), 1e-3) for _ in range(steps)]
    return pupil.network, totals


def largest_difference(ours, theirs):
    """Of the weights, over the learning rate: Adam makes a whole step of a gradient's last digit."""
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return max((one - other).abs().max().item() for one, other in pairs) / 1e-3


def assert_same_gradients(ours, theirs):
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale = other.grad.abs().max()
        assert (one.grad - other.grad).abs().max() <= 2e-5 * scale, name


@pytest.mark.parametrize("sizes", [(2, 2, 2), (4, 2), (1, 5)])
def test_batches_of_any_size_make_the_step_of_one_batch(sizes):
    """The mean is over clips, not over batches."""
    settings = TrainingSettings(weight_decay=0.01, clip_norm=1.0, label_smoothing=0.1)
    whole, totals = learnt(settings, (clips(6),))
    ours, ours_totals = learnt(settings, pieces(clips(6), *sizes))
    assert largest_difference(ours, whole) < 0.05
    assert_same_gradients(learnt(settings, pieces(clips(6), *sizes), 1)[0], learnt(settings, (clips(6),), 1)[0])
    for one, other in zip(ours_totals, totals, strict=True):
        assert (one.correct, one.count) == (other.correct, other.count)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)


def test_a_mean_of_means_would_be_another_step():
    """That the test above could fail."""
    whole, _ = learnt(TrainingSettings(clip_norm=1.0), (clips(6),), steps=1)
    ours = network(batch_norm=False)
    for batch in pieces(clips(6), 1, 5):
        logits = ours(**batch.inputs)
        (torch.nn.functional.cross_entropy(logits, batch.targets) / 2).backward()
    torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
    with pytest.raises(AssertionError):
        assert_same_gradients(ours, whole)


@pytest.mark.parametrize(
    "changes", [{"channels_last": True}, {"optimizer_kernel": "fused"}, {"optimizer_kernel": "foreach"}], ids=str
)
def test_a_faster_way_learns_the_same(changes):
    plain, _ = learnt(TrainingSettings(weight_decay=0.01), (clips(4),))
    ours, _ = learnt(TrainingSettings(weight_decay=0.01, **changes), (clips(4),))
    assert largest_difference(ours, plain) < 0.2


def test_channels_last_is_how_the_kernels_and_their_moments_lie():
    pupil = Learner(network(), TrainingSettings(channels_last=True))
    pupil.step(Step((clips(3),), 3), 1e-3)
    kernel = pupil.network.backbones.rgb.features[0].weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    other = Learner(network(1), TrainingSettings(channels_last=True))
    other.restore(pupil.tensors())
    again = other.network.backbones.rgb.features[0].weight
    assert again.stride() == kernel.stride()
    for moment, value in pupil.optimizer.state[kernel].items():
        assert other.optimizer.state[again][moment].stride() == value.stride()
        assert torch.equal(other.optimizer.state[again][moment], value)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_in_half_precision_it_still_learns_and_its_weights_stay_whole(precision):
    seen = set()
    pupil = Learner(network(batch_norm=False), TrainingSettings(precision=precision))
    tower = pupil.network.backbones.rgb
    tower.register_forward_hook(lambda module, given, maps: seen.add(maps.dtype))
    losses = [pupil.step(Step((clips(4),), 4), 3e-3).loss for _ in range(25)]
    assert seen == {PRECISIONS[precision]}
    assert losses[-1] < 0.5 * losses[0]
    assert {tensor.dtype for tensor in pupil.network.parameters()} == {torch.float32}
    whole = measure(pupil.network, [clips(4)])
    half = measure(pupil.network, [clips(4)], precision)
    assert half.loss == pytest.approx(whole.loss, rel=0.1)


def test_an_overflow_of_float16_is_passed_over_and_scaled_less():
    pupil = Learner(network(batch_norm=False), TrainingSettings(precision="float16"))
    pupil.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [tensor.clone() for tensor in pupil.network.parameters()]
    pupil.step(Step((clips(4),), 4), 1e-3)
    assert all(map(torch.equal, before, pupil.network.parameters()))
    assert pupil.scaler.get_scale() < 2.0**40
    other = Learner(network(1, batch_norm=False), TrainingSettings(precision="float16"))
    other.restore(pupil.tensors())
    assert other.scaler.get_scale() == pupil.scaler.get_scale()


def test_a_compiled_network_learns_the_same(monkeypatch):
    compiled = []
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or real(model, backend="eager"))
    plain, _ = learnt(TrainingSettings(), (clips(4),), steps=1)
    ours, _ = learnt(TrainingSettings(compile=True), (clips(4),), steps=1)
    assert len(compiled) == 1
    assert ours.state_dict().keys() == plain.state_dict().keys(), "its weights keep their names"
    assert_same_gradients(ours, plain)


def test_half_precision_needs_less_memory_and_no_fewer_operations():
    whole, half = (step_cost(FusionNetwork, SETTINGS, precision) for precision in ("float32", "bfloat16"))
    assert half.per_clip < whole.per_clip
    assert half.flops == whole.flops


@pytest.mark.parametrize(("product", "convolution"), [(1.0, 1e-3), (1e-3, 1.0)])
def test_the_peak_on_a_cpu_is_that_of_the_faster_library(monkeypatch, product, convolution):
    seconds = iter([product, convolution])
    monkeypatch.setattr("actionfusion.peak._fastest", lambda _: next(seconds))
    best = matrix_peak.__wrapped__(torch.device("cpu"), torch.float32)
    assert best == max(2 * 1024**3 / product, 2 * 9 * (56 * 256) ** 2 / convolution)


def test_the_matrix_peak_is_above_what_any_training_reaches():
    assert 1e9 < matrix_peak(torch.device("cpu"), torch.float32) < 1e15
    reached = speed(clips=10, seconds=2.0, waited=0.5, flops_per_clip=1e9, peak=1e11)
    assert reached == Speed(samples_per_second=5.0, data_wait=0.25, tflops=0.005, peak_share=0.05)
    assert str(reached) == "5 clips/s, 25% waiting for data, 0.005 TFLOP/s = 5% of the matrix peak"
