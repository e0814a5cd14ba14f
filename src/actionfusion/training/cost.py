"""What a step costs in memory and arithmetic, found without doing it.

The network is run forward and back on tensors that have shapes but no values.  What autograd keeps is counted once for
each storage, and PyTorch's own counter has the floating point operations.  So what does not run (towers whose maps are
read, frozen layers' backward) is not counted, and what runs twice (recomputed activations) is counted twice.

Memory is an estimate.  Where towers are frozen or recomputed it adds up the highest marks of the forward and the
backward pass, though they do not come at the same time, and maps count as float32, whatever they are kept as; steps of
a small network took 0.7 to 1.3 times the estimate then (CPU).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.training.measuring import autocast
from actionfusion.training.settings import PrecisionName, TrainingSettings

_BATCH = 8  # clips that are counted at once; what does not grow with them is then a small share
_FLOAT = 4
_LEARNING_COPIES = 3  # gradients, and two moments of Adam, beside the weights
# What allocators and the workspaces of convolutions take on top: steps took 1.1 to 1.3 times what was counted (CPU).
_OVERHEAD = 1.15
_CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class StepCost:
    """What a training step needs.

    Attributes:
        parameters: numbers in the network.
        learnt: those that are not frozen.
        flops: floating point operations for each clip, forward and backward; a multiply-add is two.
        forward_flops: of the forward pass alone.
        fixed: bytes that do not depend on the batch.
        per_clip: bytes for each clip in memory at once.
    """

    parameters: int
    learnt: int
    flops: float
    forward_flops: float
    fixed: int
    per_clip: int

    @property
    def disk(self) -> int:
        """Bytes of the weights, and of a checkpoint: weights again, and the moments of what is learnt."""
        return 2 * _FLOAT * (self.parameters + self.learnt)

    def memory(self, batch_size: int) -> int:
        """Bytes at the peak of a step."""
        return self.fixed + batch_size * self.per_clip

    def largest_batch(self, available: int) -> int:
        """Clips that fit at once; 0 where not even one does."""
        return max((available - self.fixed) // self.per_clip, 0)


def training_cost(network: FusionNetworkSettings, frames: int, training: TrainingSettings, *, maps: bool) -> StepCost:
    """Count the cost of a step of this training on clips of T frames, or on the towers' maps of them."""
    chunk = training.recompute_frames
    return step_cost(
        network,
        frames,
        training.precision,
        freeze_towers=training.freeze_towers,
        recompute_frames=min(chunk, training.batch_size * frames) if chunk else None,
        maps=maps,
    )


@lru_cache(maxsize=8)
def step_cost(
    settings: FusionNetworkSettings,
    frames: int,
    precision: PrecisionName = "float32",
    *,
    freeze_towers: str | None = None,
    recompute_frames: int | None = None,
    maps: bool = False,
) -> StepCost:
    """Count the cost of a step of this network on clips of T frames.

    Args:
        settings: of the network.
        frames: T.
        precision: of the multiplications.
        freeze_towers: as in ``TrainingSettings``.
        recompute_frames: as in ``TrainingSettings``, and no more than a batch has.
        maps: the towers stay as they are and do not run; the network is given their maps.

    Raises:
        SettingsError: towers that cannot be frozen or recomputed so.
    """
    with FakeTensorMode():
        network = FusionNetwork(settings)
        network.freeze_towers("all" if maps else freeze_towers)
        network.recompute_towers(recompute_frames and _BATCH * frames)  # the sums are the same, and sooner found
        counts = _count(network, frames, precision, maps=maps)
        # A chunk of frames takes the same whatever the batch.
        chunk = _chunk_bytes(network, recompute_frames, precision) if recompute_frames and not maps else 0
        parameters = [parameter.numel() for parameter in network.parameters()]
        learnt = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    # Backward holds the gradient of the largest map beside that of its input.
    per_clip = int(_OVERHEAD * (counts.kept + 2 * counts.largest + counts.passing) / _BATCH)
    fixed = _FLOAT * (sum(parameters) + _LEARNING_COPIES * learnt) + int(_OVERHEAD * chunk)
    return StepCost(sum(parameters), learnt, counts.flops / _BATCH, counts.forward_flops / _BATCH, fixed, per_clip)


