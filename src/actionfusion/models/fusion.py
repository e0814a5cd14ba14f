"""Fusion of the two streams' maps, pixel by pixel: eqs 1 and 2 of Ou and Sun 2019, and the plain operators beside it.

Every operator takes the maps of both streams, ``[B, T, D, h, w]`` each, and gives ``[B, T, C, h, w]``.

Sources: Ou and Sun 2019, sections 3.2.1 and 3.6; the operators and the start of the kernel follow Feichtenhofer, Pinz
and Zisserman 2016.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError

FusionName = Literal["conv3d", "conv2d", "sum", "max", "concat"]

# Feichtenhofer's, for pretrained backbones whose flow activations are about a third as large as the picture's.
RGB_SHARE = 0.25


def interleave(rgb_maps: Tensor, flow_maps: Tensor) -> Tensor:
    """Stack two maps channel by channel, flow first: b1, a1, b2, a2, ... of eq. 1.

    Counted from 0, the even channels of the result are the flow's and the odd ones the picture's.

    Args:
        rgb_maps: a, ``[..., D, h, w]``.
        flow_maps: b, of the same shape.

    Returns:
        ``[..., 2D, h, w]``.
    """
    return torch.stack((flow_maps, rgb_maps), dim=-3).flatten(-4, -3)


def gaussian_kernel(time: int, height: int, width: int) -> Tensor:
    """Make a Gaussian of standard deviation 1 about the centre of ``[time, height, width]``, its sum 1."""
    axes = [torch.arange(length, dtype=torch.float64) - (length - 1) / 2 for length in (time, height, width)]
    squares = sum(grid.square() for grid in torch.meshgrid(*axes, indexing="ij"))
    assert isinstance(squares, Tensor)
    weights = torch.exp(-squares / 2)
    return weights / weights.sum()


class ConvFusion(nn.Module):
    """Interleave (eq. 1), then convolve 2D channels to D (eq. 2) over space and, with 3, over the sampled frames.

    Zero padding keeps h, w and T.  The kernel starts as the sum of channel d of both streams, 0.25 of the picture's
    and 0.75 of the flow's, spread by a Gaussian.

    Args:
        channels: D.
        time_kernel: 3 joins each sampled frame with the one before and the one after; 1 fuses each frame alone.
        space_kernel: height and width of the kernel, 3 (the paper) or 1.
        relu: rectify the result, as pretrained fully connected layers after it expect.
        batch_norm: normalise between convolution and ReLU, as in backbones trained from scratch.
        rgb_share: the picture's part at the start, 0 to 1; the flow has the rest.

    Raises:
        SettingsError: a kernel size other than 1 or 3.
    """

    def __init__(
        self,
        channels: int,
        *,
        time_kernel: int = 3,
        space_kernel: int = 3,
        relu: bool = True,
        batch_norm: bool = False,
        rgb_share: float = RGB_SHARE,
    ) -> None:
        super().__init__()
        for name, size in (("fusion_time_kernel", time_kernel), ("fusion_space_kernel", space_kernel)):
            if size not in (1, 3):
                raise SettingsError(f"network.{name}", f"{size} is not a kernel size it takes", "choose 1 or 3")
        self.out_channels = channels
        self.relu = relu
        self.rgb_share = rgb_share
        kernel = (time_kernel, space_kernel, space_kernel)
        padding = (time_kernel // 2, space_kernel // 2, space_kernel // 2)
        self.conv = nn.Conv3d(2 * channels, channels, kernel, padding=padding)
        self.norm = nn.BatchNorm3d(channels) if batch_norm else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the identity-Gaussian start, in the channel order of eq. 1."""
        weight = self.conv.weight
        spread = gaussian_kernel(*weight.shape[2:]).to(weight)
        channel = torch.arange(self.out_channels, device=weight.device)
        with torch.no_grad():
            weight.zero_()
            weight[channel, 2 * channel] = (1 - self.rgb_share) * spread
            weight[channel, 2 * channel + 1] = self.rgb_share * spread
            assert self.conv.bias is not None
            self.conv.bias.zero_()

    def forward(self, rgb_maps: Tensor, flow_maps: Tensor) -> Tensor:
        """Fuse ``[B, T, D, h, w]`` of each stream to ``[B, T, D, h, w]``."""
        fused: Tensor = self.conv(interleave(rgb_maps, flow_maps).transpose(1, 2))
        return self._finish(fused).transpose(1, 2)

    def _finish(self, fused: Tensor) -> Tensor:
        if self.norm is not None:
            fused = self.norm(fused)
        return F.relu(fused) if self.relu else fused

    def contribution_kernels(self) -> Tensor:
        """Return the kernels ``[K * D, 2D, kh, kw]`` for `contributions`, with a time kernel of K."""
        return self.conv.weight.transpose(1, 2).transpose(0, 1).flatten(0, 1)

    def contributions(self, rgb_maps: Tensor, flow_maps: Tensor, kernels: Tensor) -> Tensor:
        """Compute what each sample adds to its own sum and its neighbours', for streams, which get samples one by one.

        Args:
            rgb_maps: ``[N, D, h, w]``, a sample each.
            flow_maps: of the same shape.
            kernels: as `contribution_kernels` gave them.

        Returns:
            ``[N, K, D, h, w]`` for a time kernel of K: with 3, to the sample after, its own, and the one before.
        """
        parts = F.conv2d(interleave(rgb_maps, flow_maps), kernels, padding=self.conv.padding[1:])
        return parts.view(len(parts), -1, self.out_channels, *parts.shape[2:])

    def settle(self, sums: Tensor) -> Tensor:
        """Make the fused maps ``[N, D, h, w]`` of summed contributions ``[N, D, h, w]``."""
        assert self.conv.bias is not None
        biased = sums + self.conv.bias.view(-1, 1, 1)
        return self._finish(biased.unsqueeze(2)).squeeze(2)


