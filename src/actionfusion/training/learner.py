"""A network and the optimiser that changes it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actionfusion.data.loading import Batch
from actionfusion.models.fusion_network import FusionNetwork
from actionfusion.models.pretrained import imagenet_targets
from actionfusion.run_folder import misfitting_tensors
from actionfusion.training.guards import refuse_bad_gradients, refuse_bad_loss
from actionfusion.training.measuring import Totals, totals_of
from actionfusion.training.settings import TrainingSettings


class Learner:
    """The network and its optimiser.

    Args:
        network: on the device that it is to train on.
        settings: how to learn.
    """

    def __init__(self, network: FusionNetwork, settings: TrainingSettings) -> None:
        self.network, self.settings = network, settings
        self.optimizer = self._new_optimizer()

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def restart(self) -> None:
        """Forget what the optimiser has gathered: each session starts without it."""
        self.optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.AdamW:
        # Decay belongs on weights that multiply features; gains, shifts and biases are left alone.
        backbone, decay = imagenet_targets(self.network), self.settings.weight_decay
        members: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            scale = self.settings.backbone_rate_scale if name in backbone else 1.0
            members.setdefault((scale, decay if parameter.ndim > 1 else 0.0), []).append(parameter)
        groups = [
            {"params": parameters, "weight_decay": decay, "rate_scale": scale}
            for (scale, decay), parameters in members.items()
        ]
        # Without decay AdamW is Adam to the bit.
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)

    def tensors(self) -> dict[str, Tensor]:
        """Weights as ``network.<name>`` and the optimiser's moments as ``optimizer.<name of the weight>:<moment>``."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}:{moment}"] = value
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``tensors`` gave.

        Raises:
            ValueError: tensors of another network; names and shapes that differ are named.
        """
        own = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
        if misfits := misfitting_tensors(own, self.network.state_dict()):
            raise ValueError(misfits)
        self.network.load_state_dict(own)
        self.optimizer = self._new_optimizer()
        parameters = dict(self.network.named_parameters())
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                name, moment = key.removeprefix("optimizer.").rsplit(":", 1)
                self.optimizer.state[parameters[name]][moment] = _like(value, parameters[name], moment)

    def step(self, batch: Batch, rate: float) -> Totals:
        """Learn from a batch at a learning rate.

        Raises:
            TrainingError: loss or gradients are not finite, or the loss has exploded; the weights stay as they were.
        """
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        targets = batch.targets.to(self.device, non_blocking=True)
        rgb, flow = (tensor.to(self.device, non_blocking=True) for tensor in (batch.rgb, batch.flow))
        logits = self.network(rgb, flow)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        # Without a limit this only measures.
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm or math.inf)
        value = loss.item()
        refuse_bad_loss(value, self.network.settings.num_classes, self.settings.explosion, batch.names)
        refuse_bad_gradients(norm.item(), batch.names)
        self.optimizer.step()
        return totals_of(value, logits, targets)


def _like(value: Tensor, parameter: Tensor, moment: str) -> Tensor:
    """The moment where and how PyTorch itself would keep it: beside its weight, the count of steps on the CPU."""
    return value if moment == "step" else torch.empty_like(parameter).copy_(value)
