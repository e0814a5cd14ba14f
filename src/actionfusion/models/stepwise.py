"""The network one sample at a time: what a new sample must cost, with all that it needs of those before as a state.

A window of at most T samples slides along a stream.  Its answer is what `FusionNetwork` gives of a clip of those
samples, zero padding of the 3-D convolution at both ends included.  Three readings of a sample can be needed for that,
each made once: in the middle of a window, as its first sample (nothing before), and as its last (nothing after).  A
reading is what the sample gives to the LSTM*s; that is small, so it is kept, and the LSTMs run over the window anew.

Source: Ou and Sun 2019, sections 3.2.1 to 3.4; that a window can be moved exactly is our own arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from actionfusion.models.fusion import ConvFusion
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings, TowerMaps
from actionfusion.models.layer_norm_lstm import LayerNormLSTM


class SampleShape(NamedTuple):
    """What reading sample by sample takes and gives, by the network's settings.

    Attributes:
        looks_ahead: whether a fused map needs the sample after it, so that it settles one sample late.
        branches: names of the branches, in the order of their readings.
        opened: shape of the sums that are still open: ``[3, C, h, w]``, with 0 in place of 3 where none ever are.
    """

    looks_ahead: bool
    branches: tuple[str, ...]
    opened: tuple[int, int, int, int]

    @classmethod
    def of(cls, settings: FusionNetworkSettings) -> Self:
        """Of a network with these settings."""
        looks_ahead = settings.streams == "both" and settings.fusion == "conv3d" and settings.fusion_time_kernel == 3
        width = next(width for width in reversed(settings.layout) if isinstance(width, int))
        return cls(
            looks_ahead,
            ("conv", "fc") if settings.branches == "both" else (settings.branches,),
            (3 if looks_ahead else 0, width, settings.map_size, settings.map_size),
        )


class SampleReader(nn.Module):
    """Towers, fusion and the LSTM*s' input products of new samples.

    Args:
        network: whose weights are used, in evaluation mode.
    """

    kernels: Tensor | None

    def __init__(self, network: FusionNetwork) -> None:
        super().__init__()
        self.network = network.eval()
        self.shape = SampleShape.of(network.settings)
        kernels = None
        if self.shape.looks_ahead:
            assert isinstance(network.fusion, ConvFusion)
            kernels = network.fusion.contribution_kernels().detach()
        self.register_buffer("kernels", kernels, persistent=False)

    def forward(self, rgb: Tensor, flow: Tensor, opened: Tensor) -> tuple[Tensor, ...]:
        """Read N samples that follow each other, and the ones before them by ``opened``.

        Args:
            rgb: ``[N, 3, H, W]``, 0..255.
            flow: ``[N, 2L, H, W]``, codes 0..255.
            opened: as the last call gave it; zeros of `SampleShape.opened` at the start.

        Returns:
            The new ``opened``, then the readings of each branch, ``[N, 3, F]``: of the sample *before* each new one,
            which has now seen both neighbours, in the middle of a window; of the same sample as the first of a window;
            and of the new one as the last.  Where the fusion joins no neighbours all three are the new sample's, and
            ``[N, 1, F]`` is given.
        """
        maps = self.network.tower_maps(rgb.unsqueeze(0), flow.unsqueeze(0))
        opened, fused = self._joined(maps, opened) if self.shape.looks_ahead else (opened, self._alone(maps))
        features = self.network.branch_features(fused.flatten(0, 1).unsqueeze(0))
        products = (self._product(name, features[name])[0] for name in self.shape.branches)
        return opened, *(product.view(*fused.shape[:2], product.shape[-1]) for product in products)

    def _alone(self, maps: TowerMaps) -> Tensor:
        return self.network.fuse(maps).transpose(0, 1)

    def _joined(self, maps: TowerMaps, opened: Tensor) -> tuple[Tensor, Tensor]:
        """The new open sums, and fused maps ``[N, 3, C, h, w]``."""
        fusion = self.network.fusion
        assert isinstance(fusion, ConvFusion)
        assert maps.rgb is not None
        assert maps.flow is not None
        assert self.kernels is not None
        to_next, own, to_previous = fusion.contributions(maps.rgb[0], maps.flow[0], self.kernels).unbind(1)
        # Of the sample before the first new one: what it gave itself, what it was given, what it gives.
        own_before, given_before, gives_before = opened.unsqueeze(1).unbind()
        count = len(own)
        owns = torch.cat((own_before, own))
        given = torch.cat((given_before, gives_before, to_next))
        first = owns[:count] + to_previous
        sums = torch.stack((first + given[:count], first, own + given[1 : count + 1]), dim=1)
        opened = torch.cat((own[-1:], given[count : count + 2]))
        return opened, fusion.settle(sums.flatten(0, 1)).view(count, 3, *sums.shape[2:])

    def _product(self, name: str, features: Tensor) -> Tensor:
        if self.network.settings.temporal_head == "mean":
            return features
        return _branch_lstm(self.network, name).project(features)


def _branch_lstm(network: FusionNetwork, name: str) -> LayerNormLSTM:
    """The LSTM* of a branch, typed."""
    lstm = network.branch_lstms[name]
    assert isinstance(lstm, LayerNormLSTM)
    return lstm


def window_probabilities(network: FusionNetwork, readings: Mapping[str, Tensor]) -> Tensor:
    """Run the LSTMs and the head over the readings of a window.

    Args:
        network: in evaluation mode; of its weights only those behind the LSTM*s' input products are used.
        readings: ``[B, T, F]`` of each branch: its first sample's reading as the first, its last one's as the last.

    Returns:
        Probabilities ``[B, K]``.
    """
    if network.settings.temporal_head == "lstm":
        readings = {name: _branch_lstm(network, name).recur(sequence) for name, sequence in readings.items()}
    return network.conclude(readings).float().softmax(dim=1)


def free_all_but_memory(network: FusionNetwork) -> FusionNetwork:
    """Give back the memory of all weights that `window_probabilities` does not use; the network does nothing else then.

    Returns:
        The same network.
    """
    for part in (network.rgb_tower, network.flow_tower, network.fusion, network.fc6):
        if part is not None:
            part.to("meta")
    if network.settings.temporal_head == "lstm":
        for name in network.branch_lstms:
            lstm = _branch_lstm(network, name)
            lstm.weight_ih = nn.Parameter(lstm.weight_ih.to("meta"))
    return network
