"""Streaming sample by sample: a model's reader of new samples, and the shape of what it keeps.

A window of at most T samples slides along a stream.  Its answer is what the model gives of a clip of those samples.
What each sample gives to a window (a reading) is small and is kept; what follows the readings runs over the window
again.  Where a model joins a sample with its neighbours, three readings of a sample are needed: in the middle of a
window, as its first sample (nothing before), and as its last (nothing after).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from actionfusion.models.fusion import ConvFusion
from actionfusion.streams import StreamName


class StreamShape(NamedTuple):
    """Inputs and outputs of reading sample by sample, by the model's settings.

    Attributes:
        looks_ahead: whether a reading needs the sample after it, so that it is final one sample late.
        branches: names of the readings, in their order.
        opened: shape of the sums that are still open: ``[3, C, h, w]``, with 0 for 3 where none ever are.
    """

    looks_ahead: bool
    branches: tuple[str, ...]
    opened: tuple[int, int, int, int] = (0, 1, 1, 1)


class SampleReader(nn.Module):
    """Read new samples of a stream.

    Attributes:
        shape: of what goes in and comes out.
    """

    shape: StreamShape

    def forward(self, clips: Mapping[StreamName, Tensor], opened: Tensor) -> tuple[Tensor, ...]:
        """Read N samples that follow each other, and the ones before them by ``opened``.

        Args:
            clips: by stream ``[N, C, H, W]``, 0..255.
            opened: as the last call gave it; zeros of `StreamShape.opened` at the start.

        Returns:
            The new ``opened``, then the readings of each branch, ``[N, 3, F]``: of the sample *before* each new one,
            which has now seen both neighbours, in the middle of a window; of the same sample as the first of a window;
            and of the new one as the last.  Of a model that joins no neighbours all three are the new sample's, and
            ``[N, 1, F]`` is given.
        """
        raise NotImplementedError


class FrameReader(SampleReader):
    """Read samples of a model that joins no neighbours, so that a reading is the sample's own.

    Args:
        model: whose weights are used, in evaluation mode.
        shape: of what goes in and comes out.
        read: makes of clips ``[1, N, C, H, W]`` by stream the readings ``[1, N, F]`` of each branch.
    """

    def __init__(
        self, model: nn.Module, shape: StreamShape, read: Callable[[Mapping[StreamName, Tensor]], Sequence[Tensor]]
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.shape = shape
        self.read = read

    def forward(self, clips: Mapping[StreamName, Tensor], opened: Tensor) -> tuple[Tensor, ...]:
        """Read N samples; see `SampleReader`."""
        readings = self.read({name: clip.unsqueeze(0) for name, clip in clips.items()})
        return opened, *(reading.transpose(0, 1) for reading in readings)


class NeighbourReader(SampleReader):
    """Read samples of a model whose 3-D convolution joins each sample with the one before and the one after.

    That a window can be moved exactly is our own arithmetic: the zero padding at both ends of a clip is what the first
    and the last sample of a window see.

    Args:
        model: whose weights are used, in evaluation mode.
        shape: of what goes in and comes out.
        fusion: the 3-D convolution.
        features: makes of clips ``[1, N, C, H, W]`` by stream what the convolution joins.
        read: makes of fused maps ``[1, M, C, h, w]`` the readings ``[1, M, F]`` of each branch.
    """

    kernels: Tensor

    def __init__(
        self,
        model: nn.Module,
        shape: StreamShape,
        fusion: ConvFusion,
        features: Callable[[Mapping[StreamName, Tensor]], Mapping[StreamName, Tensor]],
        read: Callable[[Tensor], Sequence[Tensor]],
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.shape = shape
        self.fusion, self.features, self.read = fusion, features, read
        self.register_buffer("kernels", fusion.contribution_kernels().detach(), persistent=False)

    def forward(self, clips: Mapping[StreamName, Tensor], opened: Tensor) -> tuple[Tensor, ...]:
        """Read N samples; see `SampleReader`."""
        features = self.features({name: clip.unsqueeze(0) for name, clip in clips.items()})
        contributions = self.fusion.contributions(features["rgb"][0], features["flow"][0], self.kernels)
        to_next, own, to_previous = contributions.unbind(1)
        # Of the sample before the first new one: what it gave itself, what it was given, what it gives.
        own_before, given_before, gives_before = opened.unsqueeze(1).unbind()
        count = len(own)
        owns = torch.cat((own_before, own))
        given = torch.cat((given_before, gives_before, to_next))
        first = owns[:count] + to_previous
        sums = torch.stack((first + given[:count], first, own + given[1 : count + 1]), dim=1)
        opened = torch.cat((own[-1:], given[count : count + 2]))
        readings = self.read(self.fusion.settle(sums.flatten(0, 1)).unsqueeze(0))
        return opened, *(reading[0].view(count, 3, reading.shape[-1]) for reading in readings)
