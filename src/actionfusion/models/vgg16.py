"""VGG towers: 2-D convolutions from a picture of any number of channels to the last convolution's map.

Sources: configuration D of Simonyan and Zisserman 2015; Ou and Sun 2019, sections 3.1 and 3.5, which end the tower at
the last convolution after its ReLU, so that there is no pool5.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from actionfusion.errors import SettingsError

Pool = Literal["M"]
TowerLayout = tuple[int | Pool, ...]
TowerName = Literal["vgg16", "narrow"]

VGG16_LAYOUT: TowerLayout = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
NARROW_LAYOUT: TowerLayout = (8, "M", 16, "M", 32, "M", 32)
LAYOUTS: dict[str, TowerLayout] = {"vgg16": VGG16_LAYOUT, "narrow": NARROW_LAYOUT}


def check_layout(layout: TowerLayout) -> None:
    """Refuse what is no tower: it ends with a convolution and holds only widths and ``"M"``.

    Raises:
        SettingsError: naming the entry at fault.
    """
    subject, remedy = "network.tower", "list widths and 'M', such as [8, M, 16, M, 32], the last one a width"
    if not layout:
        raise SettingsError(subject, "an empty list makes no tower", remedy)
    for entry in layout:
        is_width = isinstance(entry, int) and not isinstance(entry, bool) and entry > 0
        if entry != "M" and not is_width:
            raise SettingsError(subject, f"{entry!r} is neither a positive width nor 'M'", remedy)
    if layout[-1] == "M":
        raise SettingsError(subject, "it ends with a pooling", remedy)


class VGGTower(nn.Module):
    """3x3 convolutions with ReLU and 2x2 max pooling, shared by all pictures, under torchvision's parameter names.

    ``features.N.weight`` and ``features.N.bias`` count the layers as torchvision's ``vgg16`` (or, with batch norm,
    ``vgg16_bn``) does, so its checkpoints load as they are; the layers behind the last ReLU are not there.

    Args:
        in_channels: channels of a picture: 3 for RGB, 2L for a stack of L flow fields.
        layout: widths of the convolutions, with ``"M"`` for each pooling between them.
        batch_norm: normalise after each convolution, which a tower trained from scratch needs.

    Raises:
        SettingsError: a layout that is no tower.
    """

    def __init__(self, in_channels: int, layout: TowerLayout = VGG16_LAYOUT, *, batch_norm: bool = False) -> None:
        super().__init__()
        check_layout(layout)
        self.in_channels = in_channels
        self.out_channels = in_channels
        layers: list[nn.Module] = []
        for entry in layout:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            layers.append(nn.Conv2d(self.out_channels, entry, kernel_size=3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(entry))
            layers.append(nn.ReLU(inplace=True))
            self.out_channels = entry
        self.features = nn.Sequential(*layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He's normal start with zero biases, which keeps the spread of the maps through the ReLUs."""
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures ``[N, C, H, W]`` to ``[N, D, H / s, W / s]``, where s doubles with each pooling.

        Pictures do not see each other, but for the statistics of batch norm in training.
        """
        # Channels last is the quicker order of these convolutions on CPUs, and on GPUs in half precision.
        features: Tensor = self.features(pictures.contiguous(memory_format=torch.channels_last))
        return features


def map_size(image_size: int, layout: TowerLayout) -> int:
    """Height and width of the tower's map for a square picture: each pooling halves and rounds down."""
    return int(image_size // 2 ** layout.count("M"))
