"""What the trials of ``light_heads.py`` change in the network: where the backbone ends, what of it learns, the loss."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from actionfusion.models.backbones.efficientnet_lite import STAGES, EfficientNetLite0
from actionfusion.models.fusion_network import FusionNetwork
from actionfusion.models.model import Features

BEFORE_LAST = "blocks.5"


def differences(clips: Tensor) -> Tensor:
    """Subtract each frame of ``[B, T, ...]`` from the next; the last has the change before it."""
    found = clips.diff(dim=1)
    return torch.cat((found, found[:, -1:]), 1)


class _UpTo(EfficientNetLite0):
    last: ClassVar[int]

    def __init__(self, in_channels: int, *, batch_norm: bool = True) -> None:
        super().__init__(in_channels, batch_norm=batch_norm)
        del self.blocks[self.last + 1 :]


class Stride16(_UpTo):
    """The stages with a position for each 16 pixels."""

    last, out_channels, stride = 4, STAGES[4].width, 16


class BeforeLast(_UpTo):
    """All stages but the last."""

    last, out_channels = 5, STAGES[5].width


class WithChanges(EfficientNetLite0):
    """Of as many channels as the map and its change from frame to frame have."""

    out_channels = 2 * STAGES[-1].width


class OfDifferences(EfficientNetLite0):
    """Reads the difference of each frame to the next."""

    def forward(self, pictures: Tensor) -> Tensor:
        """Map the frames ``[N, C, H, W]`` of clips of eight."""
        return super().forward(differences(pictures.unflatten(0, (-1, 8))).flatten(0, 1))


BACKBONES = {
    f"lite0_{name}": f"{__name__}:{kind.__name__}"
    for name, kind in {
        "stride16": Stride16,
        "before_last": BeforeLast,
        "with_changes": WithChanges,
        "of_differences": OfDifferences,
    }.items()
}


class LastStageLearns(FusionNetwork):
    """Reads features of ``BeforeLast``, and learns what comes after them; batch norm keeps ImageNet's statistics."""

    norm_learns: ClassVar[bool] = False

    def freeze_backbones(self, through: str | None) -> None:
        """Start from ImageNet, and freeze what comes before the last stage."""
        del through
        self.load_pretrained("imagenet", flow_start="mean")
        super().freeze_backbones(BEFORE_LAST)

    def train(self, mode: bool = True) -> Self:
        """Keep batch norm in evaluation, unless it is to learn."""
        super().train(mode)
        for module in self.backbones.modules():
            if isinstance(module, nn.BatchNorm2d) and not self.norm_learns:
                module.eval().requires_grad_(requires_grad=False)
        return self

    def classify(self, features: Features) -> Tensor:
        """Run the last stage on ``[B, T, 192, h, w]``, then the head."""
        grown = {}
        for stream, maps in features.items():
            backbone = self.all_backbones()[stream]
            values = maps.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            for unit in backbone.units[backbone.stage_ends[BEFORE_LAST] :]:
                values = unit(values)
            grown[stream] = values.unflatten(0, maps.shape[:2])
        return super().classify(grown)


class LastStageAndNormLearn(LastStageLearns):
    """Takes the statistics of batch norm from the clips too."""

    norm_learns = True


class Mixed(FusionNetwork):
    """Learns from mixtures of two clips (mixup, Zhang et al. 2018), with shares of a Beta(0.2, 0.2)."""

    _order: Tensor | None = None
    _share = 1.0

    def classify(self, features: Features) -> Tensor:
        """Mix the clips of a batch while it learns."""
        self._order = None
        if self.training:
            count = len(next(iter(features.values())))
            self._order, self._share = torch.randperm(count), float(torch.distributions.Beta(0.2, 0.2).sample())
            features = {
                stream: self._share * maps + (1 - self._share) * maps[self._order] for stream, maps in features.items()
            }
        return super().classify(features)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Weigh the loss for both clips' classes by their shares."""
        own = super().loss(logits, targets, smoothing)
        if self._order is None:
            return own
        return self._share * own + (1 - self._share) * super().loss(logits, targets[self._order], smoothing)
