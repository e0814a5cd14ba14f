"""Late fusion: two frames that lie apart meet in the first fully connected layer.

    pictures [B, T, C, H, W] --backbone--> maps --two, side by side--> [B, n, 2D, h, w] --fc--> logits [B, n, K]

Source: Karpathy, Toderici, Shetty, Leung, Sukthankar and Fei-Fei 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.readout import make_classifier
from actionfusion.models.systems.single_frame import CITATION, FrameSettings
from actionfusion.models.systems.towers import Towers
from actionfusion.streams import StreamName


@dataclass(frozen=True)
class LateFusionSettings(FrameSettings):
    """Settings of late fusion.

    Args:
        fc: units of each fully connected layer, in the first of which the frames meet; the paper has two of 4096.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    fc: tuple[int, ...] = (256,)

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of the paper's network of two frames.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return super().original(num_classes, **{"frames": 2, **changes})


class Pairs(nn.Module):
    """Put frames that lie half a clip apart side by side."""

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[B, T, D, h, w]`` to ``[B, n, 2D, h, w]``, n half of T or one more; a frame alone meets itself."""
        apart = maps.shape[1] // 2
        return torch.cat((maps[:, : maps.shape[1] - apart], maps[:, apart:]), 2)


class LateFusion(Towers):
    """The late fusion network of Karpathy et al. 2014.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = LateFusionSettings
    source: ClassVar[Source] = Source(
        CITATION,
        kept="two frames through the same convolutions, which meet in the first fully connected layer",
        differs="each pair of frames half a clip apart is one of the paper's clips, and they are averaged, where it "
        "takes frames 15 apart; a pretrained backbone, pooled; the original settings have the paper's network",
        published={"sports-1m": "59.3 % (the data set's own split; by video, mean of 20 clips)"},
    )
    settings: LateFusionSettings

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make the classifier of pairs of frames."""
        return nn.Sequential(Pairs(), make_classifier(self.settings, 2 * channels, self.settings.side_of(stream)))
