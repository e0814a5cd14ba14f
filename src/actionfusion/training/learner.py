"""A network and the optimiser that changes it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from actionfusion.data.loading import Batch, Step
from actionfusion.models.model import VideoModel
from actionfusion.run_folder import misfitting_tensors
from actionfusion.training.distributed import Processes
from actionfusion.training.guards import refuse_bad_gradients, refuse_bad_loss
from actionfusion.training.measuring import Totals, autocast, totals_of
from actionfusion.training.settings import TrainingSettings

_SCALER = "scaler."


class Learner:
    """The network and its optimiser.

    Args:
        network: on the device that it is to train on.
        settings: how to learn.
        processes: that learn together.
    """

    def __init__(self, network: VideoModel, settings: TrainingSettings, processes: Processes | None = None) -> None:
        self.network, self.settings = network, settings
        self.device = next(network.parameters()).device
        self.processes = processes or Processes(str(self.device))
        if settings.channels_last:
            _lay_channels_last(network)
        self._wrapped = self.processes.wrap(network)
        # After the wrapping, so that the exchange of gradients is compiled too.
        self._model = torch.compile(self._wrapped) if settings.compile else self._wrapped
        self._wrapped.train()
        self.restart()

    def restart(self) -> None:
        """Forget what the optimiser has gathered: each stage starts without it."""
        self.optimizer = self._new_optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.settings.precision == "float16")

    def _new_optimizer(self) -> torch.optim.AdamW:
        # Decay belongs on weights that multiply features; gains, shifts and biases are left alone.
        backbone, decay = self.network.pretrained_parameters(), self.settings.weight_decay
        members: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            scale = self.settings.backbone_rate_scale if name in backbone else 1.0
            members.setdefault((scale, decay if parameter.ndim > 1 else 0.0), []).append(parameter)
        groups = [
            {"params": parameters, "weight_decay": decay, "rate_scale": scale}
            for (scale, decay), parameters in members.items()
        ]
        kernel = self.settings.optimizer_kernel
        if kernel == "auto":
            kernel = "fused" if self.device.type == "cuda" else "loop"
        # Without decay AdamW is Adam to the bit.
        return torch.optim.AdamW(
            groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=kernel == "fused", foreach=kernel == "foreach"
        )

    def step(self, step: Step, rate: float, *, labels: bool = True) -> Totals:
        """Learn from the batches of a step at a learning rate; they count as one batch, each clip alike.

        Args:
            step: the batches.
            rate: the learning rate.
            labels: learn the classes, not by the model's loss without them.

        Returns:
            Sums over the clips of all processes.

        Raises:
            TrainingError: loss or gradients are not finite, or the loss has exploded; the weights stay as they were.
        """
        # Only where need be: beside kept features, going through a frozen backbone's modules is a good part of a step.
        if not self.network.training:
            self._wrapped.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        self.optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes, and the step is to have the mean over all clips.
        weight = self.processes.share.processes / step.count if step.counted else 0.0
        totals = Totals()
        for batch in step.batches[:-1]:
            with self.processes.gradients_wait(self._wrapped):
                totals.add(self._backward(batch, weight, labels=labels))
        totals.add(self._backward(step.batches[-1], weight, labels=labels))
        self._update([name for batch in step.batches for name in batch.names])
        return self.processes.sum(totals if step.counted else Totals())

    def _backward(self, batch: Batch, weight: float, *, labels: bool) -> Totals:
        """Add a batch's part to the gradients."""
        targets, inputs = batch.targets.to(self.device, non_blocking=True), batch.arguments(self.device)
        with autocast(self.device, self.settings.precision):
            made = self._model(**inputs) if labels else self._model(**inputs, unlabelled=True)
            loss = self.network.loss(made, targets, self.settings.label_smoothing) if labels else made
            further = self.network.further_loss() if labels else None
        whole = loss if further is None else loss + further
        self.scaler.scale(whole * weight).backward()
        value = loss.item()
        classes = self.network.settings.num_classes
        refuse_bad_loss(value / len(targets), classes, self.settings.explosion, batch.names)
        return totals_of(self.network, value, made, targets) if labels else Totals(value, 0, len(targets))

    def _update(self, names: list[str]) -> None:
        self.scaler.unscale_(self.optimizer)
        # Without a limit this only measures.
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm or math.inf)
        # With float16 an overflow is no fault: the scaler passes over the step and scales less.
        if not self.scaler.is_enabled():
            refuse_bad_gradients(norm.item(), names)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def tensors(self) -> dict[str, Tensor]:
        """Collect what a checkpoint holds.

        Returns:
            Weights as ``network.<name>``, the optimiser's moments as ``optimizer.<name of the weight>:<moment>``, and
            the gradient scaler's state as ``scaler.<name>``, on the CPU.
        """
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}:{moment}"] = value
        for name, value in self.scaler.state_dict().items():
            tensors[f"{_SCALER}{name}"] = torch.tensor(value, dtype=torch.float64)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``tensors`` gave.

        Raises:
            ValueError: tensors of another network; names and shapes that differ are named.
        """
        own = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
        self.network.make_rows(own)
        if misfits := misfitting_tensors(own, self.network.state_dict()):
            raise ValueError(misfits)
        self.network.load_state_dict(own)
        self.restart()
        parameters = dict(self.network.named_parameters())
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                name, moment = key.removeprefix("optimizer.").rsplit(":", 1)
                self.optimizer.state[parameters[name]][moment] = self._placed(value, parameters[name], moment)
        scaler = self.scaler.state_dict()
        self.scaler.load_state_dict({name: type(value)(tensors[f"{_SCALER}{name}"]) for name, value in scaler.items()})

    def _placed(self, value: Tensor, parameter: nn.Parameter, moment: str) -> Tensor:
        """Put the moment where and how PyTorch itself would keep it: beside its weight and laid out like it."""
        if moment == "step":
            return value.to(parameter.device) if self.optimizer.defaults["fused"] else value
        return torch.empty_like(parameter).copy_(value)


def _lay_channels_last(network: nn.Module) -> None:
    # A convolution whose kernel is channels last gives maps that are channels last.
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
