"""AdaScan: frames are pooled one by one, each by how much it adds to what the ones before have shown.

    percepts x [B, T, F]    g = sigmoid(MLP(x - p)),    p = (G p + g x) / (G + g),    G = G + g
    the last p --to length 1--> logits [B, 1, K]

The weights g are `attention`, which `explain` draws.  A further loss, the entropy of softmax(g), asks for few frames.

Source: Kar, Rai, Sikka and Sharma 2017, and their published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.models.model import Features
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.frame_towers import PerceptSettings, PerceptTowers
from actionfusion.streams import StreamName

_LEAST_WEIGHT = 1e-6  # where float32's sigmoid is 0, the weights of a clip would sum to 0


@dataclass(frozen=True)
class AdaScanSettings(PerceptSettings):
    """Settings of AdaScan.  The defaults are for real use on a light backbone.

    Args:
        frames: T, sampled frames of a clip; the network takes any number.
        pool: average or max over all positions of a map, or fc6, the first fully connected layer of a VGG (the paper).
        wide: units of the first layer that weighs a frame (2048 in the paper).
        narrow: units of the second (512 in the paper).
        peak: weight of the entropy of a clip's weights in the loss.  The published code has 1e6, to be tuned; of few
            clips 0.1 leaves one frame with any weight.
        dropout: share of the pooled vector that training drops.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**PerceptSettings.LEAST, "wide": 1, "narrow": 1, "peak": 0}
    SHARES: ClassVar[tuple[str, ...]] = (*PerceptSettings.SHARES, "dropout")

    wide: int = 256
    narrow: int = 64
    peak: float = 0.01
    dropout: float = 0.25

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of the paper's sizes: fc6 of two VGG-16, of 25 frames and ten flow fields.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        sizes = {"frames": 25, "flow_channels": 20, "backbone": "vgg16", "pool": "fc6", "wide": 2048, "narrow": 512}
        return cls(num_classes=num_classes, **{**sizes, "peak": 1e6, "dropout": 0.5, **changes})

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of narrow backbones and 64-pixel frames, which learn from scratch on a CPU.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        small = {"image_size": 64, "backbone": "narrow", "batch_norm": True, "pool": "max", "wide": 32, "narrow": 16}
        return cls(num_classes=num_classes, **{**small, "dropout": 0.0, **changes})


class AdaptiveScan(nn.Module):
    """Pool frames by weights that follow from what they add.

    Args:
        width: F of the percepts.
        settings: its sizes.

    Attributes:
        weights: of the last clips in training, ``[B, T]``, for the further loss.
    """

    def __init__(self, width: int, settings: AdaScanSettings) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Linear(width, settings.wide),
            nn.Tanh(),
            nn.Linear(settings.wide, settings.narrow),
            nn.Tanh(),
            nn.Linear(settings.narrow, 1),
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.answer = nn.Linear(width, settings.num_classes)
        self.weights: Tensor | None = None

    def scan(self, percepts: Tensor) -> tuple[Tensor, Tensor]:
        """Scan percepts ``[B, T, F]``.

        Returns:
            The pooled vector ``[B, F]``, and the weights ``[B, T]``, in (0, 1].
        """
        pooled, total, weights = percepts[:, 0], percepts.new_zeros(percepts.shape[0], 1), list[Tensor]()
        for percept in percepts.unbind(1):
            added = percept - pooled
            weight = torch.sigmoid(self.weigh(added)).clamp_min(_LEAST_WEIGHT)
            total = total + weight
            pooled = pooled + weight / total * added
            weights.append(weight)
        return pooled, torch.cat(weights, 1)

    def forward(self, percepts: Tensor) -> Tensor:
        """Make logits ``[B, 1, K]``."""
        pooled, weights = self.scan(percepts)
        self.weights = weights if self.training else None
        logits: Tensor = self.answer(self.dropout(F.normalize(pooled, dim=1)))
        return logits[:, None]


class AdaScan(PerceptTowers):
    """AdaScan of Kar et al. 2017, a network for each stream.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = AdaScanSettings
    source: ClassVar[Source] = Source(
        "Kar, Rai, Sikka and Sharma, AdaScan: adaptive scan pooling in deep convolutional neural networks for human "
        "action recognition in videos, CVPR 2017",
        kept="the scan, the layers that weigh a frame, the entropy in the loss, and the pooled vector's length of 1",
        differs="frames are a backbone's pooled map where the paper has VGG-16's fc6; the first frame counts as the "
        "others do, which the published code drops by giving it no weight",
        published={
            "ucf101": "89.4 % (official splits; 91.6 % after a fix of the code, 91.3 % and 93.1 % with improved "
            "trajectories)"
        },
    )
    settings: AdaScanSettings

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make the scan of a stream's percepts."""
        del stream
        return AdaptiveScan(channels, self.settings)

    def further_loss(self) -> Tensor | None:
        """Give the entropy of the frames' weights, the mean over the streams as of the answers."""
        weights = self.take_weights()
        if not weights or not self.settings.peak:
            return None
        logs = torch.stack(weights).log_softmax(-1)
        return -self.settings.peak * (logs.exp() * logs).sum() / len(weights)

    def attention(self, features: Features) -> dict[str, Tensor]:
        """Give the shares ``[B, T]`` of the frames in the pooled vector of each stream."""
        found = {}
        for stream, maps in self.stream_maps(features).items():
            _, weights = cast("AdaptiveScan", self.towers[stream]).scan(self.read(stream, maps))
            found[f"weight, {stream}"] = weights / weights.sum(1, keepdim=True)
        return found
