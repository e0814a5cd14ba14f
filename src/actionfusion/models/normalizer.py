"""Bring a stream's pictures about zero, in the one place that training, prediction and exports share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from actionfusion.errors import SettingsError
from actionfusion.models.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from actionfusion.streams import StreamName

FLOW_ZERO = 128.0


class Normalizer(nn.Module):
    """Check the shape of a stream's pictures and bring their values about zero.

    RGB 0..255 becomes (value / 255 - mean) / std for each channel; flow codes become (code - 128) / (255 * s) with the
    mean s of the three std, so that no motion is exactly 0 and a flow code weighs as much as a grey level.  This is
    part of the network, so that training, prediction and an exported model cannot disagree.  **Values in 0..1 are
    not refused, and are wrong.**

    Args:
        stream: rgb or flow.
        channels: of its pictures.
        size: their height and width.
        mean: of RGB in 0..1.
        std: likewise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        stream: StreamName,
        channels: int,
        size: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.stream: StreamName = stream
        self.channels, self.size = channels, size
        if stream == "rgb":
            means, stds = torch.tensor(mean), torch.tensor(std)
            scale, shift = (1 / (255 * stds)).view(3, 1, 1), (-means / stds).view(3, 1, 1)
        else:
            scale, shift = torch.tensor(1 / (255 * sum(std) / 3)), torch.tensor(FLOW_ZERO)
        # Not persistent: they are part of the code, not of what was learned.
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Normalise ``[B, T, C, H, W]``, 0..255, to the network's own precision.

        Raises:
            SettingsError: another shape or type; the message names what was wanted and what came.
        """
        wanted = (self.channels, self.size, self.size)
        if pictures.ndim != 5 or tuple(pictures.shape[2:]) != wanted:
            reason = f"shape {list(pictures.shape)}, wanted [B, T, {', '.join(map(str, wanted))}]"
            raise SettingsError(self.stream, reason, "give a clip cut with this network's settings")
        if pictures.dtype != torch.uint8 and not pictures.is_floating_point():
            raise SettingsError(self.stream, f"{pictures.dtype} values, wanted 0..255", "give uint8 or floating point")
        values = pictures.to(self.scale.dtype)
        return values * self.scale + self.shift if self.stream == "rgb" else (values - self.shift) * self.scale
