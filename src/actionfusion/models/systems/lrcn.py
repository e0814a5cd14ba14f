"""LRCN: features of each frame, an LSTM over them, and an answer at every step.

    pictures [B, T, C, H, W] --backbone--> maps --pool--> [B, T, D] --LSTM--> [B, T, hidden] --> logits [B, T, K]

The loss is taken at every step, and a clip's scores are the mean of its steps' probabilities; of a network of RGB and
one of flow, flow's weigh twice as much.

Source: Donahue, Hendricks, Guadarrama, Rohrbach, Venugopalan, Saenko and Darrell 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

from torch import Tensor, nn

from actionfusion.errors import SettingsError
from actionfusion.models.layer_norm_lstm import LayerNormLSTM, NormName
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.frame_towers import PerceptSettings, PerceptTowers
from actionfusion.streams import StreamName


@dataclass(frozen=True)
class LRCNSettings(PerceptSettings):
    """Settings of LRCN.  The defaults are for real use on a light backbone; `original` has the sizes of the paper.

    Args:
        frames: T, 16 in the paper; the network takes any number.
        streams: rgb, flow, or both: a network of each, whose scores are averaged.
        flow_input: stack (all 2L channels) or image (u, v and length of the middle flow frame, as in the paper, which
            pretrained filters of pictures fit).
        flow_weight: share of flow's scores in the mean of both streams (two thirds in the paper).
        pool: average or max, over all positions of a map, or fc6, the first fully connected layer of a VGG, as in the
            paper.  The first two forget where things are, so direction of motion is learned from flow, and hardly from
            pictures.
        fc6_width: units of fc6 (4096).
        hidden: units of the LSTM (256 for RGB and 1024 for flow in the paper).
        flow_hidden: units of flow's LSTM beside one of RGB; none is ``hidden``.
        norm: none (a plain LSTM, the paper's), tf, gates, ba or batch; see models/layer_norm_lstm.py.
        dropout_features: share of what is read of a frame that training drops (0.9 of fc6 in the paper).
        dropout_lstm: share of the LSTM's outputs that training drops (0.5).

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**PerceptSettings.LEAST, "hidden": 1}
    SHARES: ClassVar[tuple[str, ...]] = (*PerceptSettings.SHARES, "dropout_features", "dropout_lstm")

    frames: int = 16
    streams: Literal["both", "rgb", "flow"] = "rgb"
    flow_weight: float = 2 / 3
    hidden: int = 256
    flow_hidden: int | None = None
    norm: NormName = "none"
    dropout_features: float = 0.5
    dropout_lstm: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flow_hidden is not None and self.flow_hidden < 1:
            raise SettingsError("network.flow_hidden", f"{self.flow_hidden} is too small", "take 1 or more, or null")

    @classmethod
    def original(cls, num_classes: int = 101, streams: Literal["both", "rgb", "flow"] = "both", **changes: Any) -> Self:
        """Make settings of the paper's sizes, on a VGG-16 in place of its CaffeNet.

        Args:
            num_classes: K.
            streams: both, or one of rgb and flow.
            changes: other settings, by name.
        """
        values = {
            "streams": streams,
            "flow_input": "image",
            "backbone": "vgg16",
            "pool": "fc6",
            "hidden": 1024 if streams == "flow" else 256,
            "flow_hidden": 1024,
            "dropout_features": 0.9,
            **changes,
        }
        return cls(num_classes=num_classes, **values)

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow backbone and 64-pixel frames, which learn from scratch on a CPU.

        From flow that takes minutes.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {
            "image_size": 64,
            "backbone": "narrow",
            "batch_norm": True,
            "pool": "max",
            "hidden": 64,
            "dropout_features": 0.0,
            "dropout_lstm": 0.0,
            **changes,
        }
        return cls(num_classes=num_classes, **values)


class LRCN(PerceptTowers):
    """The long-term recurrent convolutional network of Donahue et al. 2015.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = LRCNSettings
    source: ClassVar[Source] = Source(
        "Donahue, Hendricks, Guadarrama, Rohrbach, Venugopalan, Saenko and Darrell, Long-term recurrent convolutional "
        "networks for visual recognition and description, CVPR 2015 (journal: PAMI 2017)",
        kept="an LSTM over features of each frame, an answer and a loss at every step, the flow image, and the weights "
        "of both streams",
        differs="the features are a backbone's pooled map, and by the original settings fc6 of a VGG-16, not that of "
        "CaffeNet, whose weights pip cannot install",
        published={
            "ucf101": "82.34 % (official splits; scores of RGB and flow averaged 1:2); RGB alone 68.20 %, flow 77.28 %"
        },
    )
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "": {"streams": "both"},
        "rgb": {"streams": "rgb"},
        "flow": {"streams": "flow"},
    }
    settings: LRCNSettings

    def __init__(self, settings: LRCNSettings | None = None) -> None:
        settings = settings or LRCNSettings()
        super().__init__(settings)
        self.dropout_features = nn.Dropout(settings.dropout_features)
        self.dropout_lstm = nn.Dropout(settings.dropout_lstm)

    def add_towers(self, channels: Mapping[StreamName, int]) -> None:
        """Add an LSTM and its answer for each stream."""
        settings, channels = self.settings, self.add_percepts(channels)
        hidden = dict.fromkeys(channels, settings.hidden)
        if len(channels) == 2 and settings.flow_hidden is not None:
            hidden["flow"] = settings.flow_hidden
        self.lstm = _by_stream(
            {stream: LayerNormLSTM(width, hidden[stream], norm=settings.norm) for stream, width in channels.items()}
        )
        self.answer = _by_stream({stream: nn.Linear(units, settings.num_classes) for stream, units in hidden.items()})

    def lstm_of(self, stream: StreamName) -> LayerNormLSTM:
        """Return the LSTM of a stream."""
        return cast("LayerNormLSTM", _of_stream(self.lstm, stream))

    def read(self, stream: StreamName, maps: Tensor) -> Tensor:
        """Make the LSTM's input product of each frame, ``[B, T, 4 * hidden]``."""
        return self.lstm_of(stream).project(self.dropout_features(super().read(stream, maps)))

    def conclude(self, stream: StreamName, readings: Tensor) -> Tensor:
        """Make logits ``[B, T, K]`` of a stream's input products."""
        states = self.dropout_lstm(self.lstm_of(stream).recur(readings))
        logits: Tensor = _of_stream(self.answer, stream)(states)
        return logits

    @property
    def memories(self) -> dict[str, LayerNormLSTM]:
        """The LSTM of each stream."""
        return {stream if len(self.reads) == 2 else "lstm": self.lstm_of(stream) for stream in self.reads}


def _by_stream(parts: Mapping[StreamName, nn.Module]) -> nn.Module:
    """Hold a part of each stream; one alone keeps the name that it has in runs made before there could be two."""
    return next(iter(parts.values())) if len(parts) == 1 else nn.ModuleDict(cast("dict[str, nn.Module]", parts))


def _of_stream(held: nn.Module, stream: StreamName) -> nn.Module:
    return held[stream] if isinstance(held, nn.ModuleDict) else held
