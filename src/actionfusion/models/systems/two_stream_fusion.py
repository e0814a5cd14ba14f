"""Two-stream fusion: both streams meet at the last convolution, over space and time; the flow keeps a tower of its own.

    rgb, flow [B, T, C, H, W] --backbones--> maps --fusion--> [B, T, D, h, w] --3-D pooling, fc--> logits [B, K]
                                             flow's maps    --3-D pooling, fc--> logits [B, K]    both: [B, 2, K]

Source: Feichtenhofer, Pinz and Zisserman 2016.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.fusion import FusionName, make_fusion
from actionfusion.models.model import Features
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.described import full_precision
from actionfusion.models.systems.readout import ReadoutSettings, make_classifier
from actionfusion.models.systems.towers import Towers
from actionfusion.streams import StreamName


@dataclass(frozen=True)
class TwoStreamFusionSettings(ReadoutSettings):
    """Settings of two-stream fusion.

    Args:
        frames: T, 5 in the paper; the network takes any number.
        flow_channels: 2L, channels of the flow input; 20 in the paper.
        streams: both.
        fusion: conv3d (the paper's), conv2d, sum, max, concat, or bilinear: products of all pairs of channels, added up
            over the picture and the clip, for a linear classifier.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    frames: int = 5
    flow_channels: int = 20
    fusion: FusionName | Literal["bilinear"] = "conv3d"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.streams != "both":
            raise SettingsError("network.streams", f"{self.streams} alone cannot be fused", "choose both")
        if self.fusion not in (choices := ("conv3d", "conv2d", "sum", "max", "concat", "bilinear")):
            reason = f"{self.fusion!r} is no choice"
            raise SettingsError("network.fusion", reason, f"choose one of {', '.join(choices)}")

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of the paper's network, VGG-16 of each stream, the flow of ten frames.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {"backbone": "vgg16", "pool": "none", "fc": (4096, 4096), "dropout": 0.85, **changes}
        return cls(num_classes=num_classes, **values)


class PooledTower(nn.Module):
    """Pool maps over time and 2x2 positions, and classify what is left.

    Args:
        settings: how.
        channels: D.
        side: height and width of the maps.
    """

    def __init__(self, settings: TwoStreamFusionSettings, channels: int, side: int) -> None:
        super().__init__()
        self.shrinks = 2 if side > 1 else 1
        self.classifier = make_classifier(settings, channels, side // self.shrinks)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[B, T, D, h, w]`` to logits ``[B, K]``."""
        logits: Tensor = self.classifier(F.max_pool2d(maps.amax(1), self.shrinks))
        return logits


class BilinearTower(nn.Module):
    """Multiply all pairs of the streams' channels, and classify the sums of the products.

    Their signed square roots, brought to length 1, are what Feichtenhofer et al. give a linear SVM.

    Args:
        channels: D.
        num_classes: K.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.answer = nn.Linear(channels**2, num_classes)

    def forward(self, rgb_maps: Tensor, flow_maps: Tensor) -> Tensor:
        """Map ``[B, T, D, h, w]`` of each stream to logits ``[B, K]``."""
        with full_precision(rgb_maps):  # sums over a clip are too large for float16, and 1e-12 is too small
            rgb, flow = (maps.float().transpose(1, 2).flatten(2) for maps in (rgb_maps, flow_maps))
            products = (rgb @ flow.transpose(1, 2)).flatten(1)
            roots = products.sign() * (products.abs() + 1e-12).sqrt()  # the root of 0 has no gradient
            directions = F.normalize(roots, dim=-1)
        logits: Tensor = self.answer(directions.to(self.answer.weight.dtype))
        return logits


class FusedTower(nn.Module):
    """Fuse the streams' maps, and pool and classify what that gives.

    Args:
        settings: how.
        channels: D of each stream.
        side: height and width of the maps.
    """

    def __init__(self, settings: TwoStreamFusionSettings, channels: int, side: int) -> None:
        super().__init__()
        self.fusion = make_fusion(cast("FusionName", settings.fusion), channels)
        self.pooled = PooledTower(settings, self.fusion.out_channels, side)

    def forward(self, rgb_maps: Tensor, flow_maps: Tensor) -> Tensor:
        """Map ``[B, T, D, h, w]`` of each stream to logits ``[B, K]``."""
        logits: Tensor = self.pooled(self.fusion(rgb_maps, flow_maps))
        return logits


class TwoStreamFusion(Towers):
    """The two-stream fusion network of Feichtenhofer et al. 2016.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = TwoStreamFusionSettings
    source: ClassVar[Source] = Source(
        "Feichtenhofer, Pinz and Zisserman, Convolutional two-stream network fusion for video action recognition, CVPR "
        "2016",
        kept="fusion at the last convolution by all operators of the paper's ablation, the convolution's start, 3-D "
        "pooling, and the flow's own tower, whose scores are averaged with the fused one's",
        differs="light pretrained backbones and pooling over the picture, the stacks of flow of the clips that are "
        "cut; the original settings have VGG-16 and ten flow frames; `compare` fuses by sum unless its row is "
        "two_stream_fusion:conv3d; both towers learn from the start, not one stream after the other first; bilinear "
        "fusion has a layer for its SVM",
        published={
            "ucf101": "92.5 % (official splits; VGG-16, 20 temporal samples of each video); on split 1 with VGG-M: sum "
            "85.20 %, max 82.70 %, concat 83.53 %, bilinear 85.05 %, conv 85.96 %"
        },
    )
    # A 3-D convolution of two light backbones' maps costs fifty times what follows it.
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "": {"fusion": "sum"},
        "conv3d": {},
    }
    settings: TwoStreamFusionSettings

    @classmethod
    def wrong_in_bfloat16(cls, settings: ModelSettings) -> bool:
        """Return whether the convolution over time sees two frames."""
        return settings.frames == 2 and cast("TwoStreamFusionSettings", settings).fusion == "conv3d"

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make the tower of both streams, in the place of RGB's, or that of flow."""
        settings, side = self.settings, self.settings.side_of(stream)
        if stream == "flow":
            return PooledTower(settings, channels, side)
        if settings.fusion == "bilinear":
            return BilinearTower(channels, settings.num_classes)
        return FusedTower(settings, channels, side)

    def classify(self, features: Features) -> Tensor:
        """Make logits ``[B, 2, K]``, the fused tower's first."""
        rgb, flow = self.stream_maps(features).values()
        return torch.stack((self.towers["rgb"](rgb, flow), self.towers["flow"](flow)), 1)
