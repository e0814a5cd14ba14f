"""A clip as it is cut, 0..255, into what the towers want: the first operation of every network here.

Inside the network, so that training, prediction and an exported model cannot disagree about it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from actionfusion.errors import SettingsError

# Of the pictures of ImageNet in 0..1, as torchvision's and timm's VGG-16 were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FLOW_ZERO = 128.0
# The mean of the three above: a flow code then weighs as much as a grey level, and the pretrained filters behind
# conv1_1 meet the spread that they know.
FLOW_STD = 0.226


class ClipNormalizer(nn.Module):
    """Checks the shapes of a clip and brings its values about zero.

    RGB 0..255 becomes (value / 255 - mean) / std with ImageNet's mean and std of each channel; flow codes become
    (code - 128) / (255 * 0.226), so that no motion is exactly 0.  **Values in 0..1 are not refused, and are wrong.**

    Args:
        image_size: height and width that a clip must have.
        flow_channels: 2L.
    """

    rgb_scale: Tensor
    rgb_shift: Tensor
    flow_scale: Tensor

    def __init__(self, image_size: int, flow_channels: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.flow_channels = flow_channels
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        # Not persistent: they are part of the code, not of what was learned.
        self.register_buffer("rgb_scale", (1 / (255 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("rgb_shift", (-mean / std).view(3, 1, 1), persistent=False)
        self.register_buffer("flow_scale", torch.tensor(1 / (255 * FLOW_STD)), persistent=False)

    def check(self, rgb: Tensor, flow: Tensor) -> None:
        """Refuse what is no clip of these settings.

        Raises:
            SettingsError: naming the shape that was wanted, and the one that came.
        """
        size = self.image_size
        for name, tensor, channels in (("rgb", rgb, 3), ("flow", flow, self.flow_channels)):
            wanted = f"[B, T, {channels}, {size}, {size}]"
            if tensor.ndim != 5 or tensor.shape[2:] != (channels, size, size):
                raise SettingsError(
                    name, f"shape {list(tensor.shape)}, wanted {wanted}", "give a clip cut with this network's settings"
                )
            if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
                raise SettingsError(name, f"{tensor.dtype} values, wanted 0..255", "give uint8 or floating point")
        if rgb.shape[:2] != flow.shape[:2]:
            came = f"{list(flow.shape[:2])} clips and frames where rgb has {list(rgb.shape[:2])}"
            raise SettingsError("flow", came, "give both streams of the same clips")

    def forward(self, rgb: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise ``[B, T, 3, H, W]`` and ``[B, T, 2L, H, W]``, uint8 or floating point, 0..255.

        Returns:
            Both in the network's own precision.

        Raises:
            SettingsError: shapes that do not fit.
        """
        self.check(rgb, flow)
        dtype = self.rgb_scale.dtype
        pictures = rgb.to(dtype) * self.rgb_scale + self.rgb_shift
        motion = (flow.to(dtype) - FLOW_ZERO) * self.flow_scale
        return pictures, motion