class SumFusion(nn.Module):
    """Channel d of both streams added; D channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels

    def forward(self, rgb_maps: Tensor, flow_maps: Tensor) -> Tensor:
        """Fuse ``[B, T, D, h, w]`` of each stream to ``[B, T, D, h, w]``."""
        return rgb_maps + flow_maps


class MaxFusion(nn.Module):
    """The larger of channel d of both streams; D channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels

    def forward(self, rgb_maps: Tensor, flow_maps: Tensor) -> Tensor:
        """Fuse ``[B, T, D, h, w]`` of each stream to ``[B, T, D, h, w]``."""
        return torch.maximum(rgb_maps, flow_maps)


class ConcatFusion(nn.Module):
    """Eq. 1 alone: the streams interleaved and left to the layers that follow; 2D channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = 2 * channels

    def forward(self, rgb_maps: Tensor, flow_maps: Tensor) -> Tensor:
        """Fuse ``[B, T, D, h, w]`` of each stream to ``[B, T, 2D, h, w]``."""
        return interleave(rgb_maps, flow_maps)


Fusion = ConvFusion | SumFusion | MaxFusion | ConcatFusion


def make_fusion(name: FusionName, channels: int, **conv: Any) -> Fusion:
    """Make the operator of that name on D = ``channels``.

    Args:
        name: the operator.
        channels: D, channels of each stream's map.
        conv: arguments of `ConvFusion` for ``conv3d``, and for ``conv2d``, which is the same layer with a time kernel
            of 1; the other operators take rectified maps and give rectified maps.

    Raises:
        SettingsError: a kernel size other than 1 or 3.
    """
    match name:
        case "conv3d":
            return ConvFusion(channels, **conv)
        case "conv2d":
            return ConvFusion(channels, **conv | {"time_kernel": 1})
        case "sum":
            return SumFusion(channels)
        case "max":
            return MaxFusion(channels)
        case "concat":
            return ConcatFusion(channels)
