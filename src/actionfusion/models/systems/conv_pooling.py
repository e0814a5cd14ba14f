"""Conv pooling: the largest value over time of each feature, taken before, between or after the layers that read it.

    pictures [B, T, C, H, W] --backbone--> maps [B, T, D, h, w] --pooled over time and read--> logits [B, 1, K]

Source: Ng, Hausknecht, Vijayanarasimhan, Vinyals, Monga and Toderici 2015, section 3.1 and Fig. 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.readout import Readout, ReadoutSettings
from actionfusion.models.systems.towers import Towers
from actionfusion.streams import StreamName

CITATION = (
    "Ng, Hausknecht, Vijayanarasimhan, Vinyals, Monga and Toderici, Beyond short snippets: deep networks for video "
    "classification, CVPR 2015"
)


@dataclass(frozen=True)
class ConvPoolingSettings(ReadoutSettings):
    """Settings of conv pooling.

    Args:
        fc: units of each fully connected layer; the paper has two of 4096.
        pooling: where time is pooled: conv (the maps, before the fully connected layers; the paper's best), late (after
            them), slow (the maps within windows, then what the fully connected layers make of each), local (the maps
            within windows, all of which the classifier reads side by side; for clips of ``frames`` frames), time_conv
            (the responses of a convolution over the frames of each window).
        window: frames of a window; 10 in the paper.
        window_stride: frames from one window to the next; 5 in the paper.
        kernels: of the convolution over time; 256 in the paper.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**ModelSettings.LEAST, "window": 1, "window_stride": 1, "kernels": 1}

    fc: tuple[int, ...] = (256,)
    pooling: Literal["conv", "late", "slow", "local", "time_conv"] = "conv"
    window: int = 4
    window_stride: int = 2
    kernels: int = 256

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of the paper's sizes for 120 frames, on an AlexNet.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {
            "frames": 120, "image_size": 220, "backbone": "karpathy", "pool": "none", "fc": (4096, 4096),
            "dropout": 0.6, "window": 10, "window_stride": 5, "flow_input": "image", **changes,
        }  # fmt: skip
        return cls(num_classes=num_classes, **values)

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow backbone and 32-pixel frames, which learn from scratch on a CPU.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return super().tiny(num_classes, **{"fc": (32,), "kernels": 16, **changes})


class PoolingTower(nn.Module):
    """Read maps over time by one of the five poolings.

    Args:
        settings: which, and how.
        channels: D.
        side: height and width of the maps.
    """

    def __init__(self, settings: ConvPoolingSettings, channels: int, side: int) -> None:
        super().__init__()
        self.settings = settings
        self.time_conv = None
        if settings.pooling == "time_conv":
            kernel, strides = (settings.window, 3, 3), (settings.window_stride, 1, 1)
            self.time_conv = nn.Conv3d(channels, settings.kernels, kernel, strides, (0, 1, 1))
            channels = settings.kernels
        self.readout = Readout(settings, channels, side)
        windows = len(self._starts(settings.frames)) if settings.pooling == "local" else 1
        self.answer = nn.Linear(windows * self.readout.out_features, settings.num_classes)

    def _starts(self, frames: int) -> range:
        """Number the first frame of each window; the last is shorter where frames are left over."""
        window, stride = self.settings.window, self.settings.window_stride
        return range(0, max(frames - window, 0) + min(stride, window), stride)

    def _windows(self, maps: Tensor) -> Tensor:
        """Pool maps ``[B, T, D, h, w]`` within windows to ``[B, n, D, h, w]``."""
        window = self.settings.window
        return torch.stack([maps[:, at : at + window].amax(1) for at in self._starts(maps.shape[1])], 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[B, T, D, h, w]`` to logits ``[B, 1, K]``."""
        match self.settings.pooling:
            case "conv":
                values = self.readout(maps.amax(1))
            case "late":
                values = self.readout(maps).amax(1)
            case "slow":
                values = self.readout(self._windows(maps)).amax(1)
            case "local":
                values = self.readout(self._windows(maps)).flatten(1)
            case "time_conv":
                assert self.time_conv is not None
                missing = self._starts(maps.shape[1])[-1] + self.settings.window - maps.shape[1]
                # The last window is filled up with zeros.
                padded = F.pad(maps.transpose(1, 2), (0, 0, 0, 0, 0, missing))
                values = self.readout(F.relu(self.time_conv(padded)).amax(2))
        logits: Tensor = self.answer(values)
        return logits.unsqueeze(1)


class ConvPooling(Towers):
    """The feature pooling networks of Ng et al. 2015.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = ConvPoolingSettings
    source: ClassVar[Source] = Source(
        CITATION,
        kept="all five poolings over time, of both streams, whose scores are averaged",
        differs="a light pretrained backbone, pooled, in place of GoogLeNet, which has no weights here, and "
        "windows of 4 frames for clips of 8; the original settings have windows of 10 on Karpathy's AlexNet, since the "
        "paper does not give the widths of its own",
        published={
            "ucf101": "88.2 % (official splits; pretrained on Sports-1M, conv pooling of 120 frames, RGB and flow)"
        },
    )
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"pooling": name} for name in ("late", "slow", "local", "time_conv")
    }
    settings: ConvPoolingSettings

    def __init__(self, settings: ConvPoolingSettings | None = None) -> None:
        super().__init__(settings or ConvPoolingSettings())
        # A classifier of windows side by side has a place for each of them, and for no more.
        self.fixed_frames = self.settings.pooling == "local"  # type: ignore[misc]

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make the pooling and what reads it."""
        return PoolingTower(self.settings, channels, self.settings.side_of(stream))
