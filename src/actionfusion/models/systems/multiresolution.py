r"""Multiresolution: two networks of half the size, one for the whole frame and one for its centre.

    pictures or maps [B, T, C, h, w] --whole at half size--> context  \\
                                     --centre half---------> fovea    -- side by side --fc--> logits [B, T, K]

Source: Karpathy, Toderici, Shetty, Leung, Sukthankar and Fei-Fei 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.models.backbones.alexnet import Karpathy, Layer
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.readout import make_classifier
from actionfusion.models.systems.single_frame import CITATION, FrameSettings
from actionfusion.models.systems.towers import Towers
from actionfusion.streams import StreamName


@dataclass(frozen=True)
class MultiresolutionSettings(FrameSettings):
    """Settings of the multiresolution network.

    Args:
        backbone: whose maps are halved: efficientnet_lite0, vgg16, narrow, timm:NAME, or the widths of a VGG; own:
            none, the pictures are, and the paper's convolutions follow.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    OWN_LAYERS: ClassVar[bool] = True

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of the paper's network on 178-pixel frames.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return super().original(num_classes, **{"image_size": 178, **changes})


class HalfKarpathy(Karpathy):
    """The paper's convolutions without the last pooling, so that pictures of half the size leave as large a map."""

    layout: ClassVar[tuple[Layer, ...]] = (*Karpathy.layout[:-1], Karpathy.layout[-1]._replace(pool=0))


class Resolutions(nn.Module):
    """See a frame as a whole at half its size, and its centre at full resolution.

    Args:
        context: sees the whole.
        fovea: sees the centre.
    """

    def __init__(self, context: nn.Module, fovea: nn.Module) -> None:
        super().__init__()
        self.context, self.fovea = context, fovea

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[B, T, C, h, h]`` to ``[B, T, 2D, s, s]``, the whole's channels first."""
        frames, side = maps.flatten(0, 1), maps.shape[-1]
        half = (side + 1) // 2
        centre = slice((side - half) // 2, (side - half) // 2 + half)
        whole = F.interpolate(frames, (half, half), mode="bilinear")
        seen = torch.cat((self.context(whole), self.fovea(frames[..., centre, centre])), 1)
        return seen.view(*maps.shape[:2], *seen.shape[1:])


class Multiresolution(Towers):
    """The multiresolution network of Karpathy et al. 2014, of single frames.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = MultiresolutionSettings
    source: ClassVar[Source] = Source(
        CITATION,
        kept="the whole frame at half its size and its centre at full resolution, which meet before the classifier",
        differs="both are cut from a pretrained backbone's map, not from pixels; the original settings have the "
        "paper's network, from pixels",
        published={"sports-1m": "60.0 % (the data set's own split; by video, mean of 20 clips; single frames)"},
    )
    settings: MultiresolutionSettings

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make both networks and the classifier of what they see."""
        settings, half = self.settings, (self.settings.side_of(stream) + 1) // 2
        if settings.has_backbone:
            networks: list[nn.Module] = [nn.Identity(), nn.Identity()]
        else:
            both = [HalfKarpathy(channels, batch_norm=settings.batch_norm) for _ in range(2)]
            networks, channels, half = [*both], both[0].out_channels, both[0].map_size(half)
        classifier = make_classifier(settings, 2 * channels, half)
        return nn.Sequential(Resolutions(*networks), classifier)
