"""How a process that reads videos hands its batches over: in shared memory, or through a pipe where that is too small.

Shared memory is /dev/shm on Linux, of which a container has 64 MB as a rule.  PyTorch would only find out in a thread
that sends what is ready, and the training would wait for ever.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, get_worker_info

from actionfusion.data.workers import interrupts_held_back
from actionfusion.process import leave_stops_to_parent
from actionfusion.terminal import Console, Text

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# PyTorch passes a descriptor for each tensor; a process has others too.
_OWN_DESCRIPTORS, _OF_A_WORKER = 64, 16
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  not a temporary file of ours
THROUGH_A_PIPE = "note: batches come through a pipe, which is slower, since "
_SEMAPHORES = 1 << 18  # bytes of it, more than the queues of a loader need


@dataclass(frozen=True)
class Piped:
    """A batch whose tensors go through a pipe.

    Attributes:
        whole: the batch without its tensors.
        tensors: as arrays of bytes, with type and shape, by name.
        reason: why it does not go through shared memory.
    """

    whole: Any
    tensors: Mapping[str, tuple[Any, torch.dtype, tuple[int, ...]]]
    reason: str

    def unpacked(self) -> Any:
        """Build the batch again."""
        parts = self.tensors.items()
        return self.whole.rebuilt(
            {name: torch.from_numpy(data).view(kind).reshape(shape) for name, (data, kind, shape) in parts}
        )


class Handover:
    """Makes a batch of samples in a worker, and chooses its way to the parent.

    Args:
        collate: makes the batch, or an error that is handed on as it is.
        workers: how many there are.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], Any], workers: int) -> None:
        self._collate, self._workers = collate, workers
        self._few = resource is not None and 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < (
            _OWN_DESCRIPTORS + _OF_A_WORKER * workers
        )

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Make a batch, ready to be sent."""
        batch = self._collate(samples)
        if get_worker_info() is None or not hasattr(batch, "tensors"):
            return batch
        if self._few:
            return _piped(batch, "this process may open few files (ulimit -n)")
        if (short := lack_of_shared_memory(batch, self._workers)) is None:
            try:
                for tensor in batch.tensors().values():
                    tensor.share_memory_()
            except (RuntimeError, OSError):
                short = _too_small("")
            else:
                return batch
        return _piped(batch, short)


def lack_of_shared_memory(batch: Any, workers: int) -> str | None:
    """Say that shared memory is too small for such batches as so many workers have on the way; None if it is not."""
    # Each worker may have two more on the way.  Where memory runs out, PyTorch leaves a file there for ever.
    size = sum(tensor.nbytes for tensor in batch.tensors().values())
    wanted, free = size * (2 * workers + 1) + _SEMAPHORES, _free()
    if not workers or free is None or free >= wanted:
        return None
    return _too_small(f", {free / 1e6:.0f} MB free of {wanted / 1e6:.0f} MB wanted")


def _too_small(room: str) -> str:
    return f"{_SHARED_MEMORY} is too small{room} (docker: --shm-size)"


def _free() -> int | None:
    """Count the bytes of shared memory that are free; None where they cannot be counted."""
    try:
        return shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return None


def _piped(batch: Any, reason: str) -> Piped:
    tensors = {
        name: (tensor.contiguous().reshape(-1).view(torch.uint8).numpy().copy(), tensor.dtype, tuple(tensor.shape))
        for name, tensor in batch.tensors().items()
    }
    return Piped(batch.rebuilt(dict.fromkeys(tensors)), tensors, reason)


def load(loader: DataLoader[Any], *, pin: bool = False) -> Iterator[Any]:
    """Yield a loader's batches as they were made, whichever way they came.

    Args:
        loader: with a `Handover` that collates, and `init_worker`.
        pin: whether batches are in page-locked memory.
    """
    if loader.num_workers and sys.platform == "linux" and (_free() or 0) < _SEMAPHORES:
        _say_once(f"note: videos are read in this process, since {_SHARED_MEMORY} has no room for others")
        loader = DataLoader(
            loader.dataset,
            batch_sampler=loader.batch_sampler,
            collate_fn=loader.collate_fn,
            generator=loader.generator,
        )
    with interrupts_held_back():  # Workers start here.
        batches = iter(loader)
    for batch in batches:
        if isinstance(batch, Piped):
            _say_once(f"{THROUGH_A_PIPE}{batch.reason}")
            unpacked = batch.unpacked()
            yield unpacked.pin_memory() if pin else unpacked
        else:
            yield batch


_said: set[str] = set()


def _say_once(line: str) -> None:
    if not _said:
        _said.add(line)
        Console(stderr=True).print(Text(line), soft_wrap=True)


def init_worker(worker: int) -> None:  # noqa: ARG001
    """Begin a worker: the training decides what becomes of a signal, and ends its workers."""
    leave_stops_to_parent()
    # The workers are the parallelism; threads inside each would only fight over the cores.
    cv2.setNumThreads(0)
