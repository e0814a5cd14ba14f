"""What the branches of the fusion network read of a map."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

ConvReduceName = Literal["flatten", "pool", "average", "max"]


def reduce_map(how: ConvReduceName, maps: Tensor, pooled: Tensor) -> Tensor:
    """Make ``[B, T, F]`` of a map ``[B, T, C, h, w]``; ``pool`` flattens what 2x2 max pooling made of it."""
    match how:
        case "flatten":
            return maps.flatten(2)
        case "pool":
            return pooled.flatten(2)
        case "average":
            return maps.mean(dim=(-2, -1))
        case "max":
            return maps.amax(dim=(-2, -1))


def norm_each_stream(values: Tensor, streams: int, channels: int) -> Tensor:
    """Layer-norm each stream's part of ``[B, T, C * area]``, whose C channels are interleaved."""
    apart = values.reshape(*values.shape[:-1], channels // streams, streams, -1).transpose(-3, -2)
    normed = F.layer_norm(apart, apart.shape[-2:])
    return normed.transpose(-3, -2).flatten(-3)
