"""VGG towers: 2-D convolutions from a picture of any number of channels to the last convolution's map.

Sources: configuration D of Simonyan and Zisserman 2015; Ou and Sun 2019, sections 3.1 and 3.5, which end the tower at
the last convolution after its ReLU, so that there is no pool5.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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


def convolution_names(layout: TowerLayout) -> list[str]:
    """Names of the convolutions as the VGG papers count them: conv1_1, conv1_2, conv2_1, ...; pooling ends a block."""
    names, block, number = [], 1, 0
    for entry in layout:
        if isinstance(entry, str):
            block, number = block + 1, 0
            continue
        number += 1
        names.append(f"conv{block}_{number}")
    return names


class VGGTower(nn.Module):
    """3x3 convolutions with ReLU and 2x2 max pooling, shared by all pictures, under torchvision's parameter names.

    ``features.N.weight`` and ``features.N.bias`` count the layers as torchvision's ``vgg16`` (or, with batch norm,
    ``vgg16_bn``) does, so its checkpoints load as they are; the layers behind the last ReLU are not there.

    Args:
        in_channels: channels of a picture: 3 for RGB, 2L for a stack of L flow fields.
        layout: widths of the convolutions, with ``"M"`` for each pooling between them.
        batch_norm: normalise after each convolution, which a tower trained from scratch needs.

    Attributes:
        recompute_frames: None, or how many pictures at a time keep their activations while gradients are computed;
            the others' are computed anew in the backward pass.
        num_frozen: how many of ``features``, from the first on, are frozen.
        channels_last: whether pictures lie channels last in memory, the quicker order of these convolutions on CPUs,
            and on GPUs in half precision.

    Raises:
        SettingsError: a layout that is no tower.
    """

    recompute_frames: int | None
    num_frozen: int
    channels_last: bool

    def __init__(self, in_channels: int, layout: TowerLayout = VGG16_LAYOUT, *, batch_norm: bool = False) -> None:
        super().__init__()
        check_layout(layout)
        self.in_channels = in_channels
        self.out_channels = in_channels
        self.layout = layout
        self.recompute_frames = None
        self.channels_last = True
        self.num_frozen = 0
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

    def freeze(self, through: str | None) -> None:
        """Let the layers up to a convolution, its ReLU and the pooling behind it be, and all others learn.

        Frozen layers keep nothing for the backward pass, and their batch norm stays with its running statistics.

        Args:
            through: ``conv4_3`` and the like, ``all``, or None to freeze nothing.

        Raises:
            SettingsError: no convolution of that name.
        """
        names = convolution_names(self.layout)
        if through not in (None, "all", *names):
            raise SettingsError("freeze_towers", f"{through!r} is no convolution", f"choose {', '.join(names)} or all")
        wanted = len(names) if through == "all" else names.index(through) + 1 if through else 0
        places = [place for place, layer in enumerate(self.features) if isinstance(layer, nn.Conv2d)]
        if wanted == len(names):
            self.num_frozen = len(self.features)
        else:
            self.num_frozen = places[wanted] if wanted else 0
        for place, layer in enumerate(self.features):
            layer.requires_grad_(place >= self.num_frozen)
        self.train(self.training)

    @property
    def is_frozen(self) -> bool:
        """Whether the whole tower is."""
        return self.num_frozen == len(self.features)

    def train(self, mode: bool = True) -> Self:
        """As for every module, but frozen layers stay in evaluation mode."""
        super().train(mode)
        for place, layer in enumerate(self.features):
            if place < self.num_frozen:
                layer.eval()
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures ``[N, C, H, W]`` to ``[N, D, H / s, W / s]``, where s doubles with each pooling.

        Pictures do not see each other, but for the statistics of batch norm in training.
        """
        if self.channels_last:
            pictures = pictures.contiguous(memory_format=torch.channels_last)
        if not torch.is_grad_enabled() or not (self.num_frozen or self.recompute_frames):
            features: Tensor = self.features(pictures)
            return features
        chunks = torch.split(pictures, self.recompute_frames or len(pictures))
        return torch.cat([self._learning(chunk) for chunk in chunks])

    def _learning(self, pictures: Tensor) -> Tensor:
        """The same with gradients for the layers that are not frozen."""
        with torch.no_grad():
            pictures = self.features[: self.num_frozen](pictures)
        if self.is_frozen:
            return pictures
        learning = self.features[self.num_frozen :]
        if self.recompute_frames is None:
            maps: Tensor = learning(pictures)
        else:
            # Nothing in a tower is random, so no state of random numbers has to be kept for the second computation.
            maps = checkpoint(learning, pictures, use_reentrant=False, preserve_rng_state=False)
        return maps


def map_size(image_size: int, layout: TowerLayout) -> int:
    """Height and width of the tower's map for a square picture: each pooling halves and rounds down."""
    return int(image_size // 2 ** layout.count("M"))