def free_memory(device: torch.device) -> int | None:
    """Bytes that a training could still take; none for a device that does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    available = psutil.virtual_memory().available
    for limit, usage in _CGROUP_LIMITS:
        # A container may have less than the machine.
        if Path(limit).is_file() and (text := Path(limit).read_text(encoding="ascii").strip()).isdigit():
            available = min(available, int(text) - int(Path(usage).read_text(encoding="ascii")))
    return int(available)


@dataclass(frozen=True)
class _Counts:
    flops: float
    forward_flops: float
    kept: int
    largest: int
    passing: int


class _Held:
    """Listens to what is held for the backward pass, and to what frozen layers hold while they run.

    Args:
        network: whose weights are not counted.
    """

    def __init__(self, network: FusionNetwork) -> None:
        self.passing = self.pictures = 0
        self._own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        self._sizes: dict[int, int] = {}
        self._held: list[Tensor] = []  # a storage that is gone could lend its number to another

    @property
    def kept(self) -> int:
        return sum(self._sizes.values())

    @property
    def largest(self) -> int:
        return max(self._sizes.values(), default=0)

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._sizes[storage._cdata] = storage.nbytes()
            self._held.append(tensor)
        return tensor

    def keep_input(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        """What a recomputation starts from is held by itself, not by autograd."""
        self.keep(given[0])

    def pass_by(self, _: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in (*given, made)}
        self.passing = max(self.passing, sum(storages.values()))

    def normalized(self, _: nn.Module, __: tuple[Tensor, ...], made: tuple[Tensor, ...]) -> None:
        """The pictures of both streams are there until the towers are done."""
        self.pictures = sum(tensor.untyped_storage().nbytes() for tensor in made)


@contextmanager
def _listening(network: FusionNetwork) -> Iterator[_Held]:
    held = _Held(network)
    with ExitStack() as hooks, torch.autograd.graph.saved_tensors_hooks(held.keep, lambda x: x):
        hooks.callback(network.normalizer.register_forward_hook(held.normalized).remove)
        for tower in network.towers:
            for layer in list(tower.features.children())[: tower.num_frozen]:
                hooks.callback(layer.register_forward_hook(held.pass_by).remove)
            if tower.recompute_frames and not tower.is_frozen:
                first = tower.features[tower.num_frozen]
                hooks.callback(first.register_forward_pre_hook(held.keep_input).remove)
        yield held


def _count(network: FusionNetwork, frames: int, precision: PrecisionName, *, maps: bool) -> _Counts:
    settings, chunks = network.settings, any(tower.recompute_frames for tower in network.towers)
    shapes, dtype = ((3, settings.image_size), (settings.flow_channels, settings.image_size)), torch.uint8
    if maps:  # of any precision; this one is the largest
        shapes, dtype = ((network.towers[0].out_channels, settings.map_size),) * 2, torch.float32
    rgb, flow = (torch.zeros(_BATCH, frames, channels, size, size, dtype=dtype) for channels, size in shapes)
    with FlopCounterMode(display=False) as counter, _listening(network) as held:
        with autocast(torch.device("cpu"), precision):
            logits = network(rgb, flow, maps=maps)
            forward_flops = counter.get_total_flops()
            loss = F.cross_entropy(logits, torch.zeros(_BATCH, dtype=torch.int64))
        loss.backward()  # type: ignore[no-untyped-call]
    passing = held.passing + held.pictures if held.passing and not chunks else 0  # else it is a chunk's
    return _Counts(counter.get_total_flops(), forward_flops, held.kept, held.largest, passing)


def _chunk_bytes(network: FusionNetwork, frames: int, precision: PrecisionName) -> int:
    """The most that so many frames take in a tower, forward and backward, while the others wait."""
    highest = 0
    for tower in network.towers:
        tower.recompute_frames = None  # as it is within a chunk
        with _listening(network) as held, autocast(torch.device("cpu"), precision):
            tower(torch.zeros(frames, tower.in_channels, *(2 * [network.settings.image_size])))
        highest = max(highest, held.kept + 2 * held.largest + held.passing)
    return highest
