"""Networks before VGG: few convolutions, the first ones large and strided, from a picture to the last pooling's map.

Each convolution is followed by ReLU, some by local response normalisation and by a pooling that rounds up, as Caffe's.

Sources: Krizhevsky, Sutskever and Hinton 2012 (the normalisation, with its constants); the classes name their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from torch import nn

from actionfusion.models.backbones.backbone import Backbone


class Layer(NamedTuple):
    """A convolution and what follows it.

    Attributes:
        width: channels that it gives.
        kernel: height and width of its filters.
        stride: of the filters.
        padding: zeros on each side.
        norm: whether responses are normalised over five neighbouring channels.
        pool: height and width of the pooling windows, which are two positions apart; 0 pools nothing.
    """

    width: int
    kernel: int
    stride: int = 1
    padding: int = 0
    norm: bool = False
    pool: int = 0


def response_norm() -> nn.LocalResponseNorm:
    """Make the local response normalisation; PyTorch divides alpha by the five channels."""
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


class AlexNet(Backbone):
    """The layers of a layout; the stages are the convolutions, conv1 and so on.

    Args:
        in_channels: channels of a picture: 3 for RGB, 2L for a stack of L flow frames.
        batch_norm: normalise after each convolution, in place of the responses' normalisation.
    """

    layout: ClassVar[tuple[Layer, ...]]

    def __init__(self, in_channels: int, *, batch_norm: bool = False) -> None:
        super().__init__(in_channels)
        self.stride, self.out_channels = 1, in_channels
        self.features = nn.Sequential()
        for layer in self.layout:
            convolution = nn.Conv2d(self.out_channels, layer.width, layer.kernel, layer.stride, layer.padding)
            if not convolution.weight.is_meta:  # else PyTorch would load all of torch.compile to draw nothing
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
            self.features.append(convolution)
            if batch_norm:
                self.features.append(nn.BatchNorm2d(layer.width))
            self.features.append(nn.ReLU(inplace=True))
            if layer.norm and not batch_norm:
                self.features.append(response_norm())
            if layer.pool:
                self.features.append(nn.MaxPool2d(layer.pool, 2, ceil_mode=True))
            self.stride *= layer.stride * (2 if layer.pool else 1)
            self.out_channels = layer.width

    @property
    def units(self) -> Sequence[nn.Module]:
        """The layers in the order in which a picture passes them."""
        return list(self.features)

    @property
    def stage_ends(self) -> Mapping[str, int]:
        """Up to the ReLU of each convolution."""
        ends = [index + 1 for index, layer in enumerate(self.features) if isinstance(layer, nn.ReLU)]
        return {f"conv{number}": end for number, end in enumerate(ends, 1)}

    def map_size(self, image_size: int) -> int:
        """Return height and width of the map of a square picture; 0 where a layer's windows do not fit."""
        size = image_size
        for layer in self.layout:
            size = (size + 2 * layer.padding - layer.kernel) // layer.stride + 1
            if layer.pool:
                size = -(-(size - layer.pool) // 2) + 1
            if size < 1:
                return 0
        return size

    def first_layer(self) -> str:
        """Name the first convolution."""
        return "features.0"


class Karpathy(AlexNet):
    """The five convolutions of Karpathy et al. 2014: 7x7x256 of frames of 170 pixels."""

    layout: ClassVar[tuple[Layer, ...]] = (
        Layer(96, 11, 3, norm=True, pool=2),
        Layer(256, 5, padding=2, norm=True, pool=2),
        Layer(384, 3, padding=1),
        Layer(384, 3, padding=1),
        Layer(256, 3, padding=1, pool=2),
    )


class CNNM(AlexNet):
    """The five convolutions of CNN-M, Chatfield et al. 2014: 6x6x512 of frames of 224 pixels.

    Simonyan and Zisserman 2014 leave the second normalisation out for flow, which saves memory.
    """

    layout: ClassVar[tuple[Layer, ...]] = (
        Layer(96, 7, 2, norm=True, pool=3),
        Layer(256, 5, 2, 1, norm=True, pool=3),
        Layer(512, 3, padding=1),
        Layer(512, 3, padding=1),
        Layer(512, 3, padding=1, pool=3),
    )

    def __init__(self, in_channels: int, *, batch_norm: bool = False) -> None:
        super().__init__(in_channels, batch_norm=batch_norm)
        if in_channels != 3 and not batch_norm:
            del self.features[6]


class FstCN(AlexNet):
    """The four spatial convolutions of FstCN, Sun et al. 2015: 12x12x512 of frames of 204 pixels."""

    layout: ClassVar[tuple[Layer, ...]] = CNNM.layout[:4]
