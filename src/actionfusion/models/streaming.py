"""Streaming sample by sample: a model's reader of new samples, and the shape of what it keeps.

A window of at most T samples slides along a stream.  Its answer is what the model gives of a clip of those samples.
What each sample gives to a window (a reading) is small and is kept; what follows the readings runs over the window
again.  Where a model joins a sample with its neighbours, three readings of a sample are needed: in the middle of a
window, as its first sample (nothing before), and as its last (nothing after).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

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
