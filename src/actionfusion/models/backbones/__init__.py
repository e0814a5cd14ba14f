"""The backbones by name: one file each, imported when one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Literal

import torch

from actionfusion.errors import SettingsError
from actionfusion.models.backbones.backbone import Backbone

BACKBONES: Mapping[str, str] = {
    "vgg16": "actionfusion.models.backbones.vgg16:VGG",
    "narrow": "actionfusion.models.backbones.vgg16:Narrow",
    "efficientnet_lite0": "actionfusion.models.backbones.efficientnet_lite:EfficientNetLite0",
    "karpathy": "actionfusion.models.backbones.alexnet:Karpathy",
    "cnn_m": "actionfusion.models.backbones.alexnet:CNNM",
    "fstcn": "actionfusion.models.backbones.alexnet:FstCN",
}
TIMM = "timm:"

BackboneName = str | tuple[int | Literal["M"], ...]
"""A name of `BACKBONES`, ``timm:NAME``, or the layout of a VGG, such as (8, "M", 16)."""


def make_backbone(name: BackboneName, in_channels: int, *, batch_norm: bool = False) -> Backbone:
    """Make a backbone with random weights.

    Args:
        name: of the table; ``timm:resnet50`` and the like for any model of the package timm; or the widths of a VGG's
            convolutions with ``"M"`` for each pooling.
        in_channels: channels of a picture.
        batch_norm: normalise after each convolution of a VGG; the other backbones decide for themselves.

    Raises:
        SettingsError: no such backbone, or the package timm is not installed.
    """
    if not isinstance(name, str):
        from actionfusion.models.backbones.vgg16 import VGG  # noqa: PLC0415

        return VGG(in_channels, name, batch_norm=batch_norm)
    if name.startswith(TIMM):
        from actionfusion.models.backbones.timm import TimmBackbone  # noqa: PLC0415

        return TimmBackbone(name.removeprefix(TIMM), in_channels)
    if name not in BACKBONES:
        remedy = f"choose one of {', '.join(BACKBONES)}, or {TIMM}NAME"
        raise SettingsError("network.backbone", f"{name!r} is no backbone", remedy)
    module, _, class_name = BACKBONES[name].partition(":")
    make: Callable[..., Backbone] = getattr(import_module(module), class_name)
    return make(in_channels, batch_norm=batch_norm)


@cache
def backbone_facts(name: BackboneName) -> Backbone:
    """Make a backbone without memory for weights, to ask for its stride, channels and stages.

    Raises:
        SettingsError: as `make_backbone`.
    """
    with torch.device("meta"):
        return make_backbone(name, 3)
