"""Deep LSTM: five LSTMs on top of each other over features of each frame, an answer at every step.

    pictures [B, T, C, H, W] --backbone--> maps --read--> [B, T, F] --5 LSTMs--> [B, T, H] --> logits [B, T, K]

Later steps have seen more: their loss, and their part in the clip's scores, grows linearly from 0 to 1.

Source: Ng, Hausknecht, Vijayanarasimhan, Vinyals, Monga and Toderici 2015, section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.models.layer_norm_lstm import LayerNormLSTM, NormName
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.conv_pooling import CITATION
from actionfusion.models.systems.readout import Readout, ReadoutSettings
from actionfusion.models.systems.towers import Towers
from actionfusion.streams import StreamName


@dataclass(frozen=True)
class DeepLSTMSettings(ReadoutSettings):
    """Settings of the deep LSTM.

    Args:
        hidden: units of each LSTM; 512 in the paper.
        layers: LSTMs on top of each other; 5 in the paper.
        norm: none (plain LSTMs, the paper's), tf, gates, ba or batch; see models/layer_norm_lstm.py.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**ModelSettings.LEAST, "hidden": 1, "layers": 1}

    hidden: int = 128
    layers: int = 5
    norm: NormName = "none"

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of the paper's sizes for 30 frames, on an AlexNet.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {
            "frames": 30, "image_size": 220, "backbone": "karpathy", "pool": "none", "fc": (4096, 4096),
            "dropout": 0.6, "hidden": 512, "flow_input": "image", **changes,
        }  # fmt: skip
        return cls(num_classes=num_classes, **values)

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow backbone, two LSTMs and 32-pixel frames, which learn from scratch on a CPU.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return super().tiny(num_classes, **{"hidden": 32, "layers": 2, **changes})


class LSTMTower(nn.Module):
    """Read the maps of each frame, and run LSTMs over the clip.

    Args:
        settings: how.
        channels: D.
        side: height and width of the maps.
    """

    def __init__(self, settings: DeepLSTMSettings, channels: int, side: int) -> None:
        super().__init__()
        self.readout = Readout(settings, channels, side)
        widths = [self.readout.out_features, *[settings.hidden] * settings.layers]
        self.lstms = nn.Sequential(
            *(LayerNormLSTM(before, settings.hidden, norm=settings.norm) for before in widths[:-1])
        )
        self.answer = nn.Linear(settings.hidden, settings.num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[B, T, D, h, w]`` to logits ``[B, T, K]``."""
        logits: Tensor = self.answer(self.lstms(self.readout(maps)))
        return logits


class DeepLSTM(Towers):
    """The LSTM network of Ng et al. 2015.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = DeepLSTMSettings
    source: ClassVar[Source] = Source(
        CITATION,
        kept="five LSTMs, an answer at every step, and its weight in loss and scores, which grows over the clip; both "
        "streams, whose scores are averaged",
        differs="a light pretrained backbone, pooled, in place of GoogLeNet, which has no weights here, and 128 units; "
        "the original settings have 512, on Karpathy's AlexNet",
        published={"ucf101": "88.6 % (official splits; pretrained on Sports-1M, 30 frames, RGB and flow)"},
    )
    settings: DeepLSTMSettings

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make the LSTMs."""
        return LSTMTower(self.settings, channels, self.settings.side_of(stream))

    @property
    def memories(self) -> dict[str, LayerNormLSTM]:
        """The LSTMs of each stream, the lowest first."""
        towers = {stream: cast("LSTMTower", self.towers[stream]) for stream in self.reads}
        return {
            f"{stream}_{number}": cast("LayerNormLSTM", lstm)
            for stream, tower in towers.items()
            for number, lstm in enumerate(tower.lstms, 1)
        }

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Sum the clips' cross-entropies, a clip's the mean over streams of its steps' by their gain."""
        answers = logits.shape[1]
        each = F.cross_entropy(
            logits.flatten(0, 1), targets.repeat_interleave(answers), label_smoothing=smoothing, reduction="none"
        )
        gains = self.step_weights(answers // len(self.reads)).to(each).repeat(len(self.reads)) / len(self.reads)
        return (each.view(-1, answers) * gains).sum()

    def step_weights(self, steps: int) -> Tensor:
        """Weigh the steps of a clip by 0 for the first to the most for the last, 1 in sum."""
        gains = torch.linspace(0, 1, steps) if steps > 1 else torch.ones(1)
        return gains / gains.sum()
