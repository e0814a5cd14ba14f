"""Early fusion: the first layer's filters see all frames of the clip at once.

    pictures or maps [B, T, C, h, w] --filters over T frames--> [B, D, h, w] --fc--> logits [B, 1, K]

Filters over all T frames are filters of T x C channels, so that the clip is one picture of them.

Source: Karpathy, Toderici, Shetty, Leung, Sukthankar and Fei-Fei 2014.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from actionfusion.models.backbones import make_backbone
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.readout import make_classifier
from actionfusion.models.systems.single_frame import CITATION, FrameSettings
from actionfusion.models.systems.towers import Towers
from actionfusion.streams import StreamName


@dataclass(frozen=True)
class EarlyFusionSettings(FrameSettings):
    """Settings of early fusion.

    Args:
        frames: T, which all filters see; 10 in the paper.
        backbone: whose maps the filters see: efficientnet_lite0, vgg16, narrow, timm:NAME, or the widths of a VGG; own:
            none, they see the pictures, and the paper's convolutions follow.
        width: filters over the frames' maps; not read by the paper's own layers.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**FrameSettings.LEAST, "width": 1}
    OWN_LAYERS: ClassVar[bool] = True

    frames: int = 10
    width: int = 128

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow backbone and three 32-pixel frames, which learn from scratch on a CPU.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return super().tiny(num_classes, **{"frames": 3, "width": 32, **changes})


class EarlyFusion(Towers):
    """The early fusion network of Karpathy et al. 2014.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = EarlyFusionSettings
    source: ClassVar[Source] = Source(
        CITATION,
        kept="filters over all frames of the clip, before any other layer sees two of them",
        differs="they see a pretrained backbone's maps, not pixels, and their responses are pooled; the original "
        "settings have the paper's network, from pixels",
        published={"sports-1m": "57.7 % (the data set's own split; by video, mean of 20 clips)"},
    )
    fixed_frames: ClassVar[bool] = True
    settings: EarlyFusionSettings

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make the filters and what follows them."""
        settings, seen, side = self.settings, self.settings.frames * channels, self.settings.side_of(stream)
        if settings.has_backbone:
            filters: nn.Module = nn.Sequential(nn.Conv2d(seen, settings.width, 3, padding=1), nn.ReLU())
            classifier = make_classifier(settings, settings.width, side)
        else:
            filters = own = make_backbone("karpathy", seen, batch_norm=settings.batch_norm)
            classifier = make_classifier(settings, own.out_channels, own.map_size(side))
        return nn.Sequential(nn.Flatten(1, 2), filters, classifier, nn.Unflatten(1, (1, -1)))
