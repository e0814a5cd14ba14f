"""Single frame: every frame is classified by itself, and a clip has the mean of their probabilities.

    pictures [B, T, C, H, W] --backbone--> maps [B, T, D, h, w] --fc--> logits [B, T, K]

Source: Karpathy, Toderici, Shetty, Leung, Sukthankar and Fei-Fei 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from torch import nn

from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.readout import ReadoutSettings, make_classifier
from actionfusion.models.systems.towers import Towers
from actionfusion.streams import StreamName

CITATION = (
    "Karpathy, Toderici, Shetty, Leung, Sukthankar and Fei-Fei, Large-scale video classification with convolutional "
    "neural networks, CVPR 2014"
)


@dataclass(frozen=True)
class FrameSettings(ReadoutSettings):
    """Settings of the single frame network, which Karpathy's others share; they read RGB alone by default.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    streams: Literal["both", "rgb", "flow"] = "rgb"

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of the paper's network: five convolutions on 170-pixel frames, two layers of 4096 units.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {
            "image_size": 170,
            "backbone": "own" if cls.OWN_LAYERS else "karpathy",
            "pool": "none",
            "fc": (4096, 4096),
            "dropout": 0.5,
            **changes,
        }
        return cls(num_classes=num_classes, **values)


class SingleFrame(Towers):
    """The single frame network of Karpathy et al. 2014.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = FrameSettings
    source: ClassVar[Source] = Source(
        CITATION,
        kept="a classifier of single frames, whose probabilities are averaged over the clip",
        differs="a pretrained backbone in place of the paper's five convolutions, pooled; the original settings have "
        "the paper's network, but not its weights of Sports-1M; frames are not averaged over 20 clips",
        published={"sports-1m": "59.3 % (the data set's own split; by video, mean of 20 clips)"},
    )
    settings: FrameSettings

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make the classifier of frames."""
        return make_classifier(self.settings, channels, self.settings.side_of(stream))
