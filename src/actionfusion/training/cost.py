"""What a step costs in memory and arithmetic, found without doing it.

The network is run forward and back on tensors that have shapes but no values.  What autograd keeps is counted once for
each storage, and PyTorch's own counter has the floating point operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.training.measuring import autocast
from actionfusion.training.settings import PrecisionName

_BATCH = 8  # clips that are counted at once; what does not grow with them is then a small share
_FLOAT = 4
_COPIES = 4  # weights, gradients, and two moments of Adam
_CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class StepCost:
    """What a training step needs.

    Attributes:
        parameters: numbers that are learnt.
        flops: floating point operations for each clip, forward and backward; a multiply-add is two.
        forward_flops: of the forward pass alone.
        fixed: bytes that do not depend on the batch.
        per_clip: bytes for each clip in memory at once.
    """

    parameters: int
    flops: float
    forward_flops: float
    fixed: int
    per_clip: int

    def memory(self, batch_size: int) -> int:
        """Bytes at the peak of a step."""
        return self.fixed + batch_size * self.per_clip

    def largest_batch(self, available: int) -> int:
        """Clips that fit at once; 0 where not even one does."""
        return max((available - self.fixed) // self.per_clip, 0)


@lru_cache(maxsize=8)
def step_cost(settings: FusionNetworkSettings, frames: int, precision: PrecisionName = "float32") -> StepCost:
    """Count the cost of a step of this network on clips of T frames."""
    counts = _count(settings, frames, _BATCH, precision)
    # Backward holds the gradient of the largest map beside that of its input.
    per_clip = (counts.kept + 2 * counts.largest) // _BATCH
    fixed = _COPIES * _FLOAT * counts.parameters
    return StepCost(counts.parameters, counts.flops / _BATCH, counts.forward_flops / _BATCH, fixed, per_clip)


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
    parameters: int
    flops: float
    forward_flops: float
    kept: int
    largest: int


def _count(settings: FusionNetworkSettings, frames: int, batch_size: int, precision: PrecisionName) -> _Counts:
    sizes: dict[int, int] = {}
    held: list[Tensor] = []  # a storage that is gone could lend its number to another
    with FakeTensorMode():
        network = FusionNetwork(settings)
        own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                sizes[storage._cdata] = storage.nbytes()
                held.append(tensor)
            return tensor

        shape = (batch_size, frames, 3, settings.image_size, settings.image_size)
        rgb = torch.zeros(shape, dtype=torch.uint8)
        flow = torch.zeros((*shape[:2], settings.flow_channels, *shape[3:]), dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            with autocast(torch.device("cpu"), precision):
                logits = network(rgb, flow)
                forward_flops = counter.get_total_flops()
                loss = F.cross_entropy(logits, torch.zeros(batch_size, dtype=torch.int64))
            loss.backward()  # type: ignore[no-untyped-call]
        parameters = sum(parameter.numel() for parameter in network.parameters())
    return _Counts(parameters, counter.get_total_flops(), forward_flops, sum(sizes.values()), max(sizes.values()))
