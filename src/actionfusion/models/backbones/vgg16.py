"""VGG: 3x3 convolutions and poolings from a picture of any number of channels to the last convolution's map.

Sources: configuration D of Simonyan and Zisserman 2015; Ou and Sun 2019, sections 3.1 and 3.5, which end the network at
the last convolution after its ReLU, so that there is no pool5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from actionfusion.errors import SettingsError
from actionfusion.models.backbones.backbone import Backbone
from actionfusion.models.weights import Checkpoint, fetch_from_hub, read_checkpoint

Pool = Literal["M"]
Layout = tuple[int | Pool, ...]

HUB_REPOSITORY = "timm/vgg16.tv_in1k"
HUB_FILE = "model.safetensors"
# The first fully connected layer in torchvision's layout, and in timm's, where it is a 7x7 convolution.
DENSE_NAMES = ("classifier.0", "pre_logits.fc1")

VGG16_LAYOUT: Layout = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
NARROW_LAYOUT: Layout = (8, "M", 16, "M", 32, "M", 32)


def check_layout(layout: Layout) -> None:
    """Check that a layout holds only widths and ``"M"`` and ends with a convolution.

    Raises:
        SettingsError: naming the entry at fault.
    """
    subject, remedy = "network.backbone", "list widths and 'M', such as [8, M, 16, M, 32], the last one a width"
    if not layout:
        raise SettingsError(subject, "an empty list makes no backbone", remedy)
    for entry in layout:
        is_width = isinstance(entry, int) and not isinstance(entry, bool) and entry > 0
        if entry != "M" and not is_width:
            raise SettingsError(subject, f"{entry!r} is neither a positive width nor 'M'", remedy)
    if layout[-1] == "M":
        raise SettingsError(subject, "it ends with a pooling", remedy)


def convolution_names(layout: Layout) -> list[str]:
    """Name the convolutions as the VGG papers count them: conv1_1, conv1_2, conv2_1, ...; pooling ends a block."""
    names, block, number = [], 1, 0
    for entry in layout:
        if isinstance(entry, str):
            block, number = block + 1, 0
            continue
        number += 1
        names.append(f"conv{block}_{number}")
    return names


class VGG(Backbone):
    """3x3 convolutions with ReLU and 2x2 max pooling, shared by all pictures, under torchvision's parameter names.

    ``features.N.weight`` and ``features.N.bias`` count the layers as torchvision's ``vgg16`` (or, with batch norm,
    ``vgg16_bn``) does, so its checkpoints load as they are; the layers after the last ReLU are left out.  The stages
    are the convolutions, conv1_1 and so on.

    Args:
        in_channels: channels of a picture: 3 for RGB, 2L for a stack of L flow frames.
        layout: widths of the convolutions, with ``"M"`` for each pooling between them.
        batch_norm: normalise after each convolution, which a network trained from scratch needs.

    Raises:
        SettingsError: a layout that makes no network.
    """

    dense_shape: ClassVar[tuple[int, int] | None] = (4096, 512 * 7 * 7)

    def __init__(self, in_channels: int, layout: Layout = VGG16_LAYOUT, *, batch_norm: bool = False) -> None:
        super().__init__(in_channels)
        check_layout(layout)
        self.layout = layout
        self.stride = 2 ** layout.count("M")
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
        """Initialise as He et al. 2015 with zero biases, which keeps the spread of the maps through the ReLUs."""
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                # On weights without memory PyTorch would first load all of torch.compile to draw nothing.
                if not layer.weight.is_meta:
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    @property
    def units(self) -> Sequence[nn.Module]:
        """The layers in the order in which a picture passes them."""
        return list(self.features)

    @property
    def stage_ends(self) -> Mapping[str, int]:
        """Up to the ReLU of each convolution."""
        ends = [index + 1 for index, layer in enumerate(self.features) if isinstance(layer, nn.ReLU)]
        return dict(zip(convolution_names(self.layout), ends, strict=True))

    def map_size(self, image_size: int) -> int:
        """Return height and width of the map of a square picture: each pooling halves and rounds down."""
        return image_size // self.stride

    def first_layer(self) -> str:
        """Name the first convolution."""
        return "features.0"

    def fetch_imagenet(self) -> Checkpoint:
        """Fetch ``timm/vgg16.tv_in1k`` from the Hugging Face hub, or take it from the hub's cache."""
        remedy = f"download {HUB_FILE} of {HUB_REPOSITORY} there (or torchvision's vgg16 .pth) and give its path"
        path = fetch_from_hub(HUB_REPOSITORY, HUB_FILE, remedy)
        return read_checkpoint(path, f"{HUB_REPOSITORY}/{HUB_FILE}")

    def dense_values(self, given: Checkpoint) -> tuple[Tensor, Tensor] | None:
        """Pick VGG-16's fc6; timm's 7x7 convolution is torchvision's matrix row by row."""
        for name in DENSE_NAMES:
            if f"{name}.weight" in given.tensors and f"{name}.bias" in given.tensors:
                return given.tensors[f"{name}.weight"].flatten(1), given.tensors[f"{name}.bias"]
        return None


class Narrow(VGG):
    """Four convolutions of 8 to 32 channels, for CPUs and tests; without pretrained weights."""

    dense_shape: ClassVar[tuple[int, int] | None] = None

    def __init__(self, in_channels: int, *, batch_norm: bool = False) -> None:
        super().__init__(in_channels, NARROW_LAYOUT, batch_norm=batch_norm)

    def fetch_imagenet(self) -> Checkpoint:
        """Refuse, since there are none."""
        return Backbone.fetch_imagenet(self)
