"""The fusion network one sample at a time: three readings of a sample, each made once.

The 3-D convolution joins a sample with its neighbours, zero padding at both ends of the clip included.  A reading is
what the sample gives to the LSTM*s.

Source: Ou and Sun 2019, sections 3.2.1 to 3.4; that a window can be moved exactly is our own arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from actionfusion.models.backbones import backbone_facts
from actionfusion.models.fusion import ConvFusion
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.models.model import Features
from actionfusion.models.streaming import SampleReader, StreamShape
from actionfusion.streams import StreamName


def stream_shape(settings: FusionNetworkSettings) -> StreamShape:
    """Describe what reading a stream takes and gives with these settings."""
    looks_ahead = settings.streams == "both" and settings.fusion == "conv3d" and settings.fusion_time_kernel == 3
    width = backbone_facts(settings.backbone).out_channels
    return StreamShape(
        looks_ahead,
        ("conv", "fc") if settings.branches == "both" else (settings.branches,),
        (3 if looks_ahead else 0, width, settings.map_size, settings.map_size),
    )


class FusionSampleReader(SampleReader):
    """Run backbones, fusion and the LSTM*s' input products on new samples.

    Args:
        network: whose weights are used, in evaluation mode.
    """

    kernels: Tensor | None

    def __init__(self, network: FusionNetwork) -> None:
        super().__init__()
        self.network = network.eval()
        self.shape = stream_shape(network.settings)
        kernels = None
        if self.shape.looks_ahead:
            assert isinstance(network.fusion, ConvFusion)
            kernels = network.fusion.contribution_kernels().detach()
        self.register_buffer("kernels", kernels, persistent=False)

    def forward(self, clips: Mapping[StreamName, Tensor], opened: Tensor) -> tuple[Tensor, ...]:
        """Read N samples; see `SampleReader`."""
        network = self.network
        features = network.features({name: clip.unsqueeze(0) for name, clip in clips.items()})
        if self.shape.looks_ahead:
            opened, fused = self._fuse_with_neighbours(features, opened)
        else:
            fused = network.fuse(features).transpose(0, 1)
        readings = network.branch_features(fused.flatten(0, 1).unsqueeze(0))
        if network.settings.temporal_head == "lstm":
            readings = {name: network.branch_lstm(name).project(values) for name, values in readings.items()}
        each = (readings[name][0] for name in self.shape.branches)
        return opened, *(reading.view(*fused.shape[:2], reading.shape[-1]) for reading in each)

    def _fuse_with_neighbours(self, features: Features, opened: Tensor) -> tuple[Tensor, Tensor]:
        """Make the new open sums, and the fused maps ``[N, 3, C, h, w]``."""
        fusion = self.network.fusion
        assert isinstance(fusion, ConvFusion)
        assert self.kernels is not None
        contributions = fusion.contributions(features["rgb"][0], features["flow"][0], self.kernels)
        to_next, own, to_previous = contributions.unbind(1)
        # Of the sample before the first new one: what it gave itself, what it was given, what it gives.
        own_before, given_before, gives_before = opened.unsqueeze(1).unbind()
        count = len(own)
        owns = torch.cat((own_before, own))
        given = torch.cat((given_before, gives_before, to_next))
        first = owns[:count] + to_previous
        sums = torch.stack((first + given[:count], first, own + given[1 : count + 1]), dim=1)
        opened = torch.cat((own[-1:], given[count : count + 2]))
        return opened, fusion.settle(sums.flatten(0, 1)).view(count, 3, *sums.shape[2:])
