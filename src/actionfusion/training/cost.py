"""Estimate memory and FLOPs of a training step without running it.

The network is run forward and back on tensors that have shapes but no values.  What autograd keeps is counted once for
each storage, and PyTorch's own counter has the floating point operations.  So what does not run (backbones whose
features are read, frozen layers' backward) is not counted, and what runs twice (recomputed activations) is counted
twice.

Memory is an estimate.  Where backbones are frozen or recomputed it adds up the highest marks of the forward and the
backward pass, though they do not come at the same time, and features count as float32, whatever they are kept as; steps
of a small network took 0.7 to 1.4 times the estimate then (CPU).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from actionfusion.models.model import VideoModel
from actionfusion.models.model_settings import ModelSettings
from actionfusion.streams import StreamName
from actionfusion.training.features import refuse_without_backbones
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
        trainable: those that are not frozen.
        flops: floating point operations for each clip, forward and backward; a multiply-add is two.
        forward_flops: of the forward pass alone.
        fixed: bytes that do not depend on the batch.
        per_clip: bytes for each clip in memory at once.
    """

    parameters: int
    trainable: int
    flops: float
    forward_flops: float
    fixed: int
    per_clip: int

    @property
    def disk(self) -> int:
        """Bytes of the weights, and of a checkpoint: weights again, and the moments of what is trained."""
        return 2 * _FLOAT * (self.parameters + self.trainable)

    def memory(self, batch_size: int) -> int:
        """Estimate the bytes at the peak of a step."""
        return self.fixed + batch_size * self.per_clip

    def largest_batch(self, available: int) -> int:
        """Count the clips that fit at once; 0 where not even one does."""
        return max((available - self.fixed) // self.per_clip, 0)


def training_cost(
    kind: type[VideoModel], network: ModelSettings, training: TrainingSettings, *, cached: bool
) -> StepCost:
    """Count the cost of a step of this training on clips, or on cached features of them."""
    chunk = training.recompute_frames
    return step_cost(
        kind,  # type: ignore[arg-type]  # a class can be hashed
        network,
        training.precision,
        freeze=training.freeze,
        recompute_frames=min(chunk, training.batch_size * network.frames) if chunk else None,
        cached=cached,
    )


@lru_cache(maxsize=8)
def step_cost(
    kind: type[VideoModel],
    settings: ModelSettings,
    precision: PrecisionName = "float32",
    *,
    freeze: str | None = None,
    recompute_frames: int | None = None,
    cached: bool = False,
) -> StepCost:
    """Count the cost of a step of this model on its clips.

    Args:
        kind: the model's class.
        settings: of the model.
        precision: of the multiplications.
        freeze: as in ``TrainingSettings``.
        recompute_frames: as in ``TrainingSettings``, and no more than a batch has.
        cached: the backbones stay as they are and do not run; the model is given their features.

    Raises:
        SettingsError: backbones that cannot be frozen or recomputed so.
    """
    with FakeTensorMode():
        network = kind(settings)
        if cached and network.exportable:  # else its features are the clips themselves
            refuse_without_backbones(network)
        if network.backbones or not cached:
            network.freeze_backbones("all" if cached else freeze)
        # The sums are the same, and sooner found.
        network.recompute_backbones(recompute_frames and _BATCH * settings.frames)
        counts = _count(network, precision, cached=cached)
        # A chunk of frames takes the same whatever the batch.
        chunk = _chunk_bytes(network, recompute_frames, precision) if recompute_frames and not cached else 0
        parameters = [parameter.numel() for parameter in network.parameters()]
        trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    # Backward holds the gradient of the largest map beside that of its input.
    per_clip = int(_OVERHEAD * (counts.kept + 2 * counts.largest + counts.passing) / _BATCH)
    fixed = _FLOAT * (sum(parameters) + _LEARNING_COPIES * trainable) + int(_OVERHEAD * chunk)
    return StepCost(sum(parameters), trainable, counts.flops / _BATCH, counts.forward_flops / _BATCH, fixed, per_clip)


def free_memory(device: torch.device) -> int | None:
    """Find the bytes that a training could still take; none for a device that does not say."""
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

    def __init__(self, network: VideoModel) -> None:
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
        """Count what a recomputation starts from, which autograd does not hold."""
        self.keep(given[0])

    def pass_by(self, _: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in (*given, made)}
        self.passing = max(self.passing, sum(storages.values()))

    def normalized(self, _: nn.Module, __: tuple[Tensor, ...], made: Tensor) -> None:
        """Count the pictures of a stream, which are there until its backbone is done."""
        self.pictures = max(self.pictures, made.untyped_storage().nbytes())


@contextmanager
def _listening(network: VideoModel) -> Iterator[_Held]:
    held = _Held(network)
    with ExitStack() as hooks, torch.autograd.graph.saved_tensors_hooks(held.keep, lambda x: x):
        for normalizer in network.normalizers.values():
            hooks.callback(normalizer.register_forward_hook(held.normalized).remove)
        for backbone in network.all_backbones().values():
            for layer in backbone.units[: backbone.num_frozen]:
                hooks.callback(layer.register_forward_hook(held.pass_by).remove)
            if backbone.recompute_frames and not backbone.is_frozen:
                first = backbone.units[backbone.num_frozen]
                hooks.callback(first.register_forward_pre_hook(held.keep_input).remove)
        yield held


def _count(network: VideoModel, precision: PrecisionName, *, cached: bool) -> _Counts:
    chunks = any(backbone.recompute_frames for backbone in network.all_backbones().values())
    clips: dict[StreamName, Tensor] = {
        stream: torch.zeros(_BATCH, network.settings.frames, *network.settings.shape_of(stream), dtype=torch.uint8)
        for stream in network.reads
    }
    given: dict[str, Any] = (
        {"features": network.features(clips)} if cached else {str(name): clip for name, clip in clips.items()}
    )
    with FlopCounterMode(display=False) as counter, _listening(network) as held:
        for tensor in given.get("features", {}).values():
            held.keep(tensor)  # the batch is there until the step is done, whatever backward needs of it
        with autocast(torch.device("cpu"), precision):
            logits = network(**given)
            forward_flops = counter.get_total_flops()
            loss = network.loss(logits, torch.zeros(_BATCH, dtype=torch.int64))
        loss.backward()  # type: ignore[no-untyped-call]
    passing = held.passing + held.pictures if held.passing and not chunks else 0  # else it is a chunk's
    return _Counts(counter.get_total_flops(), forward_flops, held.kept, held.largest, passing)


def _chunk_bytes(network: VideoModel, frames: int, precision: PrecisionName) -> int:
    """Count the most that so many frames take in a backbone, forward and backward, while the others wait."""
    highest = 0
    for stream, backbone in network.all_backbones().items():
        backbone.recompute_frames = None  # as it is within a chunk
        with _listening(network) as held, autocast(torch.device("cpu"), precision):
            backbone(torch.zeros(frames, *network.settings.shape_of(stream)))
        highest = max(highest, held.kept + 2 * held.largest + held.passing)
    return highest
