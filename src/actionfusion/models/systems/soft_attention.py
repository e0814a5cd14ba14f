"""Soft attention: at each step an LSTM chooses where to look in the next frame's map.

    maps [B, T, D, h, w] --weights of the places, by the state before--> [B, T, D] --LSTM--> tanh --> logits [B, T, K]

The weights are `attention`, which `explain` draws.  A penalty asks that all places together get their share of a clip.

Sources: Sharma, Kiros and Salakhutdinov 2015, and their published code; Xu et al. 2015 for the form of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn

from actionfusion.models.layer_norm_lstm import LayerNormLSTM
from actionfusion.models.model import Features
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.towers import Towers, TowerSettings
from actionfusion.streams import StreamName


@dataclass(frozen=True)
class SoftAttentionSettings(TowerSettings):
    """Settings of soft attention.  The defaults are for real use on a light backbone.

    Args:
        frames: T, sampled frames of a clip; the network takes any number.
        streams: both, or one of rgb and flow (rgb in the paper).
        flow_input: stack (all 2L channels) or image (u, v and length of the middle flow frame).
        hidden: units of the LSTM and of the layer behind it (512 in the paper).
        attention_width: units that compare a place with the state (as many as the map's channels in the paper).
        coverage: weight of the penalty on places that get more than an equal share of a clip's attention (the paper
            tries 0, 1 and 10, and its code for UCF11 has 0); with 1, maps of 9 x 9 are looked at all over.
        dropout: share of the LSTM's outputs, and of the layer behind it, that training drops.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**TowerSettings.LEAST, "hidden": 1, "attention_width": 1, "coverage": 0}
    SHARES: ClassVar[tuple[str, ...]] = (*TowerSettings.SHARES, "dropout")

    frames: int = 16
    streams: Literal["both", "rgb", "flow"] = "rgb"
    hidden: int = 256
    attention_width: int = 128
    coverage: float = 0.0
    dropout: float = 0.5

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of the paper's sizes, on a VGG-16 in place of its GoogLeNet.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        sizes = {"frames": 30, "backbone": "vgg16", "hidden": 512, "attention_width": 512}
        return cls(num_classes=num_classes, **{**sizes, **changes})

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow backbone and 64-pixel frames, which learn from scratch on a CPU.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        narrow = {"image_size": 64, "backbone": "narrow", "batch_norm": True, "hidden": 64, "attention_width": 16}
        return cls(num_classes=num_classes, **{**narrow, "dropout": 0.0, **changes})


class AttentionLSTM(nn.Module):
    """An LSTM that weighs the places of each map by what it knows before.

    Args:
        channels: D of the maps.
        settings: its sizes.

    Attributes:
        weights: of the last clips in training, ``[B, T, h, w]``, for the penalty.
    """

    def __init__(self, channels: int, settings: SoftAttentionSettings) -> None:
        super().__init__()
        hidden, width = settings.hidden, settings.attention_width
        self.start_hidden = nn.Linear(channels, hidden)
        self.start_cell = nn.Linear(channels, hidden)
        self.of_place = nn.Linear(channels, width)
        self.of_state = nn.Linear(hidden, width, bias=False)
        self.compare = nn.Linear(width, 1, bias=False)
        self.lstm = LayerNormLSTM(channels, hidden, norm="none")
        self.answer = nn.Sequential(
            nn.Dropout(settings.dropout),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Dropout(settings.dropout),
            nn.Linear(hidden, settings.num_classes),
        )
        self.weights: Tensor | None = None

    def attend(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Read maps ``[B, T, D, h, w]``.

        Returns:
            The states ``[B, T, hidden]``, and the weights ``[B, T, h, w]`` of the places, which sum to 1 in each frame.
        """
        places = maps.flatten(3).transpose(2, 3)
        mean = places.mean((1, 2))
        state = torch.tanh(self.start_hidden(mean)), torch.tanh(self.start_cell(mean))
        states, chosen = [], []
        for frame, keys in zip(places.unbind(1), self.of_place(places).unbind(1), strict=True):
            compared = self.compare(torch.tanh(keys + self.of_state(state[0])[:, None]))
            weights = compared.softmax(1)
            seen = (weights * frame).sum(1)
            state, _ = self.lstm.step(self.lstm.project(seen), state, maps.shape[1])
            states.append(state[0])
            chosen.append(weights)
        return torch.stack(states, 1), torch.stack(chosen, 1).reshape(*maps.shape[:2], *maps.shape[3:])

    def forward(self, maps: Tensor) -> Tensor:
        """Make logits ``[B, T, K]``."""
        states, weights = self.attend(maps)
        self.weights = weights if self.training else None
        logits: Tensor = self.answer(states)
        return logits


def uneven_coverage(weights: Tensor) -> Tensor:
    """Compute each clip's penalty ``[B]`` of weights ``[B, T, h, w]``: the squares of what places get beyond T / (h w).

    The paper's is the sum over places of (1 - the sum over frames)^2.  The mean over the places of that sum is
    T / (h w) whatever the weights are, so putting it for 1 changes no gradient, and even attention costs nothing.
    """
    shares = weights.sum(1).flatten(1)
    return (shares - shares.mean(1, keepdim=True)).square().sum(1)


class SoftAttention(Towers):
    """The soft attention model of Sharma, Kiros and Salakhutdinov 2015.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = SoftAttentionSettings
    source: ClassVar[Source] = Source(
        "Sharma, Kiros and Salakhutdinov, Action recognition using visual attention, arXiv 1511.04119, 2015",
        kept="weights of the places by the state before, the LSTM's start from the mean of the maps, the tanh layer, "
        "an answer and a loss at every step, and the penalty on uneven attention",
        differs="the maps are another backbone's than GoogLeNet's, and the weights follow the published code, in which "
        "they see the frame too; one LSTM as there, where the text has three; a "
        "video is answered by one clip, not by the class of most of its clips",
        published={"ucf11": "84.96 % (their own split; a video has the class of most of its clips)"},
    )
    settings: SoftAttentionSettings

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make the LSTM that looks at a stream's maps."""
        del stream
        return AttentionLSTM(channels, self.settings)

    def further_loss(self) -> Tensor | None:
        """Give the penalty on uneven attention, the mean over the streams as of the answers."""
        weights = self.take_weights()
        if not weights or not self.settings.coverage:
            return None
        return self.settings.coverage * torch.stack([uneven_coverage(each).sum() for each in weights]).mean()

    def attention(self, features: Features) -> dict[str, Tensor]:
        """Give the weights of the places in each stream's frames, ``[B, T, h, w]``."""
        return {
            f"attention, {stream}": cast("AttentionLSTM", self.towers[stream]).attend(maps)[1]
            for stream, maps in self.stream_maps(features).items()
        }
