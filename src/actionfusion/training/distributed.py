"""The processes that learn together: one alone, or several that ``torchrun`` has started.

Each process has the whole network and a part of every step; gradients are averaged, figures summed, and the main
process alone writes.  Hugging Face accelerate picks devices and backend and wraps the network; nothing of it is loaded
where one process works alone.

Batch norm: on GPUs its statistics are those of all processes together; on CPUs, where PyTorch has no such layer, each
process normalises by its own clips and the main one's running statistics are kept.  Dropout: each process draws its
own masks.
"""

from __future__ import annotations

import atexit
import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from actionfusion.data.loading import WHOLE, Share
from actionfusion.devices import find_device
from actionfusion.errors import SettingsError
from actionfusion.training.measuring import Totals

if TYPE_CHECKING:
    from accelerate import Accelerator

_SEED_STEP = 1_000_003


class Processes:
    """This process, alone on its device.

    Args:
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.

    Raises:
        SettingsError: a device that there is not.

    Attributes:
        share: which part of each step is this process's.
        beside: processes on this machine.
    """

    share: Share = WHOLE
    beside: int = 1

    def __init__(self, device: str | None = None) -> None:
        self.device = find_device(device)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and talks."""
        return self.share.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """Wrap the network as it is to be called to learn."""
        return network

    def gradients_wait(self, model: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002
        """Leave the gradients of backward to this process: more batches of the step are to come."""
        return nullcontext()

    def sum(self, totals: Totals) -> Totals:
        """Sum totals over all processes."""
        return totals

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Collect the tensor of each process, on the CPU."""
        return [tensor.cpu()]

    def agree(self, network: nn.Module) -> None:
        """Give the main process's weights and running statistics to all."""

    def draw_apart(self, seed: int) -> None:
        """Let each process draw random numbers of its own from here on."""

    def wait(self) -> None:
        """Wait until all processes are here."""


class TorchrunProcesses(Processes):
    """One of the processes that ``torchrun`` has started.

    Args:
        device: cpu or cuda (each process takes a GPU of its own); none takes GPUs where there are any.

    Raises:
        SettingsError: a device that there is not, or that several processes cannot share.
    """

    def __init__(self, device: str | None = None) -> None:
        if device not in {None, "cpu", "cuda"}:
            raise SettingsError("device", f"{device} for several processes", "take cpu or cuda, or leave it out")
        find_device(device)
        # Imported while there is a group, it would hold the group and its threads until Python ends (see `_leave`).
        import torch._dynamo  # noqa: PLC0415
        from accelerate import Accelerator  # noqa: PLC0415

        self._accelerator: Accelerator = Accelerator(cpu=device == "cpu" or not torch.cuda.is_available())
        atexit.register(_leave, self._accelerator)
        super().__init__(str(self._accelerator.device))
        self.share = Share(self._accelerator.process_index, self._accelerator.num_processes)
        self.beside = int(os.environ.get("LOCAL_WORLD_SIZE", self.share.processes))

    def wrap(self, network: nn.Module) -> nn.Module:
        """See `Processes.wrap`."""
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        model: nn.Module = self._accelerator.prepare_model(network)
        return model

    def gradients_wait(self, model: nn.Module) -> AbstractContextManager[None]:
        """See `Processes.gradients_wait`."""
        waiting: AbstractContextManager[None] = self._accelerator.no_sync(model)
        return waiting

    def sum(self, totals: Totals) -> Totals:
        """See `Processes.sum`."""
        own = torch.tensor([totals.loss, totals.correct, totals.count], dtype=torch.float64, device=self.device)
        loss, correct, count = self._accelerator.reduce(own, reduction="sum").tolist()
        return Totals(loss, int(correct), int(count))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """See `Processes.gather`."""
        gathered: Tensor = self._accelerator.gather(tensor.to(self.device)[None])
        return list(gathered.cpu())

    def agree(self, network: nn.Module) -> None:
        """See `Processes.agree`."""
        from accelerate.utils import broadcast  # noqa: PLC0415

        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.copy_(broadcast(tensor.clone()))

    def draw_apart(self, seed: int) -> None:
        """See `Processes.draw_apart`; the main process draws what one process alone would."""
        if not self.main:
            torch.manual_seed(seed + _SEED_STEP * self.share.rank)

    def wait(self) -> None:
        """See `Processes.wait`."""
        self._accelerator.wait_for_everyone()


def _leave(accelerator: Accelerator) -> None:
    """End the group and its threads: one that is still at work while Python ends would abort a run that is written."""
    accelerator.free_memory()  # The wrapped network holds the group.
    accelerator.end_training()


def find_processes(device: str | None = None) -> Processes:
    """Find out whether this is one of several processes under ``torchrun``, or one alone.

    Raises:
        SettingsError: a device that there is not, or that several processes cannot share.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return TorchrunProcesses(device) if several else Processes(device)
