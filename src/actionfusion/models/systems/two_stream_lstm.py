"""Two-stream LSTM: the last convolution and the first fully connected layer of one network, and LSTMs that join them.

    conv_l     X_conv ------------------> LSTM --> logits [B, K]
    fc_1       X_fc --------------------> LSTM
    fc_2       X_fc ---> LSTM* ---------> LSTM
    fusion_1   X_conv, X_fc ------------> LSTM
    fusion_2   X_conv ---> LSTM* --+
               X_fc -----> LSTM* --+----> LSTM

The two streams are the two layers, not pictures and motion.  These are the fusion network's own parts without flow,
fusion and layer norm: what Ou and Sun 2019 began with.

Source: Gammulle, Denman, Sridharan and Fookes 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from actionfusion.errors import SettingsError
from actionfusion.models.backbones import BackboneName
from actionfusion.models.fusion_network import (
    BranchesName,
    FusionNetwork,
    FusionNetworkSettings,
    StreamsName,
    TemporalHeadName,
)
from actionfusion.models.heads import HeadName
from actionfusion.models.layer_norm_lstm import NormName
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.reduction import ConvReduceName

VariantName = Literal["conv_l", "fc_1", "fc_2", "fusion_1", "fusion_2"]

_PARTS: dict[VariantName, tuple[BranchesName, TemporalHeadName]] = {
    "conv_l": ("conv", "single"),
    "fc_1": ("fc", "single"),
    "fc_2": ("fc", "lstm"),
    "fusion_1": ("both", "single"),
    "fusion_2": ("both", "lstm"),
}


@dataclass(frozen=True)
class TwoStreamLSTMSettings(FusionNetworkSettings):
    """Settings of the two-stream LSTM.  The defaults are for real use on a light backbone.

    Args:
        num_classes: K, classes to tell apart.
        frames: T, sampled frames of a clip; the network takes any number.
        image_size: height and width of the frames, in pixels.
        flow_channels: 2L, channels of the flow input.
        streams: rgb (the paper), flow, or both.
        backbone: efficientnet_lite0, vgg16 (the paper), narrow, timm:NAME, or the widths of a VGG.
        batch_norm: normalise after each convolution of a VGG, for training from scratch.
        fusion: of both streams; see the model fusion, as for the next four.
        fusion_time_kernel: sampled frames that conv3d joins.
        fusion_space_kernel: height and width of the kernel of conv3d and conv2d.
        fusion_rgb_share: part of the picture's map in their start.
        variant: conv_l, fc_1, fc_2, fusion_1 or fusion_2 (the paper's best).
        branches: follows the variant.
        conv_reduce: how the LSTM sees X_conv: flatten, pool (2x2 max, then flatten), average, or max.
        fc6_width: units of X_fc (4096 in VGG-16).
        temporal_head: follows the variant.
        hidden: units of each LSTM.
        merge_dim: width of a linear map before the last LSTM; 0 has none.
        norm: none (the paper), tf, gates, ba or batch.
        norm_inputs: layer-norm X_conv and X_fc.
        norm_streams: layer-norm what is read of each stream apart.
        head: linear (the paper), scaled or literal.
        dropout_fc6: share of X_fc that training drops.
        dropout_last: share of the last LSTM's output that training drops.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    streams: StreamsName = "rgb"
    backbone: BackboneName = "efficientnet_lite0"
    variant: VariantName = "fusion_2"
    conv_reduce: ConvReduceName = "average"
    fc6_width: int = 256
    hidden: int = 256
    norm: NormName = "none"
    head: HeadName = "linear"

    def __post_init__(self) -> None:
        for name, value in zip(("branches", "temporal_head"), _PARTS.get(self.variant, ()), strict=False):
            if getattr(self, name) not in (value, getattr(FusionNetworkSettings, name)):
                reason = f"{getattr(self, name)!r} is not what {self.variant} has"
                raise SettingsError(f"network.{name}", reason, "leave it out, and choose network.variant")
            object.__setattr__(self, name, value)
        super().__post_init__()

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings on VGG-16 with its fc6; the LSTMs' size is ours, since we could not see the paper's.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        sizes = {"backbone": "vgg16", "conv_reduce": "pool", "fc6_width": 4096}
        return cls(num_classes=num_classes, **{**sizes, **changes})


class TwoStreamLSTM(FusionNetwork):
    """The two-stream LSTM of Gammulle et al. 2017.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = TwoStreamLSTMSettings
    source: ClassVar[Source] = Source(
        "Gammulle, Denman, Sridharan and Fookes, Two stream LSTM: a deep fusion framework for human action "
        "recognition, WACV 2017",
        kept="the last convolution and the first fully connected layer of one network of RGB, and all five ways of "
        "joining them by LSTMs",
        differs="how the paper feeds the convolution's map to an LSTM, and the LSTMs' size, could not be seen; here "
        "the map is averaged by default",
        published={
            "ucf11": "94.6 % (fusion_2, leave one group out)",
            "ucfsports": "99.1 % (fusion_2, leave one video out)",
        },
    )
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"variant": name} for name in ("conv_l", "fc_1", "fc_2", "fusion_1", "fusion_2")
    }
    settings: TwoStreamLSTMSettings
