"""Composite LSTM: an encoder that learned to tell a clip's past backwards and its future, then classifies.

    first stage, without labels:   percepts 1..n --encoder--> state --+--past decoder----> n, n - 1, ..., 1
                                                                      +--future decoder--> n + 1, ..., T
    then:                          percepts 1..T --encoder--> [B, T, hidden] --> logits [B, T, K]

Each decoder starts from the encoder's last state and reads what it has just told.  The second stage starts from the
encoder, answers at every step, and leaves the decoders as they are.

Source: Srivastava, Mansimov and Salakhutdinov 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.models.layer_norm_lstm import LayerNormLSTM, State
from actionfusion.models.model import Features
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.frame_towers import PerceptSettings, PerceptTowers
from actionfusion.streams import StreamName


@dataclass(frozen=True)
class CompositeLSTMSettings(PerceptSettings):
    """Settings of the composite LSTM.  The defaults are for real use on a light backbone.

    Args:
        frames: T, sampled frames of a clip; the network takes any number.
        pool: average or max over all positions of a map, or fc6, the first fully connected layer of a VGG (the paper).
        hidden: units of the encoder and of each decoder (2048 in the paper).
        future: frames at the clip's end that are foretold, at most half of the clip (13 of 29 in the paper).
        unlabelled_epochs: of the first stage; 0 leaves it out, and the decoders with it.
        dropout: share of the encoder's outputs that training drops before the answer.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {
        **PerceptSettings.LEAST, "hidden": 1, "future": 0, "unlabelled_epochs": 0,
    }  # fmt: skip
    SHARES: ClassVar[tuple[str, ...]] = (*PerceptSettings.SHARES, "dropout")

    hidden: int = 256
    future: int = 3
    unlabelled_epochs: int = 20
    dropout: float = 0.5

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of the paper's sizes: fc6 of two VGG-16, 16 frames told backwards and 13 foretold.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        sizes = {"frames": 29, "flow_channels": 20, "backbone": "vgg16", "pool": "fc6", "hidden": 2048, "future": 13}
        return cls(num_classes=num_classes, **{**sizes, **changes})

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of narrow backbones and 64-pixel frames, which learn from scratch on a CPU.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        small = {"image_size": 64, "backbone": "narrow", "batch_norm": True, "pool": "max", "hidden": 32}
        return cls(num_classes=num_classes, **{**small, "unlabelled_epochs": 1, "dropout": 0.0, **changes})


class Decoder(nn.Module):
    """Tell frames one by one, each from the one before.

    Args:
        width: F of the percepts.
        hidden: units.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lstm = LayerNormLSTM(width, hidden, norm="none")
        self.tell = nn.Linear(hidden, width)

    def forward(self, given: Tensor, state: State, steps: int) -> Tensor:
        """Tell ``[B, steps, F]``, from what is read first, ``[B, F]``, and the encoder's state."""
        told = []
        for _ in range(steps):
            state, _ = self.lstm.step(self.lstm.project(given), state, steps)
            given = self.tell(state[0])
            told.append(given)
        return torch.stack(told, 1)


class CompositeTower(nn.Module):
    """The encoder of a stream with its answer, and the decoders.

    Args:
        width: F of the percepts.
        settings: sizes.
    """

    def __init__(self, width: int, settings: CompositeLSTMSettings) -> None:
        super().__init__()
        self.future = settings.future
        self.encoder = LayerNormLSTM(width, settings.hidden, norm="none")
        names = (["past", "future"] if settings.future else ["past"]) if settings.unlabelled_epochs else []
        self.decoders = nn.ModuleDict({name: Decoder(width, settings.hidden) for name in names})
        self.dropout = nn.Dropout(settings.dropout)
        self.answer = nn.Linear(settings.hidden, settings.num_classes)

    def forward(self, percepts: Tensor) -> Tensor:
        """Make logits ``[B, T, K]``."""
        logits: Tensor = self.answer(self.dropout(self.encoder(_normed(percepts))))
        return logits

    def unlabelled_loss(self, percepts: Tensor) -> Tensor:
        """Sum over the clips the mean squared error of all that the decoders tell of percepts ``[B, T, F]``."""
        percepts = _normed(percepts)
        foretold = min(self.future, percepts.shape[1] // 2)
        seen, future = percepts.tensor_split([percepts.shape[1] - foretold], 1)
        state = self.encoder.start(seen)
        for step in self.encoder.project(seen).unbind(1):
            state, _ = self.encoder.step(step, state, seen.shape[1])
        # The past is told from nothing, since its first frame is the last one seen; the future begins from that.
        told = [self.decoders["past"](torch.zeros_like(seen[:, 0]), state, seen.shape[1])]
        if foretold:
            told.append(self.decoders["future"](seen[:, -1], state, foretold))
        # Backbones that learn are not to make their features easy to tell.
        wanted = torch.cat((seen.flip(1), future), 1).detach()
        return (torch.cat(told, 1) - wanted).square().mean((1, 2)).sum()


def _normed(percepts: Tensor) -> Tensor:
    return F.layer_norm(percepts, percepts.shape[-1:])


class CompositeLSTM(PerceptTowers):
    """The composite LSTM of Srivastava et al. 2015, a network for each stream.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = CompositeLSTMSettings
    source: ClassVar[Source] = Source(
        "Srivastava, Mansimov and Salakhutdinov, Unsupervised learning of video representations using LSTMs, ICML 2015",
        kept="an encoder, a decoder of the past backwards and one of the future, each reading what it told last; a "
        "first stage without labels; a classifier that starts from the encoder and answers at every step",
        differs="the first stage learns from the training clips, not from 300 hours of other videos, one layer deep; "
        "percepts are a backbone's pooled map, layer-normed, where the paper has fc6",
        published={"ucf101": "84.3 % (official splits, RGB and flow); 75.8 % (RGB)"},
    )
    settings: CompositeLSTMSettings

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make the encoder and decoders of a stream."""
        del stream
        return CompositeTower(channels, self.settings)

    @classmethod
    def unlabelled_epochs(cls, settings: ModelSettings) -> int:
        """Return the epochs of the stage in which the decoders teach the encoder."""
        return cast("CompositeLSTMSettings", settings).unlabelled_epochs

    def unlabelled_loss(self, features: Features) -> Tensor:
        """Sum the clips' errors of what the decoders tell, the mean over the streams."""
        losses = [
            cast("CompositeTower", self.towers[stream]).unlabelled_loss(self.read(stream, maps))
            for stream, maps in self.stream_maps(features).items()
        ]
        return torch.stack(losses).mean()

    @property
    def memories(self) -> dict[str, LayerNormLSTM]:
        """The encoder of each stream."""
        return {stream: cast("CompositeTower", self.towers[stream]).encoder for stream in self.reads}
