"""Slow fusion: the frames of a clip meet a few at a time, over three convolutions.

    pictures or maps [B, T, C, h, w] --4 frames, 2 apart; then 2; then 2--> [B, n, D, h, w] --fc--> logits [B, n, K]

Of ten frames four responses are left after the first convolution, two after the second and one after the third.

Source: Karpathy, Toderici, Shetty, Leung, Sukthankar and Fei-Fei 2014.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from actionfusion.models.backbones import backbone_facts
from actionfusion.models.backbones.alexnet import Karpathy, Layer, response_norm
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.readout import make_classifier
from actionfusion.models.systems.single_frame import CITATION, FrameSettings
from actionfusion.models.systems.towers import Towers
from actionfusion.streams import StreamName

TIMES = ((4, 2), (2, 2), (2, 2))  # frames that a filter of each convolution sees, and from one to the next


@dataclass(frozen=True)
class SlowFusionSettings(FrameSettings):
    """Settings of slow fusion.

    Args:
        frames: T; 10 in the paper.
        backbone: whose maps the convolutions see: efficientnet_lite0, vgg16, narrow, timm:NAME, or the widths of a VGG;
            own: none, they are the paper's and see the pictures.
        width: channels of each convolution on a backbone's maps; not read by the paper's own layers.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**FrameSettings.LEAST, "width": 1}
    OWN_LAYERS: ClassVar[bool] = True

    frames: int = 10
    width: int = 128

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow backbone and ten 32-pixel frames, which learn from scratch on a CPU.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return super().tiny(num_classes, **{"width": 32, **changes})


class SlowFusion(Towers):
    """The slow fusion network of Karpathy et al. 2014.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = SlowFusionSettings
    source: ClassVar[Source] = Source(
        CITATION,
        kept="three convolutions that see four, two and two frames, two apart, with the same filters at all times",
        differs="they see a pretrained backbone's maps, not pixels, and their responses are pooled; for other than ten "
        "frames each sees as many as are left; the original settings have the paper's network, from pixels",
        published={
            "sports-1m": "60.9 % (the data set's own split; by video, mean of 20 clips)",
            "ucf101": "65.4 % (official splits; pretrained on Sports-1M, top three layers tuned); 41.3 % from scratch",
        },
    )
    fixed_frames: ClassVar[bool] = True
    settings: SlowFusionSettings

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make the convolutions and what follows them."""
        settings, side = self.settings, self.settings.side_of(stream)
        if settings.has_backbone:
            layout: tuple[Layer, ...] = (Layer(settings.width, 3, padding=1),) * len(TIMES)
        else:
            layout, side = Karpathy.layout, backbone_facts("karpathy").map_size(side)
        convolutions = Convolutions(layout, channels, settings.frames, batch_norm=settings.batch_norm)
        return nn.Sequential(convolutions, make_classifier(settings, layout[-1].width, side))


class Convolutions(nn.Sequential):
    """Convolve over time and space by a layout of 2-D layers, the first three of which see several frames.

    Args:
        layout: of the 2-D layers.
        channels: of what they see.
        frames: T.
        batch_norm: normalise after each convolution, in place of the responses' normalisation.
    """

    def __init__(self, layout: tuple[Layer, ...], channels: int, frames: int, *, batch_norm: bool) -> None:
        super().__init__()
        for layer, (most, stride) in zip_longest(layout, TIMES, fillvalue=(1, 1)):
            assert isinstance(layer, Layer)
            time = min(most, frames)
            frames = (frames - time) // stride + 1
            kernel, steps = (time, layer.kernel, layer.kernel), (stride, layer.stride, layer.stride)
            self.append(nn.Conv3d(channels, layer.width, kernel, steps, (0, layer.padding, layer.padding)))
            if batch_norm:
                self.append(nn.BatchNorm3d(layer.width))
            self.append(nn.ReLU(inplace=True))
            if layer.norm and not batch_norm:
                self.append(response_norm())
            if layer.pool:
                self.append(nn.MaxPool3d((1, layer.pool, layer.pool), (1, 2, 2), ceil_mode=True))
            channels = layer.width

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[B, T, C, h, w]`` to ``[B, n, D, h', w']``."""
        convolved: Tensor = super().forward(maps.transpose(1, 2))  # type: ignore[no-untyped-call]
        return convolved.transpose(1, 2)
